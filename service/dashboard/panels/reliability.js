// Calls that failed, models that stood in, latencies, and breakers.

import { h, table } from "../dom.js";
import { count, percent, seconds } from "../format.js";
import { modelMark } from "../marks.js";
import { NO_TRAFFIC, traffic } from "./shares.js";

const sum = (points, model, name) => points.reduce((total, point) => total + (point.models[model]?.[name] ?? 0), 0);
const last = (points, model, name) =>
  points.map((point) => point.models[model]?.[name]).findLast((value) => typeof value === "number");

export default {
  id: "reliability",
  title: "Reliability and breakers",
  about: "Calls that failed, requests another model had to answer, and how long calls take.",
  everyS: 15,
  load: traffic,
  empty: ({ points }) => (points.length ? null : NO_TRAFFIC),
  draw: ({ points, models }) => [
    table(
      "Reliability by model",
      ["model", "requests#", "failed#", "share#", "fallbacks#", "p50#", "p95#"],
      models.map((model) => {
        const [decisions, failures] = [sum(points, model, "decisions"), sum(points, model, "failures")];
        return [
          modelMark(model),
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
    h(
      "p",
      { class: "hint" },
      "This version has no circuit breakers: a call that fails is passed to the next model of the plan.",
    ),
  ],
};
