// What routing is worth beside always the best single model.

import { h } from "../dom.js";
import { fixed, percent, signed, usd } from "../format.js";
import { intervalMark } from "../marks.js";
import { PLAIN } from "../palette.js";
import { mixOf, qualityOver, statsAndCells } from "./believed.js";
import { NO_TRAFFIC } from "./shares.js";

// What was measured by the permanent holdout, where there is one.
function measured(holdout) {
  if (!holdout)
    return h("p", { class: "hint" }, "Not measured: that needs a permanent holdout ([holdout] in the settings).");
  const words = h("p", {}, `Measured: ${holdout.sentence}`);
  if (typeof holdout.low !== "number") return words;
  const size = Math.max(Math.abs(holdout.low), Math.abs(holdout.high), 0.01);
  return [
    h("p", { class: "headline" }, signed(holdout.value)),
    words,
    intervalMark(holdout.low, holdout.value, holdout.high, PLAIN, [-size, size]),
  ];
}

// What is believed: the models that answered, beside each one alone on the same mix of task types.
function believed(stats, cells) {
  const mix = mixOf(stats);
  const names = [...new Set(cells.map((cell) => cell.model))];
  const alone = names.map((name) => ({ name, found: qualityOver(mix, cells, name) })).filter((one) => one.found);
  const best = alone.sort((a, b) => b.found.mean - a.found.mean)[0];
  let [sum, calls] = [0, 0];
  for (const [name, model] of Object.entries(stats.models)) {
    const found = model.calls ? qualityOver(model.task_types, cells, name) : null;
    if (found) [sum, calls] = [sum + found.mean * model.calls, calls + model.calls];
  }
  if (!best || !calls) return h("p", {}, "Nothing is believed of the models that answered.");
  const used = stats.models[best.name];
  const own = stats.calls ? stats.cost_usd / stats.calls : null;
  const fixedCost = used?.calls ? used.cost_usd / used.calls : null;
  return [
    h("h3", {}, "As believed from what was learned"),
    h("p", { class: "headline" }, signed(sum / calls - best.found.mean)),
    h(
      "p",
      {},
      `quality: ${fixed(sum / calls)} as routed, ${fixed(best.found.mean)} by `,
      h("strong", {}, best.name),
      " alone, on the same mix of task types",
    ),
    fixedCost
      ? h("p", {}, `cost: ${usd(own)} a request as routed, ${usd(fixedCost)} by it alone (${percent(own / fixedCost)})`)
      : h("p", {}, `${best.name} answered nothing in this time, so its cost is not known.`),
    h("p", { class: "hint" }, "An estimate that trusts the posteriors; the holdout measures."),
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
