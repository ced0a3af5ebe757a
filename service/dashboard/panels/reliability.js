// Calls that failed, models that stood in, latencies, and breakers.

import { get, post } from "../api.js";
import { action } from "../confirm.js";
import { h, table } from "../dom.js";
import { count, percent, seconds, time } from "../format.js";
import { modelMark } from "../marks.js";
import { NO_TRAFFIC, traffic } from "./shares.js";

const sum = (points, model, name) => points.reduce((total, point) => total + (point.models[model]?.[name] ?? 0), 0);
const last = (points, model, name) =>
  points.map((point) => point.models[model]?.[name]).findLast((value) => typeof value === "number");

const trial = ({ state, next_trial_at }) => {
  if (state === "closed") return "–";
  return state === "half-open" ? "with the next request" : `in ${seconds(next_trial_at - Date.now() / 1000)}`;
};

// Each breaker, with a button where there is something to close.
const switches = (breakers, reload) =>
  table(
    "Breakers by model",
    ["model", "state", "since", "why", "next trial", "switch"],
    breakers.map((one) => [
      modelMark(one.model),
      one.state,
      time(one.since),
      one.why || "–",
      trial(one),
      one.state === "closed"
        ? "–"
        : action(`Close the breaker of ${one.model}`, {
            what: () => `Close the breaker of ${one.model}?`,
            consequence: () => "It gets requests again at once, from all replicas. If it still fails, it opens again.",
            note: true,
            run: (note) => post("/v1/controls", { action: "close_breaker", model: one.model, note }),
            done: reload,
          }),
    ]),
  );

export default {
  id: "reliability",
  title: "Reliability and breakers",
  about: "Calls that failed, requests another model had to answer, and how long calls take.",
  everyS: 15,
  async load(range) {
    const [found, breakers] = await Promise.all([traffic(range), get("/v1/breakers")]);
    return { ...found, breakers };
  },
  empty: ({ points }) => (points.length ? null : NO_TRAFFIC),
  draw: ({ points, models, breakers }, _, reload) => [
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
    breakers.enabled
      ? [
          h("p", { class: "hint" }, "Of the process that answered; other workers and replicas have their own."),
          switches(breakers.breakers, reload),
        ]
      : h("p", { class: "hint" }, "Breakers are switched off in the settings ([breakers] enabled)."),
  ],
};
