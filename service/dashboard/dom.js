// Elements made in one line. Texts become text nodes, never markup: names and prompts come from strangers.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [rule, to] of Object.entries(value)) element.style.setProperty(rule, to);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

// h("p", { class: "hint" }, "text", otherElement)
export const h = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);

// The same for SVG.
export const s = (name, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, name), attributes, children);

// A table. `columns` are headings; those that end in "#" hold numbers. Cells are texts or elements.
export function table(caption, columns, rows) {
  const numeric = columns.map((column) => column.endsWith("#"));
  const cell = (value, index) =>
    index === 0
      ? h("th", { scope: "row" }, value ?? "–")
      : h("td", { class: numeric[index] ? "number" : null }, value ?? "–");
  const heading = (column, index) =>
    h("th", { scope: "col", class: numeric[index] ? "number" : null }, column.replace(/#$/, ""));
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, h("tr", {}, columns.map(heading))),
      h(
        "tbody",
        {},
        rows.map((row) => h("tr", {}, row.map(cell))),
      ),
    ),
  );
}

// Figures of a picture, for those who do not see it or want them exactly.
export const figures = (caption, columns, rows) =>
  h("details", { class: "figures" }, h("summary", {}, "As a table"), table(caption, columns, rows));

// Whether buttons take clicks. They are not `disabled`: the keyboard would lose its place.
export function working(buttons, is) {
  for (const button of buttons) button.setAttribute("aria-disabled", String(is));
}

export const isWorking = (button) => button.getAttribute("aria-disabled") === "true";

export const option = (value, text, chosen = false) => h("option", { value, selected: chosen }, text);

export function choice(label, options, attributes = {}) {
  const select = h("select", attributes, options);
  return h("label", { class: "field" }, h("span", {}, label), select);
}
