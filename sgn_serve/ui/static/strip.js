// Shows which model is right at which strength: a row for each model, a cell for each strength.

import { element } from "./elements.js";

const SIGNS = { right: ["✓", "right"], wrong: ["✗", "wrong"], "": ["·", "not asked yet"] };
const head = document.getElementById("strip-head");
const live = document.getElementById("strip-live");
const standard = document.getElementById("strip-standard");

export function showStrip(steps, recorded) {
  const strengths = Array.from({ length: steps + 1 }, (_, strength) => strength);
  head.replaceChildren(head.firstElementChild, ...strengths.map((k) => element("th", { scope: "col", textContent: `${k}` })));
  for (const [row, judged] of [[live, () => ""], [standard, (strength) => recorded[strength]]]) {
    row.replaceChildren(row.firstElementChild, ...strengths.map((strength) => cell(judged(strength))));
  }
}

export function markLive(strength, judged) {
  live.children[strength + 1]?.replaceWith(cell(judged));
  markStrength(strength);
}

export function markStrength(strength) {
  for (const row of [head, live, standard]) {
    [...row.children].forEach((child, at) => child.classList.toggle("now", at === strength + 1));
  }
}

function cell(judged) {
  const [sign, word] = SIGNS[judged];
  return element(
    "td",
    { className: judged },
    element("span", { ariaHidden: "true", textContent: sign }),
    element("span", { className: "hidden", textContent: word }),
  );
}
