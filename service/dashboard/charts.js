// Curves and bars over time, and densities, drawn by uPlot. Each picture has words for those who do not see it.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { h } from "./dom.js";
import { brief } from "./format.js";
import { themed } from "./palette.js";

const HEIGHT = 220;

function placed(label, options, data) {
  const holder = h("div", { class: "chart", "data-chart": true, role: "img", "aria-label": label });
  let plot = null;
  const width = () => Math.max(holder.clientWidth, 200);
  const watcher = new ResizeObserver(() => {
    if (!holder.isConnected) {
      watcher.disconnect();
      plot?.destroy();
      return;
    }
    if (plot && plot.width !== width()) plot.setSize({ width: width(), height: HEIGHT });
  });
  holder.addEventListener("placed", () => {
    plot = new uPlot({ width: width(), height: HEIGHT, ...options }, data, holder);
    watcher.observe(holder);
  });
  return holder;
}

function axes(valueLabel, format, { time }) {
  const line = themed("line");
  const style = { stroke: themed("text"), grid: { stroke: line, width: 1 }, ticks: { stroke: line } };
  return [
    { ...style, size: time ? 52 : 34 }, // times have their date below them
    { ...style, label: valueLabel, values: (_, found) => found.map(format), size: 62, labelSize: 20 },
  ];
}

// Lines over time. `series`: [{ label, values, colour, dash, fill }]; `bands`: [[upper, lower, colour]], places in it.
export function lines(label, at, series, { valueLabel, format = String, range, bands = [], time = true } = {}) {
  const few = at.length < 40;
  return placed(
    label,
    {
      legend: { show: true, live: at.length > 1 },
      cursor: { y: false, drag: { x: false, y: false } },
      scales: { x: { time }, y: range ? { range } : {} },
      axes: axes(valueLabel, format, { time }),
      bands: bands.map(([upper, lower, colour]) => ({ series: [upper + 1, lower + 1], fill: `${colour}33` })),
      series: [
        time ? {} : { label: "at", value: (_, value) => (value === null ? "–" : value.toFixed(2)) },
        ...series.map((one) => ({
          label: brief(one.label),
          stroke: one.colour,
          dash: one.dash,
          fill: one.fill,
          width: one.width ?? 2,
          points: { show: few && !one.bare, size: 6 },
          value: (_, value) => (value === null || value === undefined ? "–" : format(value)),
        })),
      ],
    },
    [at, ...series.map((one) => one.values)],
  );
}

// Bars that stand on each other, one each `step` seconds, some of which may be missing. Each is drawn from the bottom up to its sum, the highest first, so the rest stays seen.
export function stacked(label, at, series, { valueLabel, format, range, step }) {
  const sums = [];
  let below = at.map(() => 0);
  for (const one of series) {
    below = below.map((sum, index) => sum + (one.values[index] ?? 0));
    sums.push(below);
  }
  const bars = uPlot.paths.bars({ size: [0.9, 60] });
  const drawn = series.map((one, index) => ({
    label: brief(one.label),
    stroke: themed("card"),
    width: 1,
    fill: one.colour,
    paths: bars,
    points: { show: false },
    value: (_, __, ___, place) => (place === null ? "–" : format(one.values[place] ?? 0)),
    sums: sums[index],
  }));
  drawn.reverse();
  return placed(
    label,
    {
      legend: { show: true, live: true, markers: { fill: (_, place) => drawn[place - 1]?.fill ?? "transparent" } },
      cursor: { y: false, drag: { x: false, y: false } },
      scales: { x: { range: [at[0] - step / 2, at[at.length - 1] + step / 2] }, y: { range } },
      axes: axes(valueLabel, format, { time: true }),
      series: [{}, ...drawn.map(({ sums: _, ...rest }) => rest)],
    },
    [at, ...drawn.map((one) => one.sums)],
  );
}

// The density of Beta(alpha, beta) at each x, scaled to area one by adding up: no gamma function is needed.
export function betaDensity(alpha, beta, xs) {
  const logs = xs.map((x) => (alpha - 1) * Math.log(x) + (beta - 1) * Math.log(1 - x));
  const most = Math.max(...logs);
  const raw = logs.map((value) => Math.exp(value - most));
  const area = raw.reduce((sum, value) => sum + value, 0) * (xs[1] - xs[0]);
  return raw.map((value) => value / area);
}
