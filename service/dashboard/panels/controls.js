// What the owner switches: the kill switch, and learning held, forgotten or rolled back. Needs a key with scope admin.

import { get, post } from "../api.js";
import { action } from "../confirm.js";
import { choice, h, option, table } from "../dom.js";
import { count, time } from "../format.js";
import { modelMark } from "../marks.js";

const DOES = {
  freeze: "What is believed stays as it is now. Feedback is stored, but changes nothing until unfreeze.",
  unfreeze: "What was held learns again, from all feedback that came meanwhile.",
  reset: "Everything learned so far is forgotten for good; learning starts again at the prior.",
  rollback: "What is believed becomes what it was at that time, and is held there until unfreeze.",
};

function learning({ models, tasks }, reload) {
  const what = choice(
    "Action",
    Object.keys(DOES).map((name) => option(name, name)),
  );
  const model = choice("Model", [option("", "all models"), ...models.map((name) => option(name, name))]);
  const task = choice("Task type", [option("", "all task types"), ...tasks.map((name) => option(name, name))]);
  const to = h("input", { type: "datetime-local" });
  const when = h("label", { class: "field", hidden: true }, h("span", {}, "Back to (UTC)"), to);
  const chosen = (field) => field.querySelector("select").value;
  what.querySelector("select").addEventListener("change", () => (when.hidden = chosen(what) !== "rollback"));
  const asked = (note) => ({
    action: chosen(what),
    ...(chosen(model) ? { model: chosen(model) } : {}),
    ...(chosen(task) ? { task_type: chosen(task) } : {}),
    ...(chosen(what) === "rollback" ? { to: to.value } : {}),
    note,
  });
  const about = () => `${chosen(model) || "all models"}, ${chosen(task) || "all task types"}`;
  return h(
    "div",
    { class: "search" },
    what,
    model,
    task,
    when,
    action("Apply", {
      what: () => `${chosen(what)}: ${about()}?`,
      consequence: () => DOES[chosen(what)],
      danger: true,
      note: true,
      run: (note) => post("/v1/controls", asked(note)),
      done: reload,
    }),
  );
}

// Each model with the button that takes it out of service or back.
const service = ({ models, disabled }, reload) =>
  table(
    "Models in service",
    ["model", "state", "switch"],
    models.map((name) => {
      const out = disabled.includes(name);
      return [
        modelMark(name),
        out ? "out of service" : "in service",
        action(out ? "Enable" : "Disable", {
          name: `${out ? "Enable" : "Disable"} ${name}`,
          what: () => `${out ? "Enable" : "Disable"} ${name}?`,
          consequence: () =>
            out
              ? "It may be drawn again, and may be named."
              : "No request is sent to it, not even one that names it, until you enable it. What was learned stays.",
          danger: !out,
          note: true,
          run: (note) => post("/v1/controls", { action: out ? "enable" : "disable", model: name, note }),
          done: reload,
        }),
      ];
    }),
  );

const killSwitch = (off, reload) =>
  action(off ? "Switch learned decisions on" : "Switch learned decisions off", {
    what: () => (off ? "Switch learned decisions on again?" : "Switch all learned decisions off?"),
    consequence: () =>
      off
        ? "The policy of the settings decides again."
        : "The safe policy decides every request until you switch them on again.",
    danger: !off,
    note: true,
    run: (note) => post("/v1/controls", { action: off ? "on" : "off", note }),
    done: reload,
  });

export default {
  id: "controls",
  title: "Controls",
  about:
    "Switch models or learned decisions off; hold, forget or roll back what was learned. Needs a key with scope admin.",
  everyS: 0,
  wide: true,
  async load() {
    const [controls, posteriors] = await Promise.all([get("/v1/controls"), get("/v1/posteriors")]);
    const column = (name) => [...new Set(posteriors.cells.map((cell) => cell[name]))];
    return { ...controls, models: column("model"), tasks: column("task_type") };
  },
  draw: (found, _, reload) => [
    h("p", {}, "Learned decisions are ", h("strong", {}, found.off ? "off: the safe policy decides." : "on.")),
    killSwitch(found.off, reload),
    h("h3", {}, "Models"),
    service(found, reload),
    h("h3", {}, "Learning"),
    learning(found, reload),
    found.held.length
      ? table(
          "Held posteriors",
          ["model", "task type", "control"],
          found.held.slice(0, 50).map((cell) => [cell.model, cell.task_type, cell.control]),
        )
      : h("p", { class: "hint" }, "Nothing is held."),
    found.held.length > 50 ? h("p", { class: "hint" }, `And ${count(found.held.length - 50)} more.`) : null,
    found.controls.length
      ? table(
          "What was ever switched, newest first",
          ["when", "what", "model", "task type", "by", "note"],
          found.controls.map((one) => [
            time(one.at),
            one.action,
            one.model ?? "all",
            one.task_type ?? "all",
            one.who,
            one.note || "–",
          ]),
        )
      : null,
  ],
};
