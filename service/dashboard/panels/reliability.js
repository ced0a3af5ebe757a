// Calls that failed, models that stood in, latencies, and breakers.

import { getIfThere } from "../api.js";
import { h, table } from "../dom.js";
import { count, percent, seconds } from "../format.js";
import { dot } from "../marks.js";
import { colourOf } from "../palette.js";
import { NO_TRAFFIC, traffic } from "./shares.js";

const sum = (points, model, name) => points.reduce((total, point) => total + (point.models[model]?.[name] ?? 0), 0);
const last = (points, model, name) => points.map((point) => point.models[model]?.[name]).findLast((value) => typeof value === "number");

export default {
  id: "reliability",
  title: "Reliability and breakers",
  about: "Calls that failed, requests another model had to answer, and how long calls take.",
  everyS: 15,
  async load(range) {
    const [found, breakers] = await Promise.all([traffic(range), getIfThere("/v1/breakers")]);
    return { ...found, breakers };
  },
  empty: ({ points }) => (points.length ? null : NO_TRAFFIC),
  draw: ({ points, models, breakers }) => [
    table(
      "Reliability by model",
      ["model", "requests#", "failed#", "share#", "fallbacks#", "p50#", "p95#"],
      models.map((model) => {
        const [decisions, failures] = [sum(points, model, "decisions"), sum(points, model, "failures")];
        return [
          h("span", {}, dot(colourOf(model)), model),
          count(decisions),
          count(failures),
          percent(decisions + failures ? failures / (decisions + failures) : 0),
          count(sum(points, model, "fallbacks")),
          seconds(last(points, model, "p50_s")),
          seconds(last(points, model, "p95_s")),
        ];
      }),
    ),
    h("p", { class: "hint" }, "p50 and p95: of the latest hour that has any."),
    h("h3", {}, "Breakers"),
    breakers
      ? table("Breakers", ["model", "state", "since"], breakers.breakers.map((one) => [one.model, one.state, one.since ?? "–"]))
      : h("p", { class: "hint" }, "This version has no circuit breakers: a call that fails is passed to the next model of the plan."),
  ],
};
