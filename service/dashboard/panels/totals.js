// The figures an owner looks at first.

import { get } from "../api.js";
import { h } from "../dom.js";
import { count, fixed, percent, seconds, usd } from "../format.js";
import { traffic } from "./shares.js";

const tile = (name, value, hint) =>
  h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value, hint ? h("small", {}, hint) : null));

export function summed({ points }) {
  const sums = { decisions: 0, failures: 0, fallbacks: 0, cost_usd: 0, ratings: 0, stars: 0 };
  for (const point of points) {
    for (const model of Object.values(point.models)) {
      for (const name of ["decisions", "failures", "fallbacks", "cost_usd", "ratings"]) sums[name] += model[name] ?? 0;
      sums.stars += (model.mean_rating ?? 0) * (model.ratings ?? 0);
    }
  }
  return sums;
}

export default {
  id: "totals",
  title: "At a glance",
  about: "What was asked, answered and paid in this time.",
  everyS: 15,
  wide: true,
  async load(range) {
    const [found, stats] = await Promise.all([traffic(range), get("/stats", { days: range.days })]);
    return { sums: summed(found), stats };
  },
  draw({ sums, stats }) {
    const calls = sums.decisions;
    return h(
      "dl",
      { class: "tiles" },
      tile("Requests", count(calls)),
      tile("Cost", usd(sums.cost_usd), calls ? `${usd(sums.cost_usd / calls)} a request` : null),
      tile("Mean rating", sums.ratings ? fixed(sums.stars / sums.ratings, 3) : "–", `${count(sums.ratings)} ratings`),
      tile("Rated", calls ? percent(sums.ratings / calls) : "–", "ratings per request"),
      tile("Failed calls", count(sums.failures), `${count(sums.fallbacks)} fallbacks`),
      tile("Latency", stats.mean_latency_ms === null ? "–" : seconds(stats.mean_latency_ms / 1000), "mean of a call"),
      tile("Routing", stats.mean_routing_ms === null ? "–" : `${fixed(stats.mean_routing_ms, 2)} ms`, "mean we add"),
    );
  },
};
