// Lets the visitor choose a picture: an example, a file, a dropped file, or one from the clipboard.

import { element } from "./elements.js";
import { fromBase64 } from "./pixels.js";

const gallery = document.getElementById("gallery");
const file = document.getElementById("file");
const drop = document.getElementById("drop");
const own = document.getElementById("own");

export function showGallery({ examples, class_names: classNames }, onExample) {
  const choices = examples.map((example) => {
    const label = classNames[example.label];
    const radio = element("input", { type: "radio", name: "example", value: example.name });
    radio.addEventListener("change", () => {
      own.hidden = true;
      onExample(example);
    });
    const picture = element("img", { src: URL.createObjectURL(fromBase64(example.png)), alt: "", className: "pixels" });
    return element("label", { className: "example", title: label }, radio, picture, element("span", {}, label));
  });
  gallery.replaceChildren(...choices);
  document.getElementById("examples").hidden = false;
}

// Marks the first example as chosen.
export function markFirst() {
  gallery.querySelector("input").checked = true;
}

// Has the browser offer the files that the server takes. It does not know all of them as pictures.
export function offerFiles({ preprocessing }) {
  file.accept = ["image/*", ...preprocessing.suffixes].join(",");
}

export function onOwnPicture(choose) {
  const take = (chosen) => {
    if (!chosen) {
      return;
    }
    for (const radio of gallery.querySelectorAll("input:checked")) {
      radio.checked = false;
    }
    own.textContent = `Your picture: ${chosen.name}`;
    own.hidden = false;
    choose(chosen);
  };
  file.addEventListener("change", () => {
    take(file.files[0]);
    file.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => take(event.clipboardData?.files[0]));

  // The whole page accepts drops: the browser would open a file that is dropped beside the field instead of this page.
  let within = 0;
  const mark = () => drop.classList.toggle("over", within > 0);
  const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (carriesFile(event)) {
      within += 1;
      mark();
    }
  });
  document.addEventListener("dragleave", (event) => {
    if (carriesFile(event)) {
      within = Math.max(0, within - 1);
      mark();
    }
  });
  document.addEventListener("dragover", (event) => {
    if (carriesFile(event)) {
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
    }
  });
  document.addEventListener("drop", (event) => {
    if (carriesFile(event)) {
      event.preventDefault();
      within = 0;
      mark();
      take(event.dataTransfer.files[0]);
    }
  });
}
