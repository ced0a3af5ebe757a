// How budgets are kept: what was granted and spent, and what a dollar or a late reply costs now.

import { getIfThere } from "../api.js";
import { h } from "../dom.js";
import { count, fixed, percent, usd } from "../format.js";
import { bar } from "../marks.js";
import { bad, good } from "../palette.js";

const WIDTH = 1.5; // budgets that the bar is wide

function standing({ policy, budget, spent, granted, debt_requests: debt, price }) {
  const isMoney = budget === "money";
  const amount = isMoney ? usd : (value) => `${fixed(value, 1)} late replies`;
  const share = granted ? spent / granted : 0;
  const over = debt > 0;
  return [
    h("h3", {}, `${policy}: ${isMoney ? "money" : "late replies"}`),
    bar(share / WIDTH, over ? bad() : good()),
    h("p", {}, `${amount(spent)} of ${amount(granted)} granted so far (${percent(share)}).`),
    h("p", {}, h("strong", {}, over ? "Over" : "Within"), ` budget by ${count(Math.abs(debt))} requests' budgets.`),
    h("p", {}, `A ${isMoney ? "dollar" : "late reply"} costs the next request ${fixed(price, 3)} quality points.`),
  ];
}

export default {
  id: "budget",
  title: "Budget pacing",
  about: "Whether spending keeps to the budgets of policies, and what money costs now.",
  everyS: 15,
  load: () => getIfThere("/v1/budgets"),
  empty(found) {
    if (!found) return "This version tells nothing about budgets.";
    return found.budgets.length
      ? null
      : 'No budget is set: objective = "budget" in a policy keeps it to dollars per request or day.';
  },
  draw: ({ budgets }) => budgets.map(standing),
};
