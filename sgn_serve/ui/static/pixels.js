// Reads, perturbs and writes pictures at the network's size, with exactly the values in their files.

export const LEVELS = 255;

// Returns the ImageData of a PNG file.
export async function decode(file) {
  const exact = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const picture = await createImageBitmap(file, exact);
  const context = canvas(picture.width, picture.height);
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, picture.width, picture.height);
}

// Returns an ImageData as a PNG file.
export function encode(pixels) {
  const context = canvas(pixels.width, pixels.height);
  context.putImageData(pixels, 0, 0);
  return new Promise((resolve) => context.canvas.toBlob(resolve, "image/png"));
}

// Returns the PNG file that a JSON answer carries as base64.
export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

function canvas(width, height) {
  const element = document.createElement("canvas");
  element.width = width;
  element.height = height;
  return element.getContext("2d", { willReadFrequently: true });
}

// A perturbation at its full strength: a change for each value of an ImageData. Alpha never changes.
export function difference(clean, perturbed) {
  return Int16Array.from(clean.data, (value, at) => perturbed.data[at] - value);
}

// Returns uniform random changes of up to `most`: the same ones each time, so that answers can be compared.
export function noise(pixels, most) {
  let state = 1;
  return Int16Array.from(pixels.data, (_, at) => {
    if (at % 4 === 3) {
      return 0;
    }
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes' linear congruential generator
    return Math.floor((state / 2 ** 32) * (2 * most + 1)) - most;
  });
}

// Returns the picture with a perturbation at a strength of `strength` out of `steps`.
export function perturbed(clean, changes, strength, steps) {
  const picture = new ImageData(clean.width, clean.height);
  for (let at = 0; at < clean.data.length; at += 1) {
    picture.data[at] = clean.data[at] + scaled(changes[at], strength, steps); // the array keeps it from 0 to 255
  }
  return picture;
}

// Draws what a perturbation has changed on grey, amplified.
export function drawDifference(element, clean, picture, amplification) {
  element.width = clean.width;
  element.height = clean.height;
  const drawn = new ImageData(clean.width, clean.height);
  for (let at = 0; at < clean.data.length; at += 1) {
    drawn.data[at] = at % 4 === 3 ? LEVELS : 128 + amplification * (picture.data[at] - clean.data[at]);
  }
  element.getContext("2d").putImageData(drawn, 0, 0);
}

// Rounds half away from zero, as export/examples.py does, so that the change is at most its share of it.
function scaled(change, strength, steps) {
  return Math.sign(change) * Math.floor((2 * Math.abs(change) * strength + steps) / (2 * steps));
}
