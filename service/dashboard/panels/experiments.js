// A/B experiments: each with its verdict and its confidence sequence over time.

import { getIfThere, post } from "../api.js";
import { lines } from "../charts.js";
import { action } from "../confirm.js";
import { figures, h } from "../dom.js";
import { count, interval, signed, time } from "../format.js";
import { PLAIN } from "../palette.js";

// What may be done in a state, in words.
const STEPS = {
  start: "Requests are given to the variants from now on.",
  pause: "All requests go to the policy of the settings; what was measured stays.",
  stop: "The experiment ends for good; what was measured stays.",
};
const ALLOWED = { created: ["start"], running: ["pause", "stop"], paused: ["start", "stop"] };

function looks(name, found) {
  const rows = found?.looks ?? [];
  if (!rows.length) return h("p", { class: "hint" }, "No look was taken yet: units count once their window is over.");
  const column = (key) => rows.map((row) => row[key]);
  const last = rows[rows.length - 1];
  const zero = {
    label: "no difference",
    values: rows.map(() => 0),
    colour: "#8C8C8C",
    dash: [2, 4],
    width: 1,
    bare: true,
  };
  return [
    lines(
      `Difference to the control in ${name} over time, ${count(rows.length)} looks. Latest: ${signed(last.estimate)} ${interval(last.low, last.high, 3)} on ${count(last.units)} units.`,
      column("at"),
      [
        { label: "high", values: column("high"), colour: PLAIN, width: 1, bare: true },
        { label: "estimate", values: column("estimate"), colour: PLAIN },
        { label: "low", values: column("low"), colour: PLAIN, width: 1, bare: true },
        zero,
      ],
      { valueLabel: "difference", format: (value) => signed(value), bands: [[0, 2, PLAIN]] },
    ),
    figures(
      `Looks at ${name}`,
      ["time", "units#", "estimate#", "95 %#"],
      rows.map((row) => [time(row.at), count(row.units), signed(row.estimate), interval(row.low, row.high, 3)]),
    ),
  ];
}

function buttons(one, reload) {
  return (ALLOWED[one.state] ?? []).map((step) =>
    action(step[0].toUpperCase() + step.slice(1), {
      what: () => `${step[0].toUpperCase() + step.slice(1)} the experiment ${one.name}?`,
      consequence: () => STEPS[step],
      danger: step === "stop",
      note: true,
      run: (note) => post(`/v1/experiments/${encodeURIComponent(one.name)}/${step}`, { note }),
      done: reload,
    }),
  );
}

export default {
  id: "experiments",
  title: "Experiments",
  about: "Policies beside each other on the same traffic. The band may be looked at any time: it holds at every look.",
  everyS: 60,
  wide: true,
  async load() {
    const found = await getIfThere("/v1/experiments");
    if (!found) return null;
    const reports = found.experiments.map((one) =>
      getIfThere(`/v1/experiments/${encodeURIComponent(one.name)}/report`),
    );
    const told = await Promise.all(reports);
    return found.experiments.map((one, index) => ({ ...one, report: told[index] }));
  },
  empty(found) {
    if (!found) return "This version has no experiments.";
    return found.length
      ? null
      : "No experiment was made. Make one with armwise experiment create, or POST /v1/experiments.";
  },
  draw: (found, _, reload) =>
    found.map((one) =>
      h(
        "article",
        { class: "experiment" },
        h("h3", {}, one.name, " ", h("span", { class: "badge" }, one.state)),
        h("p", {}, one.report?.report?.sentence ?? one.report?.sentence ?? "No report yet."),
        looks(one.name, one.report),
        h("div", { class: "buttons" }, buttons(one, reload)),
      ),
    ),
};
