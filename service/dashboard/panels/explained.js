// One decision, step by step: what was read, who could serve, what each offered, the draw, the calls, the outcome.

import { get } from "../api.js";
import { h, table } from "../dom.js";
import { count, fixed, percent, seconds, time, usd } from "../format.js";
import { bar, modelMark } from "../marks.js";
import { plain, colourOf } from "../palette.js";

const NO_LIMITS = {
  allow: "",
  deny: "",
  needs: "",
  min_tier: "small",
  max_cost_usd: "",
  sensitive: false,
  explore: true,
};
const step = (title, ...children) => h("li", {}, h("h4", {}, title), ...children);
const words = (name) => name.replaceAll("_", " ");
const facts = (rows) =>
  h(
    "dl",
    { class: "facts" },
    rows
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );

function features({ profile, classified, classify_s: classifyS, caller, limits }) {
  const scores = Object.entries(profile.scores ?? {}).map(([name, value]) => [
    words(name),
    bar(value, plain()),
    fixed(value, 2),
  ]);
  const wishes = Object.entries(limits ?? {}).filter(
    ([name, value]) => String(value ?? "") !== String(NO_LIMITS[name] ?? ""),
  );
  return [
    facts([
      ["task type", profile.task_type],
      ["tier", profile.tier],
      ["complexity", fixed(profile.complexity, 2)],
      ["classifier", classified?.classifier ?? profile.classifier],
      ["prompt tokens", count(profile.prompt_tokens)],
      ["cues", (profile.cues ?? []).join(", ")],
      ["read in", seconds(classifyS)],
      ["user", caller?.user],
      ["session", caller?.session],
    ]),
    table("Features of the prompt", ["feature", "0 to 1", "value#"], scores),
    wishes.length
      ? h("p", { class: "hint" }, `Limits: ${wishes.map(([name, value]) => `${words(name)} ${value}`).join("; ")}.`)
      : null,
  ];
}

function eligible({ choice, excluded, breakers_ignored: ignored }) {
  const reasons = Object.entries(excluded ?? {});
  return [
    h(
      "p",
      {},
      "Could serve: ",
      choice.arms.map((model, index) => [index ? ", " : "", modelMark(model)]),
    ),
    ignored?.length
      ? h(
          "p",
          { class: "hint" },
          "No other model was left, so those with an open circuit breaker were let in: ",
          ignored.map((model, index) => [index ? ", " : "", modelMark(model)]),
          ".",
        )
      : null,
    reasons.length
      ? table(
          "Excluded models",
          ["excluded", "why"],
          reasons.map(([model, why]) => [modelMark(model), why]),
        )
      : h("p", {}, "Nobody was excluded."),
  ];
}

function offers({ trade, choice }) {
  if (!trade?.length)
    return h("p", {}, "This policy does not weigh quality for money, or what it knew is no longer stored.");
  const dearest = trade.reduce((most, row) => (row.cost_usd > most.cost_usd ? row : most));
  const paid = dearest.quality - (choice.terms?.late_price ?? 0) * dearest.late - dearest.worth;
  const price =
    paid > 1e-9
      ? `A dollar cost ${fixed(paid / dearest.cost_usd, 2)} quality points.`
      : "Money had no price: the best quality wins.";
  return [
    h("p", {}, price),
    table(
      "What each model offered",
      ["model", "quality#", "±#", "cost#", "late#", "worth#"],
      trade.map((row) => [
        modelMark(row.arm),
        fixed(row.quality),
        fixed(row.sd),
        usd(row.cost_usd),
        percent(row.late),
        fixed(row.worth),
      ]),
    ),
  ];
}

const draw = (told) => [
  table(
    "Probabilities",
    ["model", "0 to 1", "probability#"],
    told.choice.arms.map((model, index) => [
      model === told.choice.arm ? h("strong", {}, modelMark(model), " (drawn)") : modelMark(model),
      bar(told.choice.probabilities[index], colourOf(model)),
      fixed(told.choice.probabilities[index], 4),
    ]),
  ),
  h(
    "p",
    {},
    `Drawn with probability ${fixed(told.choice.propensity, 4)} by ${told.choice.policy} (${words(told.method)}). `,
    told.choice.reason,
  ),
  facts([
    ["tried in this order", told.plan.join(" → ")],
    ["decided in", seconds(told.decide_s)],
    ["most exploration", told.max_explore < 1 ? percent(told.max_explore) : null],
    ["experiment", told.experiment ? `${told.experiment}: ${told.variant}` : null],
  ]),
];

const calls = ({ attempts, served_arm: served }) =>
  attempts.length
    ? [
        table(
          "Calls to providers",
          ["model", "outcome", "time#", "tokens in#", "out#", "cost#"],
          attempts.map((one) => [
            modelMark(one.arm),
            one.error || one.outcome,
            seconds(one.latency_s),
            count(one.prompt_tokens),
            count(one.completion_tokens),
            usd(one.cost_usd),
          ]),
        ),
        h("p", {}, "Answered by ", modelMark(served), "."),
      ]
    : h("p", {}, "No call is stored yet.");

const rewards = ({ rewards: given }) =>
  given.length
    ? table(
        "What was said of the reply",
        ["source", "metric", "kind", "value#", "weight#", "comment"],
        given.map((one) => [
          one.source,
          one.metric,
          one.channel,
          fixed(one.value, 2),
          fixed(one.weight, 2),
          one.comment || "–",
        ]),
      )
    : h("p", {}, "Nobody said anything of it yet.");

const repeated = ({ repeated: again }) =>
  h(
    "p",
    {},
    again.same
      ? "Taken again from what was stored: the same, bit for bit."
      : `It cannot be repeated: ${again.why ?? "another choice came out"}.`,
  );

export async function explained(id) {
  const told = await get(`/v1/decisions/${encodeURIComponent(id)}`);
  const cost = told.attempts.reduce((sum, one) => sum + one.cost_usd, 0);
  return h(
    "article",
    { class: "explained" },
    h("h3", { tabindex: "-1" }, `Decision ${told.id}`),
    h("p", {}, `${time(told.created_at)}: `, modelMark(told.served_arm), ` answered for ${usd(cost)}.`),
    h(
      "ol",
      { class: "steps" },
      step("What was read of the prompt", features(told)),
      step("Who could serve", eligible(told)),
      step("What each offered", offers(told)),
      step("The draw", draw(told)),
      step("The calls", calls(told)),
      step("The outcome", rewards(told)),
      step("Again", repeated(told)),
    ),
  );
}
