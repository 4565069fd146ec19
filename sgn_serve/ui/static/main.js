// The page: holds what is chosen, asks the server, shows the answers.

import { fromRecord, fromServer, outcome, showAnswers, summary } from "./answers.js";
import { markFirst, offerFiles, onOwnPicture, showGallery } from "./chooser.js";
import { element } from "./elements.js";
import { bare, disagreementNote, heading, resizing, showFacts, showServed, size } from "./facts.js";
import { changes, kindsOf } from "./perturbations.js";
import { decode, drawDifference, encode, fromBase64, LEVELS, perturbed } from "./pixels.js";
import { ask, onTokenWanted } from "./server.js";
import { mark, markStrength, showStrip } from "./strip.js";
import { askForToken } from "./token.js";

const PAUSE_MS = 90; // before a request while the slider moves
const PLAY_MS = 600; // shortest time that a step is shown
const LARGE_PIXELS = 128; // a network's picture of this side is drawn smoothly, not as squares

const FIELD = { on: "true", off: "false", auto: "auto" }; // values of self_gradient
const TITLES = { on: "Block on", off: "Block off", auto: "Block auto" };

const byId = (id) => document.getElementById(id);
const modes = [...document.querySelectorAll("input[name=block]")];
const strength = byId("strength");
const play = byId("play");
const lent = byId("lent");

let card = null; // the server's model card
let examples = null; // the model's own examples, or null if it has none
let kinds = []; // see perturbations.js
let chosen = null; // the Picture that is shown, or null
let request = new AbortController();
let playing = false;
let waiting = null; // a file that the visitor chose before the model card was there

// A picture that was chosen.
// example: the server's example, or null; file: the visitor's file, or null
class Picture {
  constructor(example, file) {
    this.example = example;
    this.file = file;
    this.truth = example && examples.class_names[example.label];
    this.seen = null; // a PNG file of the picture as the network sees it
    this.pixels = null; // the same as ImageData
    this.before = new Map(); // what the model says of it untampered: "on", "off" or "auto" -> label
  }

  // Has the server make a visitor's picture what the network sees.
  async load(signal) {
    if (this.pixels) {
      return;
    }
    this.seen = this.example
      ? fromBase64(this.example.png)
      : (await ask("preprocess", { fields: { image: this.file }, read: "blob", signal })).answer;
    this.pixels = await decode(this.seen);
  }

  // The file that is sent where nothing is tampered with.
  get untampered() {
    return takesPng() ? this.seen : this.file;
  }
}

const takesPng = () => card.preprocessing.formats.includes("PNG");
const kind = () => kinds.find(({ key }) => key === document.querySelector("input[name=kind]:checked")?.value) ?? kinds[0];
const step = () => Number(strength.value);
const mode = () => modes.find(({ checked }) => checked).value; // what is asked for
const state = () => (card.has_block ? mode() : "on"); // the kind of the first answer
const lender = () => chosen.example ?? examples?.examples[Number(lent.value)];

// Shows the chosen picture, then asks the server about it. A newer call aborts an older one.
async function update({ pause = 0 } = {}) {
  request.abort();
  if (!chosen) {
    return;
  }
  request = new AbortController();
  const { signal } = request;
  const at = step();
  const picture = chosen;
  try {
    await picture.load(signal);
    const file = await showPicture(picture, at, signal);
    await new Promise((resolve) => setTimeout(resolve, pause));
    signal.throwIfAborted();
    byId("answers").ariaBusy = "true";
    if (at > 0 && !picture.before.has(state())) {
      remember(picture, await classify(picture.untampered, signal)); // the switch was turned meanwhile
    }
    const answers = await classify(file, signal);
    if (at === 0) {
      remember(picture, answers);
    }
    showOutcome(picture, at, [...answers, ...recorded(picture, at)]);
    await explain(file, signal);
    hideProblem();
  } catch (error) {
    if (error.name === "AbortError") {
      return;
    }
    showProblem(error);
  }
  byId("answers").ariaBusy = "false";
}

function showOutcome(picture, at, answers) {
  const { truth } = picture;
  const before = picture.before.get(answers[0].kind);
  mark(at, truth ? answers[0].judged(truth) : answers[0].label === before ? "same" : "changed");
  showAnswers(answers, truth);
  byId("outcome").textContent = outcome(answers, truth, before, at > 0);
  byId("summary").textContent = summary(answers, truth);
}

function remember(picture, answers) {
  for (const answer of answers) {
    picture.before.set(answer.kind, answer.label);
  }
}

