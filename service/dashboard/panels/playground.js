// The playground: send a prompt, see why the model was chosen, say whether the reply was good.

import { get, post } from "../api.js";
import { choice, h, isWorking, option, table, working } from "../dom.js";
import { fixed, usd } from "../format.js";
import { bar, modelMark } from "../marks.js";
import { colourOf } from "../palette.js";
import { explain } from "./decisions.js";

// The routing of a reply, or of a decision that was only tried.
function why(routing, costs = null) {
  const eligible = Object.entries(routing.eligible);
  const excluded = Object.entries(routing.excluded ?? {});
  return [
    h(
      "p",
      {},
      modelMark(routing.model),
      ` by ${routing.policy || routing.method}: ${routing.task_type}, ${routing.tier}. `,
      routing.reason,
    ),
    table(
      "Probability of each model",
      ["model", "0 to 1", "probability#", ...(costs ? ["expected cost#"] : [])],
      eligible.map(([model, share]) => [
        modelMark(model),
        bar(share, colourOf(model)),
        fixed(share, 4),
        ...(costs ? [usd(costs[model])] : []),
      ]),
    ),
    excluded.length
      ? table(
          "Excluded models",
          ["excluded", "why"],
          excluded.map(([model, reason]) => [modelMark(model), reason]),
        )
      : null,
  ];
}

function thumbs(id) {
  const told = h("span", { role: "status" });
  const give = async (value) => {
    try {
      const answer = await post("/feedback", { decision_id: id, value, source: "user", user: "dashboard" });
      told.textContent = `Thank you: ${answer.status}.`;
    } catch (error) {
      told.textContent = error.message;
    }
  };
  const thumb = (label, value) => h("button", { type: "button", onclick: () => give(value) }, label);
  return h(
    "div",
    { class: "buttons" },
    thumb("Good reply", "up"),
    thumb("Bad reply", "down"),
    h("button", { type: "button", onclick: () => explain(id) }, "Explain step by step"),
    told,
  );
}

function answered(reply) {
  const text = reply.choices?.[0]?.message?.content ?? "";
  return [
    h("h3", {}, "Reply"),
    h("blockquote", { class: "reply" }, text || "(no text)"),
    thumbs(reply.id),
    h("h3", {}, "Why this model"),
    why(reply.routing),
  ];
}

export default {
  id: "playground",
  title: "Playground",
  about: "A prompt as an application would send it. It is answered, paid and learned from like any other.",
  everyS: 0,
  wide: true,
  load: async () => (await get("/v1/models")).data.map((model) => model.id),
  draw(models) {
    const prompt = h("textarea", { name: "prompt", rows: "4", required: true, maxlength: "100000" });
    const model = choice(
      "Model or policy",
      models.map((name) => option(name, name, name === "auto")),
    );
    const told = h("div", { "aria-live": "polite" });
    const buttons = [
      h("button", { type: "submit", class: "primary" }, "Send"),
      h("button", { type: "button" }, "Only decide"),
    ];
    const body = () => ({
      model: model.querySelector("select").value,
      messages: [{ role: "user", content: prompt.value }],
      router: { user: "dashboard" },
    });
    const tell = async (work) => {
      if (isWorking(buttons[0])) return;
      working(buttons, true);
      told.replaceChildren(h("p", { class: "message" }, "Waiting for the reply …"));
      try {
        told.replaceChildren(...(await work()).flat(Infinity).filter(Boolean));
      } catch (error) {
        told.replaceChildren(h("p", { class: "message bad", role: "alert" }, error.message));
      } finally {
        working(buttons, false);
      }
    };
    const form = h(
      "form",
      { "aria-label": "Playground" },
      h("label", { class: "field" }, h("span", {}, "Prompt"), prompt),
      model,
      h("div", { class: "buttons" }, buttons),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      tell(async () => answered(await post("/v1/chat/completions", body())));
    });
    buttons[1].addEventListener("click", () => {
      if (!form.reportValidity()) return;
      tell(async () => {
        const routing = await post("/v1/route", body());
        return [h("h3", {}, "Would be chosen"), ...why(routing, routing.expected_cost_usd)];
      });
    });
    return [form, told];
  },
};
