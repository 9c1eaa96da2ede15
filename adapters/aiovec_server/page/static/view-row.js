// One row with all its fields and its vector.

import * as api from "./api.js";
import { announce, empty, h } from "./dom.js";
import { number } from "./format.js";
import { confirm } from "./dialogs.js";
import { cell, plainText, whole } from "./value.js";
import { tableLink } from "./table-head.js";

export async function row({ table, facts, parts, about, signal }) {
  const id = parts[3] ?? "";
  const found = await api.record(table, id, signal);
  if (!found) {
    return empty("There is no such row", h("p", {}, "Its id would be ", cell(id, 80), ". It may have been deleted."),
      h("p", {}, h("a", { href: tableLink(table, "rows") }, "All rows")));
  }
  const { vector: name } = facts.schema;
  const vector = Array.isArray(found[name]) ? found[name] : null;
  const names = Object.keys(found).filter((one) => one !== "id" && one !== name);
  return [
    h("h2", { class: "row-id" }, cell(found.id, 512)),
    h("p", { class: "actions" },
      vector && h("a", { class: "button", href: tableLink(table, "search", { by: "like", id }) }, "More like this"),
      about.writes && h("button", { type: "button", class: "danger", click: () => remove(table, id) }, "Delete row")),
    names.length === 0 ? h("p", { class: "muted" }, "This row has no fields.")
      : h("dl", { class: "fields" }, names.map((one) => [h("dt", {}, cell(one, 120)), h("dd", {}, whole(found[one]))])),
    vector ? vectorPart(name, vector) : h("p", { class: "muted" }, "This row has no vector."),
  ];
}

function vectorPart(name, vector) {
  return h("section", { "aria-label": "Vector" },
    h("details", {}, h("summary", {}, `${name}: the ${number(vector.length)} numbers of the vector`),
      h("pre", { class: "numbers", tabindex: "0", role: "region", "aria-label": "Numbers of the vector" }, `[${vector.join(", ")}]`)));
}

async function remove(table, id) {
  const sure = await confirm("Delete this row?", ["The row ", cell(id, 80), " will be gone for everyone, at once."], "Delete");
  if (!sure) return;
  try {
    const deleted = await api.remove(table, id);
    location.hash = tableLink(table, "rows");
    announce(deleted ? `Row ${plainText(id).slice(0, 80)} deleted` : "The row was already deleted");
  } catch (error) {
    document.querySelector(".actions")?.after(h("p", { class: "error", role: "alert" }, error.message));
  }
}