// Draws the chosen picture at a strength, and returns the file to send.
async function showPicture(picture, at, signal) {
  const isOwn = picture.example === null;
  const now = kind();
  let file = picture.untampered;
  let pixels = picture.pixels;
  if (at > 0) {
    pixels = perturbed(picture.pixels, await changes(now, picture.pixels, lender()), at, now.steps);
    file = await encode(pixels);
    signal.throwIfAborted();
  }
  byId("nothing").hidden = true;
  byId("pictures").hidden = false;
  byId("tampering").hidden = !takesPng();
  byId("original-figure").hidden = !isOwn;
  const shown = isOwn ? "Your picture as the network sees it" : `Example: ${picture.truth}`;
  showImage(byId("picture"), at ? file : picture.seen, at ? `${shown}, perturbed by ${now.inWords(at)}` : shown);
  byId("picture-caption").textContent = `Input of the network: ${isOwn ? resizing(card) : size(card)}`;
  const what = now.attacked === null ? "noise" : "perturbation";
  const caption = `The ${what}, amplified ×${now.amplification}`;
  byId("perturbation-figure").hidden = !takesPng();
  byId("perturbation").ariaLabel = byId("perturbation-caption").textContent = caption;
  drawDifference(byId("perturbation"), picture.pixels, pixels, now.amplification);
  byId("strength-text").textContent = now.inWords(at);
  strength.setAttribute("aria-valuetext", now.inWords(at));
  markStrength(at);
  return file;
}

async function classify(file, signal) {
  const answers = [];
  const times = [];
  const topK = Math.min(card.classes.length, card.limits.max_top_k);
  const one = async (asked) => {
    const fields = { image: file, self_gradient: FIELD[asked], top_k: String(topK) };
    const { answer, milliseconds } = await ask("classify", { fields, signal });
    const which = !card.has_block ? "" : asked === "auto" ? " with auto" : ` with the block ${asked}`;
    times.push(`${milliseconds.toFixed(0)} ms${which}`);
    return answer;
  };
  const asked = mode();
  const prediction = await one(asked);
  answers.push(card.has_block ? fromServer(TITLES[asked], asked, prediction) : fromServer("This model", "on", prediction));
  if (asked !== "off") {
    answers.push(fromServer(TITLES.off, "off", await one("off")));
  }
  showDisagreement(prediction);
  byId("passes").textContent = passes(prediction);
  byId("latency").textContent = `${times.join(", ")} (from request to answer, in this browser)`;
  return answers;
}

// Returns what auto has done, in words; "" where nobody asked for it.
function passes({ mode: asked, self_gradient: needed }) {
  if (asked !== "auto") {
    return "";
  }
  return `auto: the second pass was ${needed ? "" : "not "}needed.`;
}

// An answer of one pass has nothing to disagree with.
function showDisagreement({ disagreement, suspicious }) {
  byId("disagreement-row").hidden = byId("disagreement-note").hidden = disagreement === null;
  if (disagreement === null) {
    return;
  }
  const verdict = { true: " – suspicious", false: " – not suspicious", null: "" }[suspicious];
  byId("disagreement").textContent = `${disagreement.toFixed(4)} bit${verdict}`;
  byId("disagreement-bar").style.width = `${100 * disagreement}%`;
  byId("disagreement-note").textContent = disagreementNote(card);
}

// Returns the recorded answers to an example, of models that are not served. Nobody was asked about noise.
function recorded(picture, at) {
  const { attacked } = kind();
  if (!picture.example || (attacked === null && at > 0)) {
    return [];
  }
  return recordedRows(picture.example, attacked).map((row) => fromRecord(row, examples.class_names, row.shares[at]));
}

function recordedRows(example, attacked) {
  const [first] = Object.keys(example.tampered);
  const records = example.tampered[attacked ?? first].recorded;
  return Object.entries(records).map(([key, shares]) => {
    const { title } = examples.models[key];
    return { name: heading(title), title: bare(title), shares };
  });
}

async function explain(file, signal) {
  if (!card.has_gradient) {
    return;
  }
  const { answer } = await ask("explain", { fields: { image: file }, read: "blob", signal });
  showImage(byId("heat-map"), answer, "Heat map of the self-gradient over the picture");
}

function showImage(image, file, alt) {
  URL.revokeObjectURL(image.src);
  image.onerror = () => (image.hidden = true); // a format that only the server can read
  image.onload = () => (image.hidden = false);
  image.src = URL.createObjectURL(file);
  image.alt = alt;
}

