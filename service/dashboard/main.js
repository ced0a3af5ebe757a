// The page: a frame for each panel, all of them refreshed while somebody looks.

import { get, saveKey, savedKey } from "./api.js";
import { h, option } from "./dom.js";
import { Frame } from "./frame.js";
import { knowModels } from "./palette.js";
import budget from "./panels/budget.js";
import controls from "./panels/controls.js";
import decisions from "./panels/decisions.js";
import drift from "./panels/drift.js";
import experiments from "./panels/experiments.js";
import feedback from "./panels/feedback.js";
import heuristics from "./panels/heuristics.js";
import money from "./panels/money.js";
import playground from "./panels/playground.js";
import posteriors from "./panels/posteriors.js";
import reliability from "./panels/reliability.js";
import shares from "./panels/shares.js";
import totals from "./panels/totals.js";
import worth from "./panels/worth.js";

const PANELS = [
  totals,
  shares,
  posteriors,
  money,
  worth,
  budget,
  feedback,
  reliability,
  drift,
  heuristics,
  experiments,
  decisions,
  playground,
  controls,
];
const RANGES = [
  { name: "the last 24 hours", since: "24h", step: 3_600, days: 1 },
  { name: "the last 7 days", since: "7d", step: 21_600, days: 7 },
  { name: "the last 30 days", since: "30d", step: 86_400, days: 30 },
];
const LOOK_MS = 1_000;

const found = (id) => document.getElementById(id);
const range = () => RANGES[found("range").selectedIndex];

// What the service says of itself; and the order of the models, which gives them their colours.
async function health() {
  const place = found("health");
  try {
    const ready = await get("/ready");
    const stats = ready.models.length > 8 ? await get("/stats", { days: 30 }).catch(() => null) : null;
    knowModels(ready.models, stats?.models);
    const troubles = [
      ready.status === "ready" ? null : `database ${ready.database}`,
      ready.kill_switch ? "learned decisions are switched off" : null,
    ].filter(Boolean);
    const kind = ready.simulated ? "simulated models" : "models";
    place.textContent = troubles.length
      ? `Attention: ${troubles.join("; ")}`
      : `Ready: ${ready.policy} routes ${ready.models.length} ${kind}, prompts read by ${ready.classifier}`;
    place.dataset.state = troubles.length ? "bad" : "good";
  } catch (error) {
    place.textContent = error.message;
    place.dataset.state = "bad";
  }
}

async function start() {
  found("range").append(...RANGES.map((one, index) => option(one.since, one.name, index === 0)));
  found("key").value = savedKey();
  await health();
  const frames = PANELS.map((panel) => new Frame(panel, range));
  found("panels").append(...frames.map((frame) => frame.section));
  found("contents").append(...PANELS.map((panel) => h("li", {}, h("a", { href: `#${panel.id}` }, panel.title))));
  const all = () => Promise.all([health(), ...frames.map((frame) => frame.reload())]);

  found("range").addEventListener("change", all);
  found("settings").addEventListener("submit", (event) => {
    event.preventDefault();
    saveKey(found("key").value.trim());
    all();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const frame of frames) if (frame.panel.everyS) frame.reload();
  });
  let healthDue = Date.now();
  setInterval(() => {
    if (document.hidden || !found("live").checked) return;
    if (Date.now() > healthDue) {
      healthDue = Date.now() + 10_000;
      health();
    }
    for (const frame of frames) if (Date.now() > frame.due && !frame.busyWithReader()) frame.reload();
  }, LOOK_MS);
  await all();
  if (location.hash) document.querySelector(`#${CSS.escape(location.hash.slice(1))}`)?.scrollIntoView();
}

start();
