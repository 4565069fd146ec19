// Tells which model is served, how it was measured and what the page does not show. Every figure is from the server.

import { element, percent, table } from "./elements.js";
import { LEVELS } from "./pixels.js";

const RESIZED = { stretch: "stretched", crop: "its middle, cropped", pad: "padded" };

export function size({ preprocessing: { width, height } }) {
  return `${width}\u00a0×\u00a0${height} pixels`;
}

// Returns how a picture of any size becomes the network's, in words.
export function resizing(card) {
  return `${size(card)}, ${RESIZED[card.preprocessing.resize_mode]}`;
}

// Returns the title of a model without its article, to name it again: "a standard model" gives "standard model".
export function bare(title) {
  return title.replace(/^an? /, "");
}

// Returns a model's title as a column's heading: "a standard model" gives "Standard".
export function heading(title) {
  const short = title.replace(/^an? (.+) model$/, "$1");
  return short[0].toUpperCase() + short.slice(1);
}

export function showServed(card) {
  const name = [card.architecture, card.data].filter(Boolean).join(", trained on ");
  const parts = [name, card.precision, `${card.classes.length} classes`, size(card), `model ${card.model.slice(0, 8)}`];
  document.getElementById("served").textContent = `Serving ${parts.filter(Boolean).join(" · ")}`;
}

// examples: the server's, or null if it has none
export function showFacts(card, examples) {
  const blocks = [examples ? recordedAndLive(card, examples) : withoutExamples(card)];
  if (examples?.right_of_all) {
    blocks.push(counts(examples));
  }
  blocks.push(robustness(card));
  if (card.notes.length) {
    blocks.push(notes(card));
  }
  document.getElementById("facts").replaceChildren(...blocks);
}

function block(title, ...children) {
  return element("div", {}, element("h3", {}, title), ...children);
}

function paragraph(...parts) {
  return element("p", {}, ...parts);
}

// Keeps a name in one line.
function whole(text) {
  return element("span", { className: "whole" }, text);
}

function code(text) {
  return element("code", {}, text);
}

function recordedAndLive(card, { models, steps, norm, source, examples }) {
  const all = Object.entries(models);
  const recorded = all.filter(([, model]) => !model.served).map(([, model]) => model);
  const others = recorded.map(
    (model) =>
      `The answers of the ${bare(model.title)} were recorded when the perturbations were made. ` +
      `It is a ${model.architecture}, trained with the method ${model.method}.`,
  );
  const attacks = all
    .filter(([key]) => key in examples[0].tampered)
    .map(([, { title, attacks: used }]) => element("li", {}, `${title}: ${used.map((attack) => attack.name).join("; ")}`));
  const missed = all.filter(([key]) => examples.every(({ tampered }) => tampered[key] && !tampered[key].fooled));
  return block(
    recorded.length ? "Live and recorded" : "Live",
    paragraph(["This model's answers come from the server each time you move the slider.", ...others].join(" ")),
    paragraph(
      `Perturbations of the examples change each colour value by at most ${steps} of ${LEVELS} (`,
      whole(norm),
      "). They were computed with full knowledge of the model that they were made to fool:",
    ),
    element("ul", {}, ...attacks),
    ...missed.map(([, { title }]) => paragraph(`On none of these examples was ${title} fooled. A stronger attack may do it.`)),
    paragraph(`Source of the examples: ${source}.`),
    paragraph(yourPicture(card)),
  );
}

function withoutExamples(card) {
  return block(
    "Live",
    paragraph("This model's answers come from the server each time you move the slider."),
    paragraph(yourPicture(card)),
    paragraph(
      "Random noise is not an attack: a perturbation that is computed for one picture can fool a network with much smaller " +
        "changes. No examples of such perturbations came with this model: ",
      code("sgn export --examples"),
      " makes some.",
    ),
  );
}

function yourPicture(card) {
  return `A picture of your own is sent to this server and nowhere else. The network sees it at ${resizing(card)}.`;
}

