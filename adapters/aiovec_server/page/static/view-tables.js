// All tables, with their size and the state of their indexes.

import * as api from "./api.js";
import { code, empty, grid, h } from "./dom.js";
import { bytes, number, percent, plural } from "./format.js";
import { tableLink } from "./table-head.js";

const FIRST = `curl -X POST ${api.address("tables")} \\
  -H 'Content-Type: application/json' \\
  -d '{"name": "notes", "schema": {"dim": 3, "fields": {"body": {"type": "text", "text": true}}}}'`;

export async function tables({ query, signal }) {
  const offset = Math.max(0, Number.parseInt(query.get("from") ?? "0", 10) || 0);
  const answer = await api.overview(offset, signal);
  if (answer.total === 0) {
    return [h("h1", {}, "Tables"), empty("This store has no tables yet",
      h("p", {}, "Create one with ", h("code", {}, "store.create_table(…)"), " in Python, or by a request:"),
      code(FIRST))];
  }
  const known = answer.tables.filter((one) => !one.detail);
  const rows = known.reduce((sum, one) => sum + one.rows, 0);
  const size = known.reduce((sum, one) => sum + one.bytes, 0);
  const part = answer.total > answer.tables.length;
  return [
    h("h1", {}, "Tables"),
    h("p", { class: "facts", "data-status": true },
      h("span", {}, part ? `${number(offset + 1)}–${number(offset + answer.tables.length)} of ${number(answer.total)} tables`
        : plural(answer.total, "table")),
      h("span", {}, plural(rows, "row")), h("span", {}, bytes(size))),
    list(answer.tables),
    part && pages(offset, answer),
  ];
}

const COLUMNS = [["Table"], ["Rows", "num"], ["Size", "num"], ["Vectors"], ["Index"]];

function list(found) {
  // Without an index, every search is exact, and the column would say the same for each table.
  const columns = COLUMNS.slice(0, found.some((one) => one.approximate) ? 5 : 4);
  return grid("Tables of the store", columns, found.map((one) => [h("a", { href: tableLink(one.name) }, one.name),
    ...one.detail ? ["", "", h("span", { class: "error" }, one.detail)] : cells(one).slice(0, columns.length - 1)]));
}

function cells(one) {
  const { schema } = one;
  return [
    number(one.rows), bytes(one.bytes),
    [`${number(schema.dim)} dims, ${schema.metric}`, schema.model && h("small", {}, schema.model)],
    [one.index, one.recall !== null && h("small", {}, `recall ${percent(one.recall)}`),
      one.approximate && one.unindexedRows > 0 && h("small", {}, `${plural(one.unindexedRows, "row")} not indexed`)],
  ];
}

function pages(offset, answer) {
  const step = 25;
  return h("nav", { class: "pages", "aria-label": "Pages of tables" },
    offset > 0 ? h("a", { class: "button", href: `#/?from=${Math.max(0, offset - step)}` }, "Previous") : h("span"),
    offset + answer.tables.length < answer.total
      && h("a", { class: "button", href: `#/?from=${offset + step}` }, "Next"));
}
