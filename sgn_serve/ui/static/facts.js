// Tells which model is served and what the page does not show, from the model card and the recorded counts.

import { element, percent } from "./elements.js";

const KINDS = { clean: "as they are", "against standard": "made to fool the standard model", "against bundled": "made to fool this model" };

// Returns whether the served model is the one that the examples were made for.
export function sameModel(card, described) {
  return card.model === described.models.bundled.checkpoint_sha256;
}

export function showServed(card) {
  const name = [card.architecture, card.data].filter(Boolean).join(", trained on ");
  const text = `Serving ${name || card.name} · ${card.classes.length} classes · model ${card.model.slice(0, 8)}`;
  document.getElementById("served").textContent = text;
}

export function showOtherModel(card, described) {
  const other = document.getElementById("other-model");
  other.hidden = sameModel(card, described);
  if (!other.hidden) {
    document.getElementById("this-model").textContent = "the bundled model";
    other.textContent =
      `The server serves model ${card.model.slice(0, 8)}, but these perturbations were made against the bundled model ` +
      `${described.models.bundled.checkpoint_sha256.slice(0, 8)} and the standard one. Attacks on the served model ` +
      "itself would fool it more often than you see here.";
  }
}

export function showFacts(card, described) {
  document.getElementById("facts").replaceChildren(recordedAndLive(described), robustness(card, described));
}

function recordedAndLive({ models }) {
  const attacks = (name) => models[name].attacks.map((attack) => attack.name).join("; ");
  return element(
    "div",
    {},
    element("h3", {}, "Live and recorded"),
    element(
      "p",
      {},
      "This model's answers come from the server each time you move the slider. The standard model's answers were " +
        "recorded when the perturbations were made. " +
        `It is a ${models.standard.architecture}, trained on the same data without any defence.`,
    ),
    element(
      "p",
      {},
      "Perturbations change each colour value by at most 8 of 255. They were computed with full knowledge of the attacked " +
        `model (this model: ${attacks("bundled")}; standard: ${attacks("standard")}).`,
    ),
  );
}

function robustness(card, described) {
  const measured = card?.measured;
  return element(
    "div",
    {},
    element("h3", {}, "More robust does not mean invulnerable"),
    element(
      "p",
      {},
      `Number of this repository's ${described.right_of_all.pictures} example pictures that are classified correctly ` +
        "(recorded, at full strength):",
    ),
    counts(described),
    measured ? element("p", {}, lowest(measured)) : null,
  );
}

function lowest({ pictures, data, lowest: shares }) {
  const words = Object.entries(shares).map(([state, share]) => `${percent(share)} with the ${state}`);
  return (
    `Share of ${pictures.toLocaleString("en")} test pictures of ${data} that are classified correctly under every attack ` +
    `in the model card: ${words.join(", ")}. Stronger attacks may leave fewer.`
  );
}

function counts({ right_of_all: rightOfAll }) {
  const rows = Object.entries(KINDS).map(([kind, words]) =>
    element(
      "tr",
      {},
      element("th", { scope: "row", textContent: words }),
      element("td", { textContent: rightOfAll[kind].bundled }),
      element("td", { textContent: rightOfAll[kind].standard }),
    ),
  );
  const heads = ["Pictures", "This model", "Standard model"].map((text) => element("th", { scope: "col", textContent: text }));
  return element("table", { className: "counts" }, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
}

export function disagreementNote(card) {
  const area = card?.disagreement?.attacks?.["PGD-20"]?.area_under_roc;
  if (area === undefined) {
    return "";
  }
  const worth = area < 0.7 ? "hardly a sign of tampering" : area < 0.9 ? "some sign of tampering" : "a sign of tampering";
  return (
    `Difference between the answers with the block on and off, from 0 to 1 bit. It is ${worth}: the area under the ROC ` +
    `curve is ${area} for PGD-20 pictures, and 0.5 is chance.`
  );
}
