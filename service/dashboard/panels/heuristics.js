// What the automatic checks find, and how far people's ratings confirm them.

import { get } from "../api.js";
import { h, table } from "../dom.js";
import { count, fixed, percent, time } from "../format.js";
import { modelMark } from "../marks.js";

const HOW =
  "Sensitivity: reads well, of those rated well. False positives: reads well, of those rated badly. " +
  "J is their difference: 0 says nothing, 1 everything.";

function mean(found) {
  if (!found) return "–";
  return fixed(found.mean, 2) + (found.standard_error === null ? "" : ` ± ${fixed(found.standard_error, 2)}`);
}

export default {
  id: "heuristics",
  title: "Heuristics",
  about: "How often each automatic check fired, and how well the checks agree with labels.",
  everyS: 120,
  wide: true,
  load: () => get("/v1/heuristics"),
  empty: (found) => (found.replies ? null : "No reply was read yet."),
  draw(found) {
    const learned = found.weights_learned_at
      ? `learned ${time(found.weights_learned_at)} from ${count(found.weights_learned_from)} labelled calls`
      : "from the settings";
    const checks = [
      h("h3", {}, "Checks"),
      table(
        "Heuristics",
        ["check", "kind", "fired#", "share#", "weight#"],
        found.heuristics.map((one) => [one.name, one.kind, count(one.fired), percent(one.share), fixed(one.effect, 2)]),
      ),
    ];
    const calibration = [
      h("h3", {}, "Calibration"),
      h("p", { class: "hint" }, HOW),
      table(
        "Calibration of the readings",
        ["task type", "labels#", "sensitivity#", "false positives#", "J#"],
        found.accuracy.map((one) => [
          one.task_type,
          count(one.labelled_calls),
          percent(one.sensitivity),
          percent(one.false_positive_rate),
          fixed(one.j, 2),
        ]),
      ),
    ];
    const rated = [
      h("h3", {}, "How good people say replies are"),
      h("p", { class: "hint" }, "Mean rating ± its standard error, of the newest replies."),
      table(
        "Rated quality by model",
        ["model", "by labels#", "with readings#", "by those asked#", "at equal length#"],
        found.quality.map((one) => [
          modelMark(one.model),
          mean(one.by_labels),
          mean(one.with_readings),
          mean(one.by_asked),
          fixed(one.at_equal_length, 2),
        ]),
      ),
      found.label_rate_alarms.length
        ? h("p", { class: "bad" }, `Rated unusually often or rarely: ${found.label_rate_alarms.join(", ")}.`)
        : null,
    ];
    return [
      h("p", {}, `On the newest ${count(found.replies)} replies at ${time(found.counted_at)}; weights ${learned}.`),
      h("div", { class: "columns" }, h("div", {}, checks), h("div", {}, calibration)),
      rated,
    ];
  },
};
