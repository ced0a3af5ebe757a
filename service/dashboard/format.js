// Numbers and times as people read them.

const known = (value) => typeof value === "number" && Number.isFinite(value);
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1, notation: "compact" });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) =>
  !known(value) ? "–" : Math.abs(value) < 100_000 ? whole.format(value) : short.format(value);
export const fixed = (value, digits = 3) => (known(value) ? value.toFixed(digits) : "–");
export const signed = (value, digits = 3) =>
  known(value) ? (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(digits) : "–";

export function percent(value) {
  if (!known(value)) return "–";
  const digits = value !== 0 && Math.abs(value) < 0.1 ? 1 : 0;
  return `${(value * 100).toFixed(digits)}\u00a0%`;
}

export function usd(value) {
  if (!known(value)) return "–";
  if (value === 0) return "$0";
  const size = Math.abs(value);
  const digits = size >= 100 ? 0 : size >= 1 ? 2 : Math.min(8, 1 - Math.floor(Math.log10(size)) + 1);
  const figures = size.toFixed(digits).replace(/(\.\d\d+?)0+$/, "$1");
  return `${value < 0 ? "−" : ""}$${figures}`;
}

export function seconds(value) {
  if (!known(value)) return "–";
  if (value > 0 && value < 0.002) return `${(value * 1000).toFixed(2)} ms`;
  if (value < 1) return `${whole.format(value * 1000)} ms`;
  if (value < 90) return `${value.toFixed(1)} s`;
  if (value < 5400) return `${whole.format(value / 60)} min`;
  if (value < 129_600) return `${whole.format(value / 3600)} h`;
  return `${whole.format(value / 86_400)} days`;
}

export const interval = (low, high, digits = 2) => `[${fixed(low, digits)}, ${fixed(high, digits)}]`;

// A name as long as there is room for: its beginning and its end.
export const brief = (name, most = 28) =>
  name.length <= most ? name : `${name.slice(0, Math.ceil(most * 0.6))}…${name.slice(1 - Math.floor(most * 0.4))}`;

// Seconds since 1970 in the reader's own time zone.
export const time = (at) =>
  known(at)
    ? new Date(at * 1000).toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" })
    : "–";
