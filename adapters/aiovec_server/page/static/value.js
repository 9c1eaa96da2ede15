// Show values of rows, which may hold any text, of any length, in any script.

import { h } from "./dom.js";
import { number } from "./format.js";

const CELL = 160;
const WHOLE = 4000;
// Invisible characters, some of which change the direction of text. They are shown as their number.
// eslint-disable-next-line no-control-regex
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

const named = (sign) => `U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

// Return a text as one element that cannot change the direction of its neighbours.
export function shown(text, kind = "value") {
  const element = h("bdi", { class: kind });
  let from = 0;
  for (const match of text.matchAll(HIDDEN)) {
    element.append(text.slice(from, match.index), h("span", { class: "hidden-sign" }, named(match[0])));
    from = match.index + 1;
  }
  element.append(text.slice(from));
  return element;
}

export const plainText = (text) => String(text).replace(HIDDEN, named);

function cut(text, length) {
  if (text.length <= length) return text;
  // Do not cut between the halves of a character.
  const end = /[\ud800-\udbff]/.test(text[length - 1]) ? length - 1 : length;
  return `${text.slice(0, end)}…`;
}

const json = (value, indent) => JSON.stringify(
  value, (_, one) => (typeof one === "bigint" ? JSON.rawJSON?.(one) ?? String(one) : one), indent);

export function textOf(value) {
  if (typeof value === "string") return value;
  if (typeof value === "object" && value !== null) {
    return Array.isArray(value) && value.every((one) => typeof one === "string")
      ? value.join(", ") : json(value);
  }
  return String(value);
}

const nothing = () => h("span", { class: "null" }, "null");

const MOMENT = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d(\.\d+)?Z$/;

// Return a value for a cell: one short line, and timestamps to the minute.
export function cell(value, length = CELL) {
  if (value === null || value === undefined) return nothing();
  if (value === "") return h("span", { class: "null" }, "empty text");
  if (Array.isArray(value) && value.length === 0) return h("span", { class: "null" }, "empty list");
  const moment = typeof value === "string" && MOMENT.exec(value);
  if (moment) return h("time", { class: "value figure", datetime: value, title: value }, `${moment[1]} ${moment[2]} UTC`);
  const text = cut(textOf(value), length);
  return shown(text, typeof value === "number" || typeof value === "bigint" ? "value figure" : "value");
}

// Return a whole value for the row's own page; long texts are shown in two steps.
export function whole(value) {
  if (value === null || value === undefined || value === "") return cell(value);
  if (Array.isArray(value) && value.length > 0 && value.length <= 60
      && value.every((one) => typeof one === "string" && one.length < 60)) {
    return h("span", { class: "tags" }, value.map((one) => h("span", { class: "tag" }, shown(one))));
  }
  const structured = typeof value === "object" && !(Array.isArray(value) && value.length === 0);
  const text = structured ? json(value, 1) : textOf(value);
  if (Array.isArray(value) && value.length === 0) return cell(value);
  const kind = `value long${structured ? " json" : ""}${typeof value === "number" ? " figure" : ""}`;
  if (text.length <= WHOLE) return shown(text, kind);
  const box = h("div", {}, shown(cut(text, WHOLE), kind));
  box.append(h("button", { type: "button", class: "quiet", click: () =>
    box.replaceChildren(shown(text, kind)) }, `Show all ${number(text.length)} characters`));
  return box;
}
