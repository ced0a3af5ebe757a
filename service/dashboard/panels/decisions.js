// The decision explorer: search, list, and one decision explained.

import { get } from "../api.js";
import { choice, h, option, table } from "../dom.js";
import { fixed, time, usd } from "../format.js";
import { modelMark } from "../marks.js";
import { explained } from "./explained.js";

const PAGE = 20;
const search = {};
const detail = h("div", { "aria-live": "polite" });
const tasks = choice("Task type", [option("", "all")], { name: "task_type" });

let wanted = "";

// Explain a decision below the list, and bring it into view; unless another one was asked for meanwhile.
export async function explain(id) {
  wanted = id;
  try {
    const told = await explained(id);
    if (id !== wanted) return;
    detail.replaceChildren(told);
    told.querySelector("h3").focus();
  } catch (error) {
    if (id === wanted) detail.replaceChildren(h("p", { class: "message bad", role: "alert" }, error.message));
  }
}

const field = (name, label, hint) =>
  h(
    "label",
    { class: "field" },
    h("span", {}, label),
    h("input", { name, type: "search", placeholder: hint, autocomplete: "off" }),
  );

function tools(reload) {
  const form = h(
    "form",
    { class: "search", "aria-label": "Search decisions" },
    field("id", "Id", "chatcmpl-…"),
    field("model", "Model"),
    tasks,
    field("user", "User"),
    choice("Rated", [option("", "or not"), option("true", "yes"), option("false", "no")], { name: "rated" }),
    h("button", { type: "submit" }, "Search"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { id, ...wishes } = Object.fromEntries(new FormData(form));
    for (const [name, value] of Object.entries(wishes)) search[name] = value.trim();
    delete search.before;
    if (id.trim()) explain(id.trim());
    else reload();
  });
  return form;
}

const row = (one) => [
  h(
    "button",
    { type: "button", class: "link", onclick: () => explain(one.id), "aria-label": `Explain ${one.id}` },
    time(one.timestamp),
  ),
  modelMark(one.model),
  one.task_type,
  one.method,
  fixed(one.propensity, 3),
  usd(one.cost_usd),
  fixed(one.mean_rating, 2),
];

export default {
  id: "decisions",
  title: "Decision explorer",
  about: "The newest decisions. Choose one to see it explained step by step.",
  everyS: 0,
  wide: true,
  tools,
  async load() {
    const [found, { cells }] = await Promise.all([
      get("/v1/decisions", { limit: PAGE, ...search }),
      get("/v1/posteriors"),
    ]);
    return { ...found, tasks: [...new Set(cells.map((cell) => cell.task_type))] };
  },
  draw(found, _, reload) {
    const select = tasks.querySelector("select");
    if (select.options.length === 1) select.append(...found.tasks.map((task) => option(task, task)));
    const turn = (label, before) =>
      h("button", { type: "button", onclick: () => ((search.before = before), reload()) }, label);
    return [
      found.decisions.length
        ? table(
            "Decisions, newest first",
            ["when", "model", "task type", "method", "probability#", "cost#", "rating#"],
            found.decisions.map(row),
          )
        : h("p", { class: "message" }, "No decision fits this search."),
      h("div", { class: "buttons" }, turn("Newest", ""), found.next ? turn("Older", found.next) : null),
      detail,
    ];
  },
};
