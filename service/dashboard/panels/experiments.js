// A/B experiments: each with its verdict, its sides, its confidence sequence over time, and its next steps.

import { getIfThere, post } from "../api.js";
import { lines } from "../charts.js";
import { action } from "../confirm.js";
import { choice, figures, h, option, table } from "../dom.js";
import { count, fixed, interval, percent, signed, time } from "../format.js";
import { plain, rest } from "../palette.js";

// What may be done in which state, and what it does.
const STEPS = {
  start: "Requests are given to the variants from now on.",
  pause: "Nobody is given to a variant until it is started again; what was measured stays.",
  stop: "It ends for good. What was measured stays, and it can be decided then.",
  decide: "The policy of the chosen variant serves the experiment's population from now on, or nothing changes.",
  archive: "It leaves the list of those that stand. A policy that it shipped ends with it.",
};
const ALLOWED = {
  created: ["start", "archive"],
  running: ["pause", "stop"],
  paused: ["start", "stop"],
  stopped: ["decide", "archive"],
  decided: ["archive"],
};

const capital = (word) => word[0].toUpperCase() + word.slice(1);
const path = (name, rest) => `/v1/experiments/${encodeURIComponent(name)}/${rest}`;
const range = (found) => (typeof found.low === "number" ? interval(found.low, found.high, 3) : "–");

// How the difference of one variant to the control went.
function course(name, variant, looks) {
  const rows = looks.filter((look) => look.variant === variant && typeof look.low === "number");
  if (!rows.length) return h("p", { class: "hint" }, `${variant}: too little is known for an interval yet.`);
  const column = (key) => rows.map((row) => row[key]);
  const last = rows[rows.length - 1];
  const zero = { label: "none", values: rows.map(() => 0), colour: rest(), dash: [2, 4], width: 1, bare: true };
  const words = `${signed(last.estimate)} ${range(last)} on ${count(last.units)} units`;
  return [
    lines(
      `Difference of ${variant} to the control in ${name}, ${count(rows.length)} looks. Latest: ${words}.`,
      column("at"),
      [
        { label: "high", values: column("high"), colour: plain(), width: 1, bare: true },
        { label: "difference", values: column("estimate"), colour: plain() },
        { label: "low", values: column("low"), colour: plain(), width: 1, bare: true },
        zero,
      ],
      { valueLabel: `${variant} less control`, format: (value) => signed(value), bands: [[0, 2, plain()]] },
    ),
    figures(
      `Looks at ${name}: ${variant}`,
      ["time", "units#", "difference#", "interval#"],
      rows.map((row) => [time(row.at), count(row.units), signed(row.estimate), range(row)]),
    ),
  ];
}

function sides({ experiment, report }) {
  const metric = experiment.primary.name;
  return table(
    "Variants",
    ["variant", "policy", "units#", "planned#", "with feedback#", `${metric}#`],
    report.sides.map((side) => [
      side.variant + (side.variant === experiment.control ? " (control)" : ""),
      experiment.variants.find((variant) => variant.name === side.variant)?.policy,
      count(side.units),
      percent(side.share),
      percent(side.feedback_rate),
      fixed(side.metrics[metric]),
    ]),
  );
}

const guardrails = ({ report }) => {
  const rows = report.comparisons.flatMap((one) =>
    one.guardrails.map((guarded) => [
      one.variant,
      guarded.metric,
      signed(guarded.value),
      range(guarded),
      signed(guarded.limit),
      guarded.state,
    ]),
  );
  return rows.length
    ? table("Guardrails", ["variant", "guardrail", "difference#", "interval#", "limit#", "state"], rows)
    : null;
};

const told = (found) => [
  h("p", {}, h("strong", {}, found.sentence)),
  sides(found),
  guardrails(found),
  found.report.comparisons.map((one) => course(found.experiment.name, one.variant, found.looks)),
  h(
    "p",
    { class: "hint" },
    `${count(found.closed_units)} units are closed, ${count(found.open_units)} are not yet. `,
    `Evidence against the planned shares: ${fixed(found.report.sample_ratio_evidence, 2)}; an alarm above 1,000. `,
    capital(`${found.mode}.`),
  ),
];

function steps(one, reload) {
  const ship = choice("Ship", [
    option("", "nothing"),
    ...one.variants.map(({ name, policy }) => option(name, `${name} (${policy})`)),
  ]);
  const chosen = () => ship.querySelector("select").value;
  const allowed = ALLOWED[one.state] ?? [];
  const buttons = allowed.map((step) =>
    action(capital(step), {
      what: () => `${capital(step)} ${one.name}${step === "decide" ? `: ship ${chosen() || "nothing"}` : ""}?`,
      consequence: () => STEPS[step],
      danger: ["stop", "decide", "archive"].includes(step),
      note: true,
      run: (note) => post(path(one.name, step), step === "decide" ? { note, ship: chosen() } : { note }),
      done: reload,
    }),
  );
  return h("div", { class: "buttons" }, allowed.includes("decide") ? ship : null, buttons);
}

export default {
  id: "experiments",
  title: "Experiments",
  about:
    "Policies beside each other on the same traffic. Intervals hold at every look: watch them as often as you like.",
  everyS: 60,
  wide: true,
  async load() {
    const found = await getIfThere("/v1/experiments");
    if (!found) return null;
    const standing = found.experiments.filter((one) => one.state !== "archived");
    const reports = standing.map((one) => (one.started_at === null ? null : getIfThere(path(one.name, "report"))));
    const all = await Promise.all(reports);
    return standing.map((one, index) => ({ ...one, found: all[index] }));
  },
  empty(found) {
    if (!found) return "This version has no experiments.";
    return found.length
      ? null
      : "No experiment stands. Make one with armwise experiment create, or POST /v1/experiments.";
  },
  draw: (found, _, reload) =>
    found.map((one) =>
      h(
        "article",
        { class: "experiment" },
        h("h3", {}, one.name, " ", h("span", { class: "badge" }, one.state)),
        one.found ? told(one.found) : h("p", {}, "Nothing was measured yet."),
        steps(one, reload),
      ),
    ),
};
