// How many requests are rated, how well, and how late.

import { get } from "../api.js";
import { lines } from "../charts.js";
import { figures, h, table } from "../dom.js";
import { count, fixed, percent, seconds, time } from "../format.js";
import { samplesOf } from "../exposition.js";
import { bar } from "../marks.js";
import { plain, second } from "../palette.js";
import { NO_TRAFFIC, traffic } from "./shares.js";

const LAG = "armwise_feedback_lag_seconds_bucket";

// Feedback by how late it came: the histogram's steps, those where something is.
function lags(exposition) {
  const steps = samplesOf(exposition, LAG)
    .map(({ labels, value }) => ({ most: labels.le === "+Inf" ? Infinity : Number(labels.le), value }))
    .sort((a, b) => a.most - b.most);
  const total = steps.length ? steps[steps.length - 1].value : 0;
  let before = 0;
  const rows = [];
  for (const { most, value } of steps) {
    if (value > before)
      rows.push({ name: most === Infinity ? "later" : `within ${seconds(most)}`, share: (value - before) / total });
    before = value;
  }
  return { total, rows };
}

// From the log, so that it outlives the process: a rating's time after its request.
function lateness(whole) {
  const rated = Object.values(whole).filter((model) => model.ratings > 0);
  const ratings = rated.reduce((sum, model) => sum + model.ratings, 0);
  if (!ratings) return h("p", { class: "hint" }, "Nobody rated a request of this time.");
  const late = rated.reduce((sum, model) => sum + model.mean_lag_s * model.ratings, 0) / ratings;
  return h("p", {}, `Ratings came ${seconds(late)} after the request, on average of ${count(ratings)}.`);
}

export default {
  id: "feedback",
  title: "Feedback",
  about: "Ratings per request, their mean, and how long after the reply they come.",
  everyS: 30,
  async load(range) {
    const [found, exposition] = await Promise.all([traffic(range), get("/metrics")]);
    return { ...found, lag: lags(exposition) };
  },
  empty: ({ points }) => (points.length ? null : NO_TRAFFIC),
  draw({ points, at, lag, whole }, range) {
    const rows = points.map((point) => {
      const models = Object.values(point.models);
      const sum = (name) => models.reduce((total, model) => total + (model[name] ?? 0), 0);
      const stars = models.reduce((total, model) => total + (model.mean_rating ?? 0) * (model.ratings ?? 0), 0);
      return {
        at: point.at,
        decisions: sum("decisions"),
        ratings: sum("ratings"),
        mean: sum("ratings") ? stars / sum("ratings") : null,
      };
    });
    const share = rows.map((row) => (row.decisions ? row.ratings / row.decisions : null));
    const last = rows[rows.length - 1];
    const latest = `${count(last.ratings)} ratings on ${count(last.decisions)} requests, mean ${fixed(last.mean, 2)}`;
    const label = `Feedback over ${range.name}. Latest: ${latest}.`;
    const series = [
      { label: "ratings per request", values: share, colour: plain() },
      { label: "mean rating", values: rows.map((row) => row.mean), colour: second(), dash: [6, 3] },
    ];
    return [
      lines(label, at, series, {
        valueLabel: "share, mean",
        format: (value) => fixed(value, 2),
        range: [0, Math.max(1, ...share)],
      }),
      h("h3", {}, "How late"),
      lateness(whole),
      lag.rows.length
        ? table(
            "Feedback by its lag, since this process started",
            ["after the reply", "share", "since the start#"],
            lag.rows.map((row) => [row.name, bar(row.share, plain()), percent(row.share)]),
          )
        : h("p", { class: "hint" }, "No feedback since this process started."),
      figures(
        "Feedback over time",
        ["time", "requests#", "ratings#", "mean rating#"],
        rows.map((row) => [time(row.at), count(row.decisions), count(row.ratings), fixed(row.mean)]),
      ),
    ];
  },
};
