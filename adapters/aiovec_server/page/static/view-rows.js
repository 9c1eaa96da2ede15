// A table's rows, by filter, order and page.

import * as api from "./api.js";
import { empty, grid, h, labelled, select } from "./dom.js";
import { number, plural } from "./format.js";
import { cell } from "./value.js";
import { rowLink, tableLink } from "./table-head.js";

const SIZES = [25, 50, 100];
const COLUMNS = 10;

export async function rows({ table, facts, query, signal }) {
  const wanted = {
    where: query.get("where")?.trim() || undefined,
    orderBy: query.get("sort") || undefined,
    descending: query.get("down") === "1",
    limit: SIZES.includes(Number(query.get("size"))) ? Number(query.get("size")) : SIZES[0],
    offset: Math.min(Math.max(0, Number.parseInt(query.get("from") ?? "0", 10) || 0), 1e9),
  };
  const form = filterForm(table, facts, wanted);
  if (facts.rows === 0 && !wanted.where) {
    return empty("This table has no rows yet",
      h("p", {}, "Insert some with ", h("code", {}, `store.insert("${table}", rows)`), ", ",
        h("code", {}, `aiovec import FILE --table ${table} -s STORE`), ", or ",
        h("code", {}, `POST /tables/${table}/records`), "."));
  }
  try {
    const [found, total] = await Promise.all([
      api.find(table, wanted, signal),
      wanted.where ? api.count(table, wanted.where, signal) : facts.rows,
    ]);
    return [form, list(table, facts, wanted, found, total)];
  } catch (error) {
    if (!api.isOfTheCall(error)) throw error;
    form.querySelector("[name=where]").setAttribute("aria-invalid", "true");
    return [form, h("p", { class: "error", role: "alert", "data-status": true }, error.message)];
  }
}

const RESERVED = ["AND", "OR", "NOT", "IN", "BETWEEN", "IS", "NULL", "LIKE", "TRUE", "FALSE"];
const named = (field) => (RESERVED.includes(field.toUpperCase()) ? `"${field}"` : field);

// Return an example of a filter for this table, for first-time users.
export function filterHint(facts) {
  const fields = Object.entries(facts.schema.fields).map(([name, kind]) => [name, kind.type ?? kind]);
  const text = fields.find(([name, kind]) => kind === "text" && name !== facts.label) ?? fields.find(([, kind]) => kind === "text");
  const whole = fields.find(([, kind]) => kind === "int" || kind === "float");
  const parts = [];
  if (whole) parts.push(`${named(whole[0])} >= 10`);
  if (text) parts.push(`${named(text[0])} = 'text'`);
  return parts.length ? `Such as ${parts.join(" AND ")}` : "Such as id STARTSWITH 'a'";
}

function filterForm(table, facts, wanted) {
  const where = h("input", { name: "where", value: wanted.where ?? "", class: "mono", autocomplete: "off",
    autocapitalize: "off", spellcheck: "false" });
  const fields = Object.entries(facts.schema.fields)
    .filter(([, kind]) => !String(kind.type ?? kind).startsWith("list")).map(([name]) => name);
  const go = () => {
    const data = new FormData(form);
    const before = location.hash;
    location.hash = tableLink(table, "rows", {
      where: data.get("where").trim(), sort: data.get("sort"),
      down: data.get("down"), size: Number(data.get("size")) === SIZES[0] ? "" : data.get("size"),
    });
    if (location.hash === before) dispatchEvent(new HashChangeEvent("hashchange"));
  };
  const form = h("form", { class: "controls", role: "search", "aria-label": "Filter rows", submit: (event) => {
    event.preventDefault();
    go();
  } },
  labelled("Filter", where, { hint: filterHint(facts), class: "wide" }),
  labelled("Sort by", select("sort", [["", "id"], ...fields.map((name) => [name, name])], wanted.orderBy ?? "")),
  labelled("Direction", select("down", [["", "Ascending"], ["1", "Descending"]], wanted.descending ? "1" : "")),
  labelled("Per page", select("size", SIZES.map((size) => [size, size]), wanted.limit)),
  h("button", { class: "primary" }, "Show"));
  return form;
}

function columnsOf(facts, found) {
  const names = new Set();
  if (facts.label) names.add(facts.label);
  Object.keys(facts.schema.fields).forEach((name) => names.add(name));
  for (const one of found) Object.keys(one).forEach((name) => names.add(name));
  names.delete("id");
  names.delete(facts.schema.vector);
  return [...names];
}

function list(table, facts, wanted, found, total) {
  if (found.length === 0) {
    return h("div", { "data-status": true }, empty(wanted.offset ? "There are no rows on this page" : "No row matches the filter",
      h("p", {}, h("a", { href: tableLink(table, "rows") }, "Show all rows"))));
  }
  const all = columnsOf(facts, found);
  const names = all.slice(0, COLUMNS);
  const from = wanted.offset + 1;
  const status = `Rows ${number(from)}–${number(wanted.offset + found.length)} of ${number(total)}`;
  const numeric = (name) => ["int", "float"].includes(facts.schema.fields[name]?.type ?? facts.schema.fields[name]);
  return [
    h("p", { class: "result-line" }, h("span", { "data-status": true }, status),
      all.length > names.length && h("span", { class: "muted" }, `${plural(all.length - names.length, "more field")} on each row's page`)),
    h("div", { class: "scroller", role: "region", tabindex: "0", "aria-label": `Rows of ${table}` },
      grid(status, [["id"], ...names.map((name) => [cell(name, 60), numeric(name) ? "num" : null, name.slice(0, 40)])],
        found.map((one) => [h("a", { href: rowLink(table, one.id) }, cell(one.id, 80)),
          ...names.map((name) => cell(Object.hasOwn(one, name) ? one[name] : null))]), "rows")),
    pages(table, wanted, found.length, total),
  ];
}

function pages(table, wanted, count, total) {
  const to = (offset) => tableLink(table, "rows", { where: wanted.where, sort: wanted.orderBy,
    down: wanted.descending ? 1 : "", size: wanted.limit === SIZES[0] ? "" : wanted.limit, from: offset || "" });
  const before = wanted.offset > 0;
  const more = wanted.offset + count < total;
  if (!before && !more) return null;
  const step = (text, there, offset) => (there
    ? h("a", { class: "button", href: to(offset), "data-page": text }, text)
    : h("span", { class: "button off", "aria-hidden": "true" }, text));
  return h("nav", { class: "pages", "aria-label": "Pages of rows" },
    step("First", before, 0),
    step("Previous", before, Math.max(0, wanted.offset - wanted.limit)),
    step("Next", more, wanted.offset + wanted.limit),
    step("Last", more, Math.floor((total - 1) / wanted.limit) * wanted.limit));
}
