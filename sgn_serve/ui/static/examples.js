// Loads the bundled examples: pictures, and perturbations of them that were computed in advance.

const FOLDER = "ui/examples/";

export async function loadExamples() {
  const response = await fetch(`${FOLDER}examples.json`);
  if (!response.ok) {
    throw new Error(`The examples cannot be loaded (${response.status}).`);
  }
  return response.json();
}

export function exampleUrl(example) {
  return FOLDER + example.file;
}

const decoded = new Map();

// Returns an ImageData of a bundled file, with exactly the values in the file.
async function pixels(file) {
  if (!decoded.has(file)) {
    const response = await fetch(FOLDER + file);
    const exact = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    const picture = await createImageBitmap(await response.blob(), exact);
    const context = canvas(picture.width, picture.height);
    context.drawImage(picture, 0, 0);
    decoded.set(file, context.getImageData(0, 0, picture.width, picture.height));
  }
  return decoded.get(file);
}

function canvas(width, height) {
  const element = document.createElement("canvas");
  element.width = width;
  element.height = height;
  return element.getContext("2d", { willReadFrequently: true });
}

// Returns the example with its perturbation at a strength from 0 to `steps`, as a PNG file, and the difference.
export async function tampered(example, attacked, strength, steps) {
  const clean = await pixels(example.file);
  const full = await pixels(example.tampered[attacked].file);
  const picture = new ImageData(clean.width, clean.height);
  const difference = new ImageData(clean.width, clean.height);
  for (let at = 0; at < clean.data.length; at += 1) {
    const change = at % 4 === 3 ? 0 : scaled(full.data[at] - clean.data[at], strength, steps);
    picture.data[at] = clean.data[at] + change;
    difference.data[at] = at % 4 === 3 ? 255 : 128 + 16 * change;
  }
  const context = canvas(clean.width, clean.height);
  context.putImageData(picture, 0, 0);
  const file = await new Promise((resolve) => context.canvas.toBlob(resolve, "image/png"));
  return { file, difference };
}

// Rounds half away from zero, as release/adversarial_examples.py does, so that the change is at most strength/255.
function scaled(difference, strength, steps) {
  return Math.sign(difference) * Math.floor((2 * Math.abs(difference) * strength + steps) / (2 * steps));
}
