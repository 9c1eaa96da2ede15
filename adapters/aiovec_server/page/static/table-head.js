// The head of every view of a table: its name, its size, and links to its views.

import { h } from "./dom.js";
import { bytes, number, plural } from "./format.js";

const VIEWS = [["search", "Search"], ["rows", "Rows"], ["map", "Map"], ["details", "Details"]];

export const tableLink = (table, view = "", query = {}) => {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return `#/t/${encodeURIComponent(table)}${view && `/${view}`}${text && `?${text}`}`;
};

export const rowLink = (table, id) => `${tableLink(table, "row")}/${encodeURIComponent(id)}`;

export function tableHead(facts, view) {
  const { schema } = facts;
  return h("div", { class: "table-head", "data-title": facts.name },
    h("h1", {}, facts.name),
    h("p", { class: "facts" },
      h("span", {}, plural(facts.rows, "row")),
      h("span", {}, bytes(facts.bytes)),
      h("span", {}, `${number(schema.dim)} dimensions, ${schema.metric}`),
      schema.model && h("span", {}, schema.model)),
    h("nav", { "aria-label": `Views of ${facts.name}`, class: "tabs" }, VIEWS.map(([name, text]) =>
      h("a", { href: tableLink(facts.name, name), "aria-current": name === view ? "page" : null }, text))));
}
