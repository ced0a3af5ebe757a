// Quality of a model over a mix of task types, from the posteriors: shared by the panels on money and on worth.

import { get } from "../api.js";

const Z = 1.96;

// Calls by task type, from GET /stats.
export const mixOf = (stats) => stats.distribution.task_type;

// Mean and 95 % interval of a weighted mean of Betas: { mean, low, high, sd } or null when a task type is not known.
export function qualityOver(mix, cells, modelOf) {
  let [mean, variance, calls] = [0, 0, 0];
  const total = Object.values(mix).reduce((sum, one) => sum + one, 0);
  for (const [task, asked] of Object.entries(mix)) {
    const cell = cells.find((one) => one.task_type === task && one.model === modelOf);
    if (!cell || cell.mean === null || cell.alpha === null || cell.beta === null) continue;
    const weight = asked / total;
    const sum = cell.alpha + cell.beta;
    mean += weight * cell.mean;
    variance += weight ** 2 * ((cell.alpha * cell.beta) / (sum ** 2 * (sum + 1)));
    calls += asked;
  }
  if (!calls) return null;
  const known = calls / total;
  [mean, variance] = [mean / known, variance / known ** 2];
  const half = Z * Math.sqrt(variance);
  return { mean, sd: Math.sqrt(variance), low: Math.max(0, mean - half), high: Math.min(1, mean + half) };
}

export async function statsAndCells(range) {
  const [stats, posteriors] = await Promise.all([get("/stats", { days: range.days }), get("/v1/posteriors")]);
  return { stats, cells: posteriors.cells };
}
