// The colours of Okabe and Ito, which colour-blind people tell apart. A model keeps its colour in every panel.
// Beyond eight models colours come again with another dash, and every mark stands beside a name.

const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#8C8C8C"];
const DASHES = [[], [6, 3], [2, 3]];
const order = [];

// Fix the order, and so the colours, by the configured models.
export function knowModels(names) {
  for (const name of names) if (!order.includes(name)) order.push(name);
}

function place(name) {
  knowModels([name]);
  return order.indexOf(name);
}

export const colourOf = (name) => COLOURS[place(name) % COLOURS.length];
export const dashOf = (name) => DASHES[Math.floor(place(name) / COLOURS.length) % DASHES.length];
export const byOrder = (names) => [...names].sort((a, b) => place(a) - place(b));
export const GOOD = "#009E73";
export const BAD = "#D55E00";
export const PLAIN = "#0072B2";

// A colour of the style sheet, which follows light and dark.
export const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
