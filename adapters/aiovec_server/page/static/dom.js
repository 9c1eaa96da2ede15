// Create elements. Text only ever becomes a text node, so nothing in a row can become markup.

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "style") {
      for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    } else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

// h("a", { href: "#/", click: handler }, "text", element): a function listens to the event it is named for.
export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

// Replace an element's children. Null and false are skipped.
export function put(element, ...children) {
  element.replaceChildren();
  return fill(element, null, children);
}

// Announce a text to screen readers, even if it is the same text as the last one.
export function announce(text) {
  const region = document.getElementById("live");
  region.textContent = "";
  setTimeout(() => { region.textContent = text; }, 50);
}

let ids = 0;
export const uid = (prefix) => `${prefix}-${++ids}`;

// Return a label with its control and, below it, a hint.
export function labelled(label, control, { hint, class: kind } = {}) {
  control.id ||= uid("field");
  let note = null;
  if (hint) {
    note = h("small", { id: `${control.id}-hint`, class: "hint" }, hint);
    control.setAttribute("aria-describedby", note.id);
  }
  return h("div", { class: `field ${kind ?? ""}` }, h("label", { for: control.id }, label), control, note);
}

export function select(name, choices, chosen) {
  return h("select", { name }, choices.map(([value, text]) =>
    h("option", { value, selected: String(value) === String(chosen) }, text)));
}

// Return a table. Each row is an element for the first column, and then those for the other columns;
// each title of a column is [text, class].
export function grid(caption, titles, rows, kind = "") {
  return h("table", { class: `grid stacked ${kind}`, role: "table" },
    h("caption", { class: "unseen" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, titles.map(([text, style]) =>
      h("th", { scope: "col", role: "columnheader", class: style }, text)))),
    h("tbody", { role: "rowgroup" }, rows.map(([first, ...others]) => h("tr", { role: "row" },
      h("th", { scope: "row", role: "rowheader", class: "name" }, first),
      others.map((value, n) => h("td", { role: "cell", class: titles[n + 1][1],
        "data-label": titles[n + 1][2] ?? titles[n + 1][0] }, value))))));
}

// Return a message that there is nothing to show, and what to do about it.
export function empty(title, ...rest) {
  return h("div", { class: "empty" }, h("h2", {}, title), rest);
}

export function code(text) {
  const copy = h("button", { type: "button", class: "copy", click: async () => {
    try {
      await navigator.clipboard.writeText(text);
      announce("Copied");
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Select and copy by hand";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  } }, "Copy");
  return h("div", { class: "code" },
    h("pre", { tabindex: "0", role: "region", "aria-label": "Code" }, h("code", {}, text)), copy);
}
