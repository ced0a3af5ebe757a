// Eight colours near those of Okabe and Ito, which colour-blind people tell apart, in light and dark (see the style sheet).
// A model keeps its colour in every panel.
// Beyond eight models colours come again with another dash, and every mark stands beside a name; the eight most used
// have one for themselves.

const COLOURS = 8; // --model-0 to --model-7 of the style sheet; the last one is grey
const DASHES = [[], [6, 3], [2, 3], [10, 3, 2, 3], [1, 5]];
const order = [];

export const OWN_COLOURS = COLOURS - 1; // the grey is for what is left
export const rest = () => themed(`model-${OWN_COLOURS}`);

// Fix the order, and so the colours, by the configured models; of many, the most used ones first.
export function knowModels(names, used = {}) {
  const calls = (name) => (names.length > COLOURS ? (used[name]?.calls ?? 0) : 0);
  for (const name of [...names].sort((a, b) => calls(b) - calls(a))) if (!order.includes(name)) order.push(name);
}

function place(name) {
  knowModels([name]);
  return order.indexOf(name);
}

export const colourOf = (name) => themed(`model-${place(name) % COLOURS}`);
export const dashOf = (name) => DASHES[Math.floor(place(name) / COLOURS) % DASHES.length];
export const byOrder = (names) => [...names].sort((a, b) => place(a) - place(b));
export const good = () => themed("good");
export const bad = () => themed("bad");
export const plain = () => themed("model-0");
export const second = () => themed("model-1");

// A colour of the style sheet, which follows light and dark.
export const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
