// The page: holds what is chosen, asks the server, shows the answers.

import { fromRecord, fromServer, outcome, showAnswers, summary } from "./answers.js";
import { offerFiles, onOwnPicture, showGallery } from "./chooser.js";
import { loadExamples, tampered } from "./examples.js";
import { disagreementNote, showFacts, showOtherModel, showServed } from "./facts.js";
import { ask, onTokenWanted } from "./server.js";
import { markLive, markStrength, showStrip } from "./strip.js";
import { askForToken } from "./token.js";

const PAUSE_MS = 90; // before a request while the slider moves
const PLAY_MS = 600; // shortest time that a step is shown

const byId = (id) => document.getElementById(id);
const block = byId("block");
const strength = byId("strength");
const play = byId("play");

let described = null; // examples.json
let card = null; // the server's model card
let example = null; // the example that is shown, or null
let own = null; // the visitor's file that is shown, or null
let request = new AbortController();
let playing = false;

const attacked = () => document.querySelector("input[name=attacked]:checked").value;
const step = () => Number(strength.value);
const trueLabel = () => {
  const label = example && described.class_names[example.label];
  return label && (!card || card.classes.includes(label)) ? label : null;
};

// Shows the chosen picture, then asks the server about it. A newer call aborts an older one.
async function update({ pause = 0 } = {}) {
  request.abort();
  request = new AbortController();
  const { signal } = request;
  const at = step();
  try {
    const file = await showPicture(at, signal);
    await new Promise((resolve) => setTimeout(resolve, pause));
    signal.throwIfAborted();
    byId("answers").ariaBusy = "true";
    const answers = await classify(file, signal);
    if (example) {
      answers.push(standardAnswer(at));
      markLive(at, answers[0].judged(trueLabel()));
    }
    showAnswers(answers, trueLabel());
    byId("outcome").textContent = outcome(answers, trueLabel(), example && at > 0);
    byId("summary").textContent = summary(answers, trueLabel());
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

async function showPicture(at, signal) {
  const picture = byId("picture");
  byId("perturbation-figure").hidden = !example;
  byId("tampering").hidden = !example;
  if (!example) {
    showImage(picture, own, "Your picture");
    byId("picture-caption").textContent = "Your picture. The network sees it at the size of the heat map.";
    byId("strength-note").textContent = "Perturbations exist only for the examples, because they were computed in advance. Choose an example to tamper with it.";
    return own;
  }
  const { file, difference } = await tampered(example, attacked(), at, described.steps);
  signal.throwIfAborted();
  const label = described.class_names[example.label];
  showImage(picture, file, at ? `Example: ${label}, perturbed by ${at} of 255` : `Example: ${label}`);
  byId("picture-caption").textContent = "The picture that is sent";
  byId("perturbation").getContext("2d").putImageData(difference, 0, 0);
  const words = at ? `${at} of 255` : "none";
  byId("strength-text").textContent = words;
  strength.setAttribute("aria-valuetext", words);
  byId("strength-note").textContent = `Largest change of a colour value, out of 255. Found by ${example.tampered[attacked()].attack}.`;
  markStrength(at);
  return file;
}

async function classify(file, signal) {
  const answers = [];
  const times = [];
  const topK = Math.min(card?.classes.length ?? 10, 1000);
  const one = async (on) => {
    const fields = { image: file, self_gradient: String(on), top_k: String(topK) };
    const { answer, milliseconds } = await ask("classify", { fields, signal });
    times.push(`${milliseconds.toFixed(0)} ms with the block ${on ? "on" : "off"}`);
    return answer;
  };
  if (block.checked) {
    const prediction = await one(true);
    answers.push(fromServer("Block on", "on", prediction));
    showDisagreement(prediction);
  }
  answers.push(fromServer("Block off", "off", await one(false)));
  byId("disagreement-row").hidden = byId("disagreement-note").hidden = !block.checked;
  byId("latency").textContent = `${times.join(", ")} (from request to answer, in this browser)`;
  return answers;
}

function showDisagreement({ disagreement, suspicious }) {
  const verdict = { true: " – suspicious", false: " – not suspicious", null: "" }[suspicious];
  byId("disagreement").textContent = `${disagreement.toFixed(4)} bit${verdict}`;
  byId("disagreement-bar").style.width = `${100 * disagreement}%`;
  byId("disagreement-note").textContent = disagreementNote(card);
}

function standardAnswer(at) {
  const shares = example.tampered[attacked()].standard[at];
  return fromRecord("Standard", "standard", described.class_names, shares);
}

async function explain(file, signal) {
  const image = byId("heat-map");
  try {
    const { answer } = await ask("explain", { fields: { image: file }, read: "blob", signal });
    showImage(image, answer, "Heat map of the self-gradient over the picture");
  } catch (error) {
    image.hidden = true;
    if (error.code !== "no_gradient") {
      throw error;
    }
  }
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
  byId("outcome").textContent = byId("summary").textContent = "";
  byId("heat-map").hidden = true;
  const note = error.requestId ? ` (${error.code}, request ${error.requestId})` : "";
  byId("problem").textContent = error.message + note;
  byId("problem").hidden = false;
}

function hideProblem() {
  byId("problem").hidden = true;
  byId("problem").textContent = "";
}

function chooseExample(chosen) {
  example = chosen;
  own = null;
  strength.value = "0";
  restartStrip();
  return update();
}

function restartStrip() {
  if (!example) {
    return;
  }
  const label = described.class_names[example.label];
  const judge = (shares) => fromRecord("", "", described.class_names, shares).judged(label);
  showStrip(described.steps, example.tampered[attacked()].standard.map(judge));
  markStrength(step());
}

async function playAll() {
  playing = !playing;
  play.textContent = playing ? "Stop" : "Play";
  for (let at = 0; playing && at <= described.steps; at += 1) {
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
  block.addEventListener("change", () => {
    restartStrip();
    update();
  });
  for (const radio of document.querySelectorAll("input[name=attacked]")) {
    radio.addEventListener("change", () => {
      restartStrip();
      update();
    });
  }
  play.addEventListener("click", playAll);
  onOwnPicture((file) => {
    playing = false;
    example = null;
    own = file;
    update();
  });
}

async function start() {
  onTokenWanted(askForToken);
  listen();
  try {
    described = await loadExamples();
    strength.max = String(described.steps);
    showGallery(described, (chosen) => {
      playing = false;
      chooseExample(chosen);
    });
    showFacts(null, described);
    ({ answer: card } = await ask("model"));
    showServed(card);
    offerFiles(card);
    showFacts(card, described);
    showOtherModel(card, described);
    if (!card.has_block) {
      block.checked = false;
      block.disabled = true;
    }
    await chooseExample(described.examples[0]);
  } catch (error) {
    showProblem(error);
  }
}

start();
