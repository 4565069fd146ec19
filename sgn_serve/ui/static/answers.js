// Shows what the models say: a verdict for each, and bars.

import { element, percent } from "./elements.js";

const ROWS = 8;

// One model's answer, shown in a column.
// name: its heading; kind: "on", "off" or "recorded"; shares: label -> probability
// title: how a sentence names a model whose answers were recorded; null where the answer is the server's
export class Answer {
  constructor(name, kind, shares, title = null) {
    this.name = name;
    this.kind = kind;
    this.shares = shares;
    this.title = title;
    this.label = [...shares.keys()].reduce((best, label) => (shares.get(label) > shares.get(best) ? label : best));
  }

  get live() {
    return this.title === null;
  }

  get share() {
    return this.shares.get(this.label);
  }

  // Returns "right" or "wrong", or "" if the true class is not known or not among the model's classes.
  judged(truth) {
    return truth === null ? "" : this.label === truth ? "right" : "wrong";
  }
}

export function fromServer(name, kind, prediction) {
  return new Answer(name, kind, new Map(prediction.top_k.map((row) => [row.label, row.probability])));
}

export function fromRecord({ name, title }, classNames, probabilities) {
  return new Answer(name, "recorded", new Map(classNames.map((label, index) => [label, probabilities[index]])), title);
}

function badge(answer) {
  return element("span", { className: answer.live ? "badge live" : "badge", textContent: answer.live ? "live" : "recorded" });
}

export function showAnswers(answers, truth) {
  document.getElementById("details").hidden = answers.length === 0;
  document.getElementById("no-answer").hidden = true;
  document.getElementById("verdicts").replaceChildren(...answers.map((answer) => verdict(answer, truth)));
  const heads = answers.map((answer) =>
    element("th", { scope: "col", className: answer.kind }, element("span", { textContent: answer.name })),
  );
  document.getElementById("bars-head").replaceChildren(element("th", { scope: "col", textContent: "Class" }), ...heads);
  const rows = labels(answers, truth).map((label) => row(label, answers, label === truth));
  document.getElementById("bars").replaceChildren(...rows);
}

function verdict(answer, truth) {
  const judged = answer.judged(truth);
  const sign = judged === "right" ? "✓ " : "✗ ";
  const chip = judged && element("span", { className: `chip ${judged}` }, sign, element("span", { className: "word" }, judged));
  const name = element("p", { className: "who" }, answer.name, " ", badge(answer));
  const said = element("p", { className: "label", title: answer.label }, answer.label);
  const how = element("p", { className: "how" }, percent(answer.share, 0), " ");
  if (chip) {
    how.append(chip);
  }
  return element("div", { className: `verdict ${answer.kind} ${judged}` }, name, said, how);
}

// Returns the likeliest classes of the first answer, with every answer's likeliest class and the true one among them.
function labels(answers, truth) {
  if (answers.length === 0) {
    return [];
  }
  const first = answers[0].shares;
  const most = new Set([...answers.map((answer) => answer.label), ...(truth === null ? [] : [truth])]);
  for (const [label] of [...first].sort((a, b) => b[1] - a[1])) {
    if (most.size < ROWS) {
      most.add(label);
    }
  }
  return [...most].sort((a, b) => (first.get(b) ?? 0) - (first.get(a) ?? 0));
}

function row(label, answers, isTrue) {
  const head = element("th", { scope: "row" }, label);
  if (isTrue) {
    head.append(" ", element("span", { className: "truth", textContent: "truth" }));
  }
  return element("tr", {}, head, ...answers.map((answer) => cell(answer, label)));
}

function cell(answer, label) {
  const share = answer.shares.get(label);
  const fill = element("span", { className: "fill" });
  fill.style.width = percent(share ?? 0, 2).replace(/\s/, "");
  const track = element("span", { className: "track", ariaHidden: "true" }, fill);
  const number = element("span", { className: "value", textContent: share === undefined ? "–" : percent(share) });
  return element("td", { className: answer.kind }, element("span", { className: "measure" }, number, track));
}

// Returns the outcome in a sentence.
// truth: the true class, or null; before: what this model said of the untampered picture; tampered: whether it is
export function outcome(answers, truth, before, tampered) {
  const [first] = answers;
  if (truth === null) {
    return !tampered ? `This model says ${first.label}.` : changed(before, first.label);
  }
  const recorded = answers.find((answer) => !answer.live);
  const isWrong = (answer) => answer.judged(truth) === "wrong";
  if (!recorded) {
    return alone(isWrong(first), before !== truth, tampered);
  }
  const wrong = tampered ? "is fooled" : "is wrong";
  const models = [recorded, first].filter(isWrong);
  if (models.length === 2) {
    return tampered ? "Both models are fooled." : "Both models are wrong.";
  }
  if (models.length === 0) {
    return tampered ? "Neither model is fooled." : "Both models are right.";
  }
  return models[0] === recorded ? `The ${recorded.title} ${wrong}, this model is not.` : `This model ${wrong}, the ${recorded.title} is not.`;
}

function changed(before, label) {
  return before === label ? `This model still says ${label}.` : `The answer changed from ${before} to ${label}.`;
}

function alone(isWrong, wasWrong, tampered) {
  if (!tampered) {
    return isWrong ? "This model is wrong." : "This model is right.";
  }
  if (!isWrong) {
    return "This model is not fooled.";
  }
  return wasWrong ? "This model is wrong, as it was before." : "This model is fooled.";
}

// Returns the answers as text, for screen readers.
export function summary(answers, truth) {
  return answers
    .map((answer) => {
      const judged = { right: ", right", wrong: ", wrong", "": "" }[answer.judged(truth)];
      return `${answer.name}${answer.live ? "" : " (recorded)"}: ${answer.label}, ${percent(answer.share, 0)}${judged}.`;
    })
    .join(" ");
}
