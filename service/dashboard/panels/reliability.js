// Calls that failed, models that stood in, latencies, and breakers.

import { get, post } from "../api.js";
import { action } from "../confirm.js";
import { h, table } from "../dom.js";
import { count, percent, seconds, time } from "../format.js";
import { modelMark } from "../marks.js";
import { NO_TRAFFIC, traffic } from "./shares.js";

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

const calls = (models, whole) => [
  table(
    "Reliability by model",
    ["model", "requests#", "calls#", "failed#", "share#", "fallbacks#", "p50#", "p95#"],
    models.map((model) => {
      const { decisions, calls: made, failures, fallbacks, p50_s: p50, p95_s: p95 } = whole[model];
      return [
        modelMark(model),
        count(decisions),
        count(made),
        count(failures),
        percent(made ? failures / made : null),
        count(fallbacks),
        seconds(p50),
        seconds(p95),
      ];
    }),
  ),
  h(
    "p",
    { class: "hint" },
    "Requests that it answered; calls to it, of which the share failed. p50 and p95: half, and 95 %, of the calls that " +
      "succeeded took less.",
  ),
];

export default {
  id: "reliability",
  title: "Reliability and breakers",
  about: "Calls that failed, requests another model had to answer, and how long calls take.",
  everyS: 15,
  wide: true,
  async load(range) {
    const [found, breakers] = await Promise.all([traffic(range), get("/v1/breakers")]);
    return { ...found, breakers };
  },
  draw: ({ models, whole, breakers }, _, reload) => [
    models.length ? calls(models, whole) : h("p", { class: "message" }, NO_TRAFFIC),
    h("h3", {}, "Breakers"),
    breakers.enabled
      ? [
          h("p", { class: "hint" }, "Of the process that answered; other workers and replicas have their own."),
          switches(breakers.breakers, reload),
        ]
      : h("p", { class: "hint" }, "Breakers are switched off in the settings ([breakers] enabled)."),
  ],
};
