// What is believed of every model on a task type: the density, the interval, the chance to be best, and the labels.

import { get } from "../api.js";
import { betaDensity, lines } from "../charts.js";
import { choice, h, option, table } from "../dom.js";
import { count, fixed, interval, percent } from "../format.js";
import { intervalMark, modelMark } from "../marks.js";
import { colourOf, dashOf } from "../palette.js";

const XS = Array.from({ length: 199 }, (_, index) => (index + 1) / 200);
const MOST = 8; // densities that can be told apart
const chosen = { task: "" };
let picker;

function fill(tasks, labelled) {
  if (picker.options.length !== tasks.length + 1)
    picker.replaceChildren(...["", ...tasks].map((task) => option(task, task, task === chosen.task)));
  picker.options[0].textContent = `Most labels (${labelled})`;
}

export default {
  id: "posteriors",
  title: "What was learned",
  about:
    "Expected quality of every model on one task type: 95 % interval, chance to be the best, and labels behind it.",
  everyS: 30,
  wide: true,
  tools(reload) {
    const field = choice("Task type", [], {
      onchange: (event) => {
        chosen.task = event.target.value;
        reload();
      },
    });
    picker = field.querySelector("select");
    return field;
  },
  load: async () => (await get("/v1/posteriors")).cells,
  empty: (cells) => (cells.length ? null : "No models are configured."),
  draw(cells) {
    const tasks = [...new Set(cells.map((cell) => cell.task_type))];
    const labels = (task) => cells.filter((cell) => cell.task_type === task).reduce((sum, cell) => sum + cell.n, 0);
    const most = [...tasks].sort((a, b) => labels(b) - labels(a))[0];
    fill(tasks, most);
    const task = chosen.task || most;
    const shown = cells.filter((cell) => cell.task_type === task && cell.mean !== null);
    if (shown.length > MOST) shown.sort((a, b) => b.p_best - a.p_best);
    const likeliest = shown.filter((cell) => cell.alpha !== null && cell.beta !== null).slice(0, MOST);
    const series = likeliest.map((cell) => ({
      label: cell.model,
      values: betaDensity(cell.alpha, cell.beta, XS),
      colour: colourOf(cell.model),
      dash: dashOf(cell.model),
      bare: true,
    }));
    const best = [...shown].sort((a, b) => b.p_best - a.p_best)[0];
    const words = shown.map((cell) => `${cell.model} ${fixed(cell.mean, 2)}`).join(", ");
    return [
      h(
        "p",
        {},
        `${task}: `,
        best ? h("strong", {}, best.model) : "no model",
        ` is the best with probability ${percent(best?.p_best)}.`,
        shown.length > MOST ? ` Drawn are the ${MOST} that are likeliest to be.` : null,
      ),
      lines(`Density of the expected quality on ${task}. Means: ${words}.`, XS, series, {
        valueLabel: "density",
        format: (value) => fixed(value, 1),
        time: false,
      }),
      table(
        `Quality on ${task}`,
        ["model", "0 to 1", "mean#", "95 %#", "best#", "labels#", "readings#"],
        shown.map((cell) => [
          modelMark(cell.model),
          intervalMark(cell.interval[0], cell.mean, cell.interval[1], colourOf(cell.model)),
          fixed(cell.mean, 3),
          interval(...cell.interval),
          percent(cell.p_best),
          count(cell.n),
          fixed(cell.n_heuristic, 1),
        ]),
      ),
    ];
  },
};
