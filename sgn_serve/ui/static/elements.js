// Makes DOM elements, and writes figures.

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  Object.assign(made, properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)}\u00a0%`;
}

// Returns a table with a heading for each column and each row. rows: [heading, cell, ...]
export function table(className, heads, rows) {
  const titles = heads.map((text) => element("th", { scope: "col", textContent: text }));
  const lines = rows.map(([head, ...cells]) =>
    element(
      "tr",
      {},
      element("th", { scope: "row", textContent: head }),
      ...cells.map((text) => element("td", { textContent: text })),
    ),
  );
  return element("table", { className }, element("thead", {}, element("tr", {}, ...titles)), element("tbody", {}, ...lines));
}
