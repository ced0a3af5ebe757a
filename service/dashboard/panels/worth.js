// What routing is worth beside always the best single model.

import { h } from "../dom.js";
import { fixed, percent, signed, usd } from "../format.js";
import { intervalMark } from "../marks.js";
import { plain } from "../palette.js";
import { routedOver, statsAndCells } from "./believed.js";
import { NO_TRAFFIC } from "./shares.js";

// An interval on a scale whose middle is 0: to the right, routing gains.
function scale(low, value, high) {
  const size = Math.max(Math.abs(low), Math.abs(high), 0.01);
  return h(
    "div",
    { class: "scale" },
    intervalMark(low, value, high, plain(), [-size, size]),
    h("p", { class: "ends" }, h("span", {}, signed(-size, 2)), h("span", {}, "0"), h("span", {}, signed(size, 2))),
  );
}

// What was measured by the permanent holdout, where there is one.
function measured(holdout) {
  if (!holdout)
    return h("p", { class: "hint" }, "Not measured: that needs a permanent holdout ([holdout] in the settings).");
  const words = h("p", {}, `Measured: ${holdout.sentence}`);
  if (typeof holdout.low !== "number") return words;
  return [h("p", { class: "headline" }, signed(holdout.value)), words, scale(holdout.low, holdout.value, holdout.high)];
}

// What is believed: the models that answered, beside each one alone on the same mix of task types.
function believed(stats, cells) {
  const found = routedOver(stats, cells);
  if (!found) return h("p", {}, "Nothing is believed of the models that answered.");
  const used = stats.models[found.best];
  const own = stats.calls ? stats.cost_usd / stats.calls : null;
  const fixedCost = used?.calls ? used.cost_usd / used.calls : null;
  return [
    h("h3", {}, "As believed from what was learned"),
    h("p", { class: "headline" }, signed(found.gain)),
    scale(found.low, found.gain, found.high),
    h("p", {}, `95 %: ${signed(found.low)} to ${signed(found.high)}`),
    h(
      "p",
      {},
      `quality: ${fixed(found.routed)} as routed, ${fixed(found.alone)} by `,
      h("strong", {}, found.best),
      " alone, on the same mix of task types",
    ),
    fixedCost
      ? h(
          "p",
          {},
          `cost: ${usd(own)} a request as routed, ${usd(fixedCost)} a request that it answered `,
          `(${percent(own / fixedCost)})`,
        )
      : h("p", {}, `${found.best} answered nothing in this time, so its cost is not known.`),
    h(
      "p",
      { class: "hint" },
      "An estimate that trusts the posteriors, and compares with the model that looks best: the holdout measures.",
    ),
  ];
}

export default {
  id: "worth",
  title: "Value over the best fixed model",
  about: "What is gained by routing, in quality points between 0 and 1.",
  everyS: 30,
  load: statsAndCells,
  empty: ({ stats }) => (stats.calls ? null : NO_TRAFFIC),
  draw: ({ stats, cells }) => [measured(stats.holdout), believed(stats, cells)],
};
