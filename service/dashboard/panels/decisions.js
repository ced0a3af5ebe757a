// The decision explorer: search, list, and one decision explained.

import { getIfThere } from "../api.js";
import { h, table } from "../dom.js";
import { fixed, time, usd } from "../format.js";
import { modelMark } from "../marks.js";
import { explained } from "./explained.js";

const PAGE = 20;
const search = { id: "", model: "", task_type: "", user: "", before: "" };
const detail = h("div", { "aria-live": "polite" });

// Explain a decision below the list, and bring it into view.
export async function explain(id) {
  try {
    const told = await explained(id);
    detail.replaceChildren(told);
    told.querySelector("h3").focus();
  } catch (error) {
    detail.replaceChildren(h("p", { class: "message bad", role: "alert" }, error.message));
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
    field("task_type", "Task type"),
    field("user", "User"),
    h("button", { type: "submit" }, "Search"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    for (const [name, value] of new FormData(form)) search[name] = value.trim();
    search.before = "";
    if (search.id) explain(search.id);
    else reload();
  });
  return form;
}

const row = (one) => [
  h(
    "button",
    { type: "button", class: "link", onclick: () => explain(one.id), "aria-label": `Explain ${one.id}` },
    time(one.timestamp ?? one.created_at),
  ),
  modelMark(one.model),
  one.task_type,
  one.method,
  fixed(one.propensity, 3),
  usd(one.cost_usd),
  typeof one.rating === "number" ? fixed(one.rating, 2) : "–",
];

export default {
  id: "decisions",
  title: "Decision explorer",
  about: "The newest decisions. Choose one to see it explained step by step.",
  everyS: 0,
  wide: true,
  tools,
  async load() {
    const { model, task_type, user, before } = search;
    const found = await getIfThere("/v1/decisions", { limit: PAGE, model, task_type, user, before });
    return found ?? { records: null };
  },
  draw(found, _, reload) {
    const records = found.records ?? found.decisions;
    if (!records)
      return [h("p", { class: "message" }, "This version lists no decisions; search one by its id."), detail];
    if (!records.length) return [h("p", { class: "message" }, "No decision fits this search."), detail];
    const older = records.length === PAGE ? (found.next ?? records[records.length - 1].id) : null;
    const turn = (label, before) =>
      h("button", { type: "button", onclick: () => ((search.before = before), reload()) }, label);
    return [
      table(
        "Decisions, newest first",
        ["when", "model", "task type", "method", "probability#", "cost#", "rating#"],
        records.map(row),
      ),
      h("div", { class: "buttons" }, turn("Newest", ""), older ? turn("Older", older) : null),
      detail,
    ];
  },
};
