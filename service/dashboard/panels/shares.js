// Which share of replies each model gave, bucket by bucket.

import { get } from "../api.js";
import { stacked } from "../charts.js";
import { figures } from "../dom.js";
import { count, percent, time } from "../format.js";
import { OWN_COLOURS, rest, byOrder, colourOf } from "../palette.js";

// What the traffic panels share: buckets in order of time, and all models that were used.
export async function traffic(range) {
  const found = await get("/v1/traffic", { since: range.since, step: range.step, latency: false });
  const points = found.points.filter((point) => Object.keys(point.models).length > 0);
  const models = byOrder(new Set(points.flatMap((point) => Object.keys(point.models))));
  return { points, models, at: points.map((point) => point.at), whole: found.models };
}

export const NO_TRAFFIC = "No requests in this time. Send one from the playground below, or take a longer time above.";

export default {
  id: "shares",
  title: "Route shares",
  about: "Which share of requests each model answered.",
  everyS: 15,
  wide: true,
  load: traffic,
  empty: ({ points }) => (points.length ? null : NO_TRAFFIC),
  draw({ points, models, at }, range) {
    const decisions = (point, model) => point.models[model]?.decisions ?? 0;
    const total = (point) => models.reduce((sum, model) => sum + decisions(point, model), 0);
    const values = (model) => points.map((point) => decisions(point, model) / (total(point) || 1));
    const many = models.length > OWN_COLOURS + 1;
    const own = many ? models.slice(0, OWN_COLOURS) : models; // more bars than colours cannot be told apart
    const series = own.map((model) => ({ label: model, values: values(model), colour: colourOf(model) }));
    if (many) {
      const left = points.map((_, index) => Math.max(0, 1 - series.reduce((sum, one) => sum + one.values[index], 0)));
      series.push({ label: `${models.length - own.length} other models`, values: left, colour: rest() });
    }
    const last = points[points.length - 1];
    const words = models.map((model) => `${model} ${percent(decisions(last, model) / (total(last) || 1))}`).join(", ");
    const options = { valueLabel: "share of requests", format: percent, range: [0, 1], step: range.step };
    return [
      stacked(`Share of requests by model over ${range.name}. Latest: ${words}.`, at, series, options),
      figures(
        "Requests by model",
        ["time", ...models.map((model) => `${model}#`)],
        points.map((point) => [time(point.at), ...models.map((model) => count(decisions(point, model)))]),
      ),
    ];
  },
};
