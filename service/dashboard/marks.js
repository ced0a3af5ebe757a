// Pictures of a few numbers: intervals, bars, points with two intervals, and what happened when.

import { h, s } from "./dom.js";
import { brief } from "./format.js";
import { colourOf, themed } from "./palette.js";

const at = (share) => `${(100 * Math.min(Math.max(share, 0), 1)).toFixed(2)}%`;

// A model's name beside its colour.
export const modelMark = (name) =>
  h(
    "span",
    { class: "model" },
    h("span", { class: "dot", style: { background: colourOf(name) }, "aria-hidden": "true" }),
    name,
  );

// An interval on a scale from `least` to `most`, with its middle.
export function intervalMark(low, middle, high, colour, [least, most] = [0, 1]) {
  const share = (value) => (value - least) / (most - least || 1);
  return h(
    "span",
    { class: "track", "aria-hidden": "true" },
    h("span", {
      class: "whisker",
      style: { left: at(share(low)), width: at(share(high) - share(low)), background: colour },
    }),
    h("span", { class: "middle", style: { left: at(share(middle)), background: colour } }),
  );
}

// A bar of a share between 0 and 1.
export const bar = (share, colour) =>
  h(
    "span",
    { class: "track", "aria-hidden": "true" },
    h("span", { class: "bar", style: { width: at(share), background: colour } }),
  );

function niceTicks(least, most, wanted) {
  const raw = (most - least) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const ticks = [];
  for (let tick = Math.ceil(least / step) * step; tick <= most + step / 1e6; tick += step) ticks.push(tick);
  return ticks;
}

// Ticks between powers of ten: 1, 2, 5, or where there is no room for those, 1 alone.
function powers(least, most, wanted) {
  const within = (steps) => {
    const ticks = [];
    for (let power = Math.floor(least); power <= most; power += 1)
      ticks.push(...steps.map((step) => step * 10 ** power));
    return ticks.filter((tick) => tick >= 10 ** least && tick <= 10 ** most);
  };
  const fine = within([1, 2, 5]);
  return fine.length <= wanted ? fine : within([1]);
}

const LETTER = 6.8; // pixels, roughly
const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

// Points that no other one beats in both come first: where names do not all find room, theirs do.
function efficientFirst(points) {
  const beaten = (one) => points.some((other) => other.x <= one.x && other.y > one.y);
  return [...points].sort((a, b) => beaten(a) - beaten(b) || b.y - a.y);
}

// Points with an interval upwards: [{ name, x, y, low, high, colour }]. Drawn for the width it gets; a name for which
// there is no room is told by the table beside it.
export function scatter(label, points, { xLabel, yLabel, xFormat, yFormat }) {
  const holder = h("div", { class: "chart", "data-chart": true, role: "img", "aria-label": label });
  const draw = () => {
    const [width, height, left, right, top, bottom] = [Math.max(holder.clientWidth, 200), 260, 62, 24, 12, 44];
    const xs = points.map((point) => point.x);
    const ys = points.flatMap((point) => [point.low, point.high]);
    const log = Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 20;
    const scaled = (x) => (log ? Math.log10(x) : x);
    let [least, most] = log ? [scaled(Math.min(...xs)), scaled(Math.max(...xs))] : [0, Math.max(...xs) * 1.1 || 1];
    if (log) [least, most] = [least - 0.15, most + 0.15];
    const pad = (Math.max(...ys) - Math.min(...ys)) * 0.1 || 0.05;
    const [low, high] = [Math.max(0, Math.min(...ys) - pad), Math.min(1, Math.max(...ys) + pad)];
    const px = (x) => left + ((scaled(x) - least) / (most - least || 1)) * (width - left - right);
    const py = (y) => height - bottom - ((y - low) / (high - low || 1)) * (height - top - bottom);
    const xTicks = log ? powers(least, most, width / 90) : niceTicks(least, most, Math.max(2, Math.floor(width / 140)));
    const text = (content, x, y, anchor) =>
      s("text", { x, y, "text-anchor": anchor, fill: themed("text"), "font-size": 12 }, content);
    const line = (x1, y1, x2, y2, stroke, size = 1) => s("line", { x1, y1, x2, y2, stroke, "stroke-width": size });
    const parts = [];
    for (const tick of niceTicks(low, high, 5)) {
      parts.push(
        line(left, py(tick), width - right, py(tick), themed("line")),
        text(yFormat(tick), left - 6, py(tick) + 4, "end"),
      );
    }
    for (const tick of xTicks) {
      parts.push(
        line(px(tick), top, px(tick), height - bottom, themed("line")),
        text(xFormat(tick), px(tick), height - bottom + 16, "middle"),
      );
    }
    parts.push(text(xLabel, (left + width - right) / 2, height - 8, "middle"), text(yLabel, 4, top, "start"));
    const taken = [];
    for (const point of efficientFirst(points)) {
      const [x, y] = [px(point.x), py(point.y)];
      const atRight = x > width * 0.7;
      const name = brief(point.name, 22);
      const from = atRight ? x - 10 - name.length * LETTER : x + 10;
      const box = { left: from, right: from + name.length * LETTER, top: y - 20, bottom: y - 4 };
      parts.push(
        line(x, py(point.low), x, py(point.high), point.colour, 3),
        s(
          "circle",
          { cx: x, cy: y, r: 6, fill: point.colour, stroke: themed("card"), "stroke-width": 2 },
          s("title", {}, point.name),
        ),
      );
      if (taken.some((one) => overlap(one, box))) continue;
      taken.push(box);
      parts.push(text(name, x + (atRight ? -10 : 10), y - 8, atRight ? "end" : "start"));
    }
    holder.replaceChildren(
      s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, parts),
    );
  };
  let drawnWidth = 0;
  const watcher = new ResizeObserver(() => {
    if (!holder.isConnected) watcher.disconnect();
    else if (holder.clientWidth !== drawnWidth) {
      drawnWidth = holder.clientWidth;
      draw();
    }
  });
  holder.addEventListener("placed", () => watcher.observe(holder));
  return holder;
}

// What happened when, a line for each name: [{ name, at, sign, colour, text }] between two times.
export function timeline(label, events, since, until) {
  const names = [...new Set(events.map((event) => event.name))];
  const row = (name) =>
    h(
      "div",
      { class: "timeline-row" },
      h("span", { class: "timeline-name" }, name),
      h(
        "span",
        { class: "timeline-track" },
        events
          .filter((event) => event.name === name)
          .map((event) =>
            h(
              "span",
              {
                class: "event",
                style: { left: at((event.at - since) / (until - since || 1)), color: event.colour },
                title: event.text,
              },
              event.sign,
            ),
          ),
      ),
    );
  return h("div", { class: "timeline", role: "img", "aria-label": label }, names.map(row));
}
