// A panel: its heading, its tools, and its states (loading, empty, failed, shown).
//
// A panel is { id, title, about, everyS, tools?(reload) -> element, load(range) -> data, empty?(data) -> why or null,
// draw(data, range, reload) -> elements }. `everyS` 0: only when asked, so that nothing moves under a reader's hands.

import { h } from "./dom.js";

export class Frame {
  constructor(panel, range) {
    this.panel = panel;
    this.range = range;
    this.due = 0;
    this.turn = 0;
    this.body = h("div", { class: "body" });
    const reload = () => this.reload();
    const tools = panel.tools?.(reload);
    this.section = h(
      "section",
      { id: panel.id, class: panel.wide ? "panel wide" : "panel", "aria-labelledby": `${panel.id}-title` },
      h("h2", { id: `${panel.id}-title`, tabindex: "-1" }, panel.title),
      h("p", { class: "about" }, panel.about),
      tools ? h("div", { class: "tools" }, tools) : null,
      this.body,
    );
    this.state("loading");
    this.body.append(h("p", { class: "message" }, "Loading …"));
  }

  state(name) {
    this.section.dataset.state = name;
    this.section.setAttribute("aria-busy", String(name === "loading"));
  }

  // Load and draw again. What is shown stays until there is something newer; an answer that was overtaken is dropped.
  async reload() {
    this.turn += 1;
    const turn = this.turn;
    this.due = this.panel.everyS ? Date.now() + this.panel.everyS * 1000 : Infinity;
    let found;
    try {
      const data = await this.panel.load(this.range());
      if (turn !== this.turn) return;
      const why = this.panel.empty?.(data) ?? null;
      found = why
        ? ["empty", [h("p", { class: "message" }, why)]]
        : ["shown", this.panel.draw(data, this.range(), () => this.reload())];
    } catch (error) {
      if (turn !== this.turn) return;
      found = ["failed", [this.failed(error)]];
    }
    const [state, children] = found;
    const hadFocus = this.body.contains(document.activeElement);
    this.body.replaceChildren(...[children].flat(Infinity).filter(Boolean));
    this.state(state);
    if (hadFocus) this.section.querySelector("h2").focus({ preventScroll: true }); // else a keyboard starts at the top
    for (const drawn of this.body.querySelectorAll("[data-chart]")) drawn.dispatchEvent(new Event("placed"));
  }

  // Whether somebody has a table open or the keyboard inside what a refresh would replace.
  busyWithReader() {
    return this.body.contains(document.activeElement) || this.body.querySelector("details[open]") !== null;
  }

  failed(error) {
    if (!error.status && error.status !== 0) console.error(error); // a fault of the page itself
    return h(
      "div",
      { class: "message bad", role: "alert" },
      h("p", {}, error.message),
      h("button", { type: "button", onclick: () => this.reload() }, "Try again"),
    );
  }
}
