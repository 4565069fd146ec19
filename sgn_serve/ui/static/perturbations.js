// Lists the kinds of perturbation that a picture can be given, and makes them.

import { decode, difference, fromBase64, LEVELS, noise } from "./pixels.js";

const NOISE = { steps: 8, unit: 8 }; // random noise has to be stronger to be seen at all: up to 64 of 255

// A kind of perturbation.
// title: whom it is made to fool; steps: its strengths; unit: the change of a colour value in one step, of 255
// attacked: a key of the examples' models, or null for noise
class Kind {
  constructor(key, title, steps, unit, attacked) {
    this.key = key;
    this.title = title;
    this.steps = steps;
    this.unit = unit;
    this.attacked = attacked;
  }

  // The factor at which the strongest change is drawn as black or white.
  get amplification() {
    return Math.max(1, Math.floor(128 / (this.steps * this.unit)));
  }

  inWords(strength) {
    return strength ? `${strength * this.unit} of ${LEVELS}` : "none";
  }
}

// Returns the kinds, noise last. examples: the server's, or null if it has none
export function kindsOf(examples) {
  const kinds = [];
  if (examples) {
    for (const [key, { title }] of Object.entries(examples.models)) {
      if (examples.examples.every(({ tampered }) => key in tampered)) {
        kinds.push(new Kind(key, title, examples.steps, 1, key));
      }
    }
  }
  return [...kinds, new Kind("noise", "nobody (random noise)", NOISE.steps, NOISE.unit, null)];
}

const lent = new Map();

// Returns what a kind changes in a picture at full strength.
// from: the example that the perturbation was computed for
export async function changes(kind, pixels, from) {
  if (kind.attacked === null) {
    return noise(pixels, kind.steps * kind.unit);
  }
  const key = `${from.name} ${kind.key}`;
  if (!lent.has(key)) {
    const files = [from.png, from.tampered[kind.attacked].png].map(fromBase64);
    lent.set(key, difference(...(await Promise.all(files.map(decode)))));
  }
  return lent.get(key);
}

