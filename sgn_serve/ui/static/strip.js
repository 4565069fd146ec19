// Shows a mark for each strength: a row for this model, and one for each model whose answers were recorded.

import { element } from "./elements.js";

const SIGNS = { right: "✓", wrong: "✗", same: "✓", changed: "✗", "": "·" };
const MOST_NUMBERS = 17; // columns that have room for a number and a sign
const LOOKS = { right: "right", wrong: "wrong", same: "right", changed: "wrong", "": "" };
const head = document.getElementById("strip-head");
const body = document.getElementById("strip-body");

// Draws an empty row for this model, and a full one for each recorded model.
// question: what the marks answer; recorded: rows of { name, marks }
export function showStrip(kind, question, recorded) {
  const strengths = Array.from({ length: kind.steps + 1 }, (_, strength) => strength);
  const every = Math.ceil(strengths.length / MOST_NUMBERS);
  const number = (strength) => (strength % every ? "" : `${strength * kind.unit}`);
  const titles = strengths.map((strength) => element("th", { scope: "col", textContent: number(strength) }));
  head.parentElement.classList.toggle("dense", every > 1);
  head.replaceChildren(element("tr", {}, element("th", { scope: "col", textContent: question }), ...titles));
  const rows = [row("This model", "live", strengths.map(() => "")), ...recorded.map(({ name, marks }) => row(name, "recorded", marks))];
  body.replaceChildren(...rows);
  document.getElementById("strip-caption").textContent = `${question} For each strength, out of 255`;
}

// Notes this model's mark at a strength.
export function mark(strength, word) {
  body.firstElementChild?.children[strength + 1]?.replaceWith(cell(word));
  markStrength(strength);
}

export function markStrength(strength) {
  for (const row of [...head.children, ...body.children]) {
    [...row.children].forEach((child, at) => child.classList.toggle("now", at === strength + 1));
  }
}

function row(name, origin, words) {
  const badge = element("span", { className: origin === "live" ? "badge live" : "badge", textContent: origin });
  return element("tr", {}, element("th", { scope: "row" }, name, " ", badge), ...words.map(cell));
}

function cell(word) {
  return element(
    "td",
    { className: LOOKS[word] },
    element("span", { ariaHidden: "true", textContent: SIGNS[word] }),
    element("span", { className: "hidden", textContent: word || "not asked yet" }),
  );
}
