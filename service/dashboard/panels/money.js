// Quality against cost: each model where it stands.

import { figures, h } from "../dom.js";
import { count, fixed, interval, usd } from "../format.js";
import { scatter } from "../marks.js";
import { byOrder, colourOf } from "../palette.js";
import { mixOf, qualityOver, statsAndCells } from "./believed.js";
import { NO_TRAFFIC } from "./shares.js";

export default {
  id: "money",
  title: "Quality against cost",
  about:
    "Believed quality on this time's mix of task types, with its 95 % interval, against the mean cost of a request.",
  everyS: 30,
  load: statsAndCells,
  empty: ({ stats }) => (stats.calls ? null : NO_TRAFFIC),
  draw({ stats, cells }) {
    const mix = mixOf(stats);
    const points = byOrder(Object.keys(stats.models))
      .map((name) => ({ name, ...stats.models[name] }))
      .filter((model) => model.calls)
      .map((model) => ({ ...model, x: model.cost_usd / model.calls, found: qualityOver(mix, cells, model.name) }))
      .filter((point) => point.found)
      .map((point) => ({
        ...point,
        y: point.found.mean,
        low: point.found.low,
        high: point.found.high,
        colour: colourOf(point.name),
      }));
    if (!points.length)
      return h(
        "p",
        { class: "message" },
        "Nothing is believed of the models that answered: they are no longer configured.",
      );
    const words = points.map((point) => `${point.name}: ${fixed(point.y, 2)} for ${usd(point.x)}`).join("; ");
    return [
      scatter(`Quality against cost by model. ${words}.`, points, {
        xLabel: "USD a request",
        yLabel: "quality",
        xFormat: usd,
        yFormat: (value) => fixed(value, 2),
      }),
      figures(
        "Quality and cost by model",
        ["model", "quality#", "95 %#", "USD a request#", "requests#"],
        points.map((point) => [
          point.name,
          fixed(point.y),
          interval(point.low, point.high),
          usd(point.x),
          count(point.calls),
        ]),
      ),
    ];
  },
};