function showProblem(error) {
  showAnswers([], null);
  byId("outcome").textContent = byId("summary").textContent = byId("passes").textContent = "";
  byId("heat-map").hidden = true;
  if (!chosen?.pixels) {
    byId("pictures").hidden = byId("tampering").hidden = true;
    byId("nothing").hidden = false;
  }
  const note = error.requestId ? ` (${error.code}, request ${error.requestId})` : "";
  byId("problem").textContent = error.message + note;
  byId("problem").hidden = false;
}

function hideProblem() {
  byId("problem").hidden = true;
  byId("problem").textContent = "";
}

function choose(example, file) {
  playing = false;
  chosen = new Picture(example, file);
  strength.value = "0";
  if (file) {
    showImage(byId("original"), file, "Your picture as it is");
  }
  restart();
  return update();
}

// Shows the kind of perturbation anew: the slider, the strip and the words about it. Marks of another kind are gone.
function restart() {
  if (!chosen) {
    return;
  }
  const now = kind();
  const { example, truth } = chosen;
  strength.max = String(now.steps);
  byId("lender").hidden = example !== null || now.attacked === null;
  const rows = example && now.attacked !== null ? recordedRows(example, now.attacked) : [];
  const judge = (row) => row.shares.map((shares) => fromRecord(row, examples.class_names, shares).judged(truth));
  const marks = rows.map((row) => ({ name: row.name, marks: judge(row) }));
  showStrip(now, example ? "Right?" : "Same answer?", marks);
  byId("strength-note").textContent = takesPng() ? aboutKind(now) : "This server takes no PNG files, in which a tampered picture would be sent.";
}

function aboutKind(now) {
  const largest = `Largest change of a colour value, out of ${LEVELS}.`;
  if (now.attacked === null) {
    return `${largest} Random noise is aimed at no model, so it takes more of it than of an attack.`;
  }
  const { attack } = lender().tampered[now.attacked];
  const borrowed = "It was computed for the example: one for your own picture would fool the model more often.";
  return `${largest} Found by ${attack}.${chosen.example ? "" : ` ${borrowed}`}`;
}

function showKinds() {
  const radios = kinds.map(({ key, title }, index) => {
    const radio = element("input", { type: "radio", name: "kind", value: key, checked: index === 0 });
    radio.addEventListener("change", () => {
      playing = false;
      restart();
      update();
    });
    return element("label", {}, radio, ` ${title}`);
  });
  byId("kind-choices").replaceChildren(...radios);
  byId("kinds").hidden = kinds.length === 1;
  const lenders = examples?.examples.map((example, index) =>
    element("option", { value: String(index), textContent: examples.class_names[example.label] }),
  );
  lent.replaceChildren(...(lenders ?? []));
}

async function playAll() {
  playing = !playing;
  play.textContent = playing ? "Stop" : "Play";
  for (let at = 0; playing && at <= Number(strength.max); at += 1) {
    strength.value = String(at);
    await Promise.all([update(), new Promise((resolve) => setTimeout(resolve, PLAY_MS))]);
  }
  playing = false;
  play.textContent = "Play";
}

function listen() {
  strength.addEventListener("input", () => {
    playing = false;
    update({ pause: PAUSE_MS });
  });
  for (const control of [...modes, lent]) {
    control.addEventListener("change", () => {
      restart();
      update();
    });
  }
  play.addEventListener("click", playAll);
}

// Fits the page to the served model.
function fit() {
  const { width, height } = card.preprocessing;
  document.documentElement.style.setProperty("--aspect", `${width} / ${height}`);
  document.body.classList.toggle("smooth", Math.max(width, height) >= LARGE_PIXELS);
  document.body.classList.toggle("without-examples", examples === null);
  byId("about-block").hidden = byId("switch").hidden = !card.has_block;
  byId("heat-map-figure").hidden = !card.has_gradient;
  byId("auto").hidden = card.auto === null;
  modes.find(({ value }) => value === card.default_mode).checked = true;
  kinds = kindsOf(examples);
  showKinds();
  showServed(card);
  showFacts(card, examples);
  offerFiles(card);
}

async function start() {
  onTokenWanted(askForToken);
  onOwnPicture((file) => (kinds.length ? choose(null, file) : (waiting = file)));
  try {
    ({ answer: card } = await ask("model"));
    if (card.examples > 0 && takesPng()) {
      ({ answer: examples } = await ask("model/examples"));
      showGallery(examples, (example) => choose(example, null));
    }
    fit();
    listen();
    if (waiting) {
      await choose(null, waiting);
    } else if (examples) {
      markFirst();
      await choose(examples.examples[0], null);
    } else {
      byId("answers").ariaBusy = "false";
    }
  } catch (error) {
    showProblem(error);
    byId("answers").ariaBusy = "false";
  }
}

start();