function robustness(card) {
  const { measured } = card;
  if (!measured) {
    return block(
      "How robust it is, nobody has measured",
      paragraph(
        "No measured accuracy came with this model, neither on clean pictures nor on attacked ones. ",
        code("sgn judge"),
        " measures both, and ",
        code("sgn export"),
        " takes the result along.",
      ),
    );
  }
  const { data, split, pictures, norm, eps, date } = measured;
  const largest = `${Math.round(LEVELS * eps)} of ${LEVELS}`;
  return block(
    "More robust does not mean invulnerable",
    paragraph(`Share of ${pictures.toLocaleString("en")} ${split} pictures of ${data} that are classified correctly:`),
    overview(card),
    paragraph(
      `Attacks changed each colour value by at most ${largest} (`,
      whole(norm),
      `)${date ? `, measured on ${date}` : ""}. Stronger attacks may leave fewer.`,
    ),
    measured.likely_overestimated ? element("p", { className: "problem" }, overestimated(card)) : null,
    everyAttack(card),
  );
}

// Returns how the figures' columns are called. A network without a block has only one.
function columns({ has_block: hasBlock }, states) {
  return states.map((state) => (!hasBlock && state === "block off" ? "this model" : state));
}

function overview(card) {
  const { clean, lowest, auto_attack: autoAttack, headline, headline_interval_95: interval } = card.measured;
  const states = Object.keys(lowest);
  const row = (title, shares) => [title, ...states.map((state) => (state in shares ? percent(shares[state]) : "–"))];
  const rows = [row("unattacked", clean), row("under AutoAttack", autoAttack), row("under every attack tried", lowest)];
  const told = rows.filter(([, ...cells]) => cells.some((text) => text !== "–"));
  const drawn = table("counts", ["Pictures", ...columns(card, states)], told);
  if (!interval) {
    return drawn;
  }
  const [low, high] = interval.map((share) => percent(share));
  return element("div", {}, drawn, paragraph(`The lowest, ${percent(headline)}, is between ${low} and ${high} with 95\u00a0% confidence.`));
}

function overestimated({ flags }) {
  const names = (flags ?? []).map((flag) => flag.name);
  return `These figures are likely too high${names.length ? `. Signs of it: ${names.join(", ")}` : ""}.`;
}

function everyAttack(card) {
  const { rows } = card.measured;
  const states = [...new Set(rows.map((row) => row.block))];
  const byAttack = new Map();
  for (const { attack, block: state, accuracy } of rows) {
    byAttack.set(attack, { ...byAttack.get(attack), [state]: percent(accuracy) });
  }
  const lines = [...byAttack].map(([attack, shares]) => [attack, ...states.map((state) => shares[state] ?? "–")]);
  const title = `All ${byAttack.size} attacks and settings that were measured`;
  const drawn = table("counts", ["Attack", ...columns(card, states)], lines);
  return element("details", {}, element("summary", {}, title), drawn);
}

function counts({ right_of_all: { pictures, rows }, models }) {
  const names = Object.keys(models).filter((key) => rows.every(({ right }) => key in right));
  const titles = names.map((key) => heading(models[key].title));
  const words = (against) => (against === null ? "as they are" : `made to fool ${models[against].title}`);
  return block(
    "Transfer of perturbations between models",
    paragraph(`Number of ${pictures} pictures, the examples among them, that are classified correctly. Recorded, at full strength:`),
    table("counts", ["Pictures", ...titles], rows.map(({ against, right }) => [words(against), ...names.map((key) => `${right[key]}`)])),
  );
}

function notes(card) {
  return block("Files that do not fit this model", ...card.notes.map((note) => element("p", { className: "problem" }, note)));
}

export function disagreementNote(card) {
  const [[attack, { area_under_roc: area }] = ["", {}]] = Object.entries(card.disagreement?.attacks ?? {});
  const meaning = "Difference between the answers with the block on and off, from 0 to 1 bit.";
  if (area === undefined) {
    return meaning;
  }
  const worth = area < 0.7 ? "hardly a sign of tampering" : area < 0.9 ? "some sign of tampering" : "a sign of tampering";
  return `${meaning} It is ${worth}: the area under the ROC curve is ${area} for ${attack} pictures, and 0.5 is chance.`;
}
