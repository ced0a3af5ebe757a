// A question before anything is changed. Resolves to the note that was typed, or to null.

import { h, isWorking, working } from "./dom.js";

export function confirmed(what, consequence, { danger = false, note = false } = {}) {
  return new Promise((resolve) => {
    const words = h("input", { type: "text", maxlength: "1000", autocomplete: "off" });
    const dialog = h(
      "dialog",
      { "aria-labelledby": "confirm-title", "aria-describedby": "confirm-text" },
      h("h2", { id: "confirm-title" }, what),
      h("p", { id: "confirm-text" }, consequence),
      note ? h("label", { class: "field" }, h("span", {}, "Why (kept with it)"), words) : null,
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        h(
          "button",
          { type: "button", class: danger ? "danger" : "primary", onclick: () => dialog.close("yes") },
          "Do it",
        ),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes" ? words.value : null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

// A button that asks first, does it, and tells what came of it beside itself.
// `name`: what screen readers call it, where the label alone does not say on what.
export function action(label, { what, consequence, name = null, danger = false, note = false, run, done }) {
  const told = h("span", { class: "told", role: "status" });
  const button = h("button", { type: "button", class: danger ? "danger" : null, "aria-label": name }, label);
  button.addEventListener("click", async () => {
    if (isWorking(button)) return;
    const words = await confirmed(what(), consequence(), { danger, note });
    if (words === null) return;
    working([button], true);
    told.textContent = "…";
    try {
      await run(words);
      told.textContent = "Done.";
      document.getElementById("said").textContent = `${name ?? label}: done.`; // stays when the panel is drawn again
      done?.();
    } catch (error) {
      told.textContent = error.message;
    } finally {
      working([button], false);
    }
  });
  return h("span", { class: "action" }, button, told);
}
