// Prometheus' text format, as far as it is read here: the samples of one name.

const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

export function samplesOf(text, name) {
  const found = [];
  for (const line of text.split("\n")) {
    if (!line.startsWith(name)) continue;
    const rest = line.slice(name.length);
    const close = rest.startsWith("{") ? rest.lastIndexOf("}") : -1;
    if (close < 0 && !rest.startsWith(" ")) continue; // a longer name
    const labels = {};
    for (const [, label, value] of rest.slice(0, close + 1).matchAll(LABEL))
      labels[label] = value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    found.push({
      labels,
      value: Number(
        rest
          .slice(close + 1)
          .trim()
          .split(" ")[0],
      ),
    });
  }
  return found;
}
