// Makes a DOM element with its properties and children in one call.

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  Object.assign(made, properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)} %`;
}
