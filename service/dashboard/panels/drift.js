// Models that changed: what was found and what the owner told, on a line of time.

import { get } from "../api.js";
import { h, table } from "../dom.js";
import { fixed, time } from "../format.js";
import { timeline } from "../marks.js";
import { bad, good, plain } from "../palette.js";

const signs = () => ({ down: ["▼", bad()], up: ["▲", good()] });

export default {
  id: "drift",
  title: "Drift",
  about: "Models that became worse (▼) or better (▲), and events that were told (◆).",
  everyS: 30,
  wide: true,
  load: () => get("/v1/alarms", { limit: 100 }),
  empty: ({ alarms, suspected, canaries }) =>
    alarms.length || suspected.length || canaries.length
      ? null
      : "No model was found to have changed, and no event was told.",
  draw({ alarms, suspected, canaries }, range) {
    const until = Date.now() / 1000;
    const since = Math.min(until - range.days * 86_400, ...alarms.map((alarm) => alarm.at));
    const what = (alarm) => (alarm.direction ? `${alarm.direction} by ${alarm.stream}` : alarm.event);
    const moved = (alarm) => (alarm.mean === null ? "–" : `${fixed(alarm.past_mean, 2)} → ${fixed(alarm.mean, 2)}`);
    const events = alarms.map((alarm) => {
      const [sign, colour] = signs()[alarm.direction] ?? ["◆", plain()];
      return { name: alarm.model, at: alarm.at, sign, colour, text: `${time(alarm.at)}: ${what(alarm)}` };
    });
    return [
      suspected.length ? h("p", { class: "bad" }, "Suspected now: ", h("strong", {}, suspected.join(", "))) : null,
      alarms.length ? timeline(`${alarms.length} alarms and events by model`, events, since, until) : null,
      alarms.length
        ? table(
            "Alarms and events",
            ["model", "when", "what", "mean#", "task type", "note"],
            alarms.map((alarm) => [
              alarm.model,
              time(alarm.at),
              what(alarm),
              moved(alarm),
              alarm.task_type ?? "all",
              alarm.note || "–",
            ]),
          )
        : null,
      canaries.length
        ? table(
            "Newest answers to canaries",
            ["model", "canary", "when", "outcome"],
            canaries.map((one) => [one.model, one.canary, time(one.at), one.outcome]),
          )
        : null,
    ];
  },
};
