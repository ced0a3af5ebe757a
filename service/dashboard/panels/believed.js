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

// Calls of models that something is believed of: [{ model, task, calls }].
const believedCalls = (stats, cells) =>
  Object.entries(stats.models).flatMap(([model, { task_types: tasks }]) =>
    Object.entries(tasks)
      .filter(([task]) => qualityOver({ [task]: 1 }, cells, model))
      .map(([task, calls]) => ({ model, task, calls })),
  );

// What the models that answered are worth beside the best one alone, on the same requests: { best, routed, alone, gain,
// low, high }, or null when nothing is believed of them. Each belief counts by how much more often its model was used.
export function routedOver(stats, cells) {
  const calls = believedCalls(stats, cells);
  const total = calls.reduce((sum, one) => sum + one.calls, 0);
  if (!total) return null;
  const mix = {};
  for (const { task, calls: asked } of calls) mix[task] = (mix[task] ?? 0) + asked;
  const candidates = [...new Set(cells.map((cell) => cell.model))]
    .map((name) => ({ name, found: qualityOver(mix, cells, name) }))
    .filter((one) => one.found);
  const best = candidates.sort((a, b) => b.found.mean - a.found.mean)[0];
  let [routed, variance] = [0, 0];
  const weights = new Map(
    Object.entries(mix).map(([task, asked]) => [`${task} ${best.name}`, [task, best.name, -asked]]),
  );
  for (const { model, task, calls: asked } of calls) {
    const key = `${task} ${model}`;
    weights.set(key, [task, model, (weights.get(key)?.[2] ?? 0) + asked]);
    routed += (asked / total) * qualityOver({ [task]: 1 }, cells, model).mean;
  }
  for (const [task, model, weight] of weights.values())
    variance += ((weight / total) * (qualityOver({ [task]: 1 }, cells, model)?.sd ?? 0)) ** 2;
  const [gain, half] = [routed - best.found.mean, Z * Math.sqrt(variance)];
  return { best: best.name, routed, alone: best.found.mean, gain, low: gain - half, high: gain + half };
}

export async function statsAndCells(range) {
  const [stats, posteriors] = await Promise.all([get("/stats", { days: range.days }), get("/v1/posteriors")]);
  return { stats, cells: posteriors.cells };
}
