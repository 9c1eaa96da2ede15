// A table's schema, indexes and statistics.

import * as api from "./api.js";
import { announce, grid, h } from "./dom.js";
import { ago, bytes, number, percent, plural, seconds } from "./format.js";
import { confirm } from "./dialogs.js";
import { cell, shown } from "./value.js";

export async function details({ table, facts, about, again }) {
  return [state(table, facts, about, again), indexes(facts), fields(facts)];
}

const pair = (name, value) => [h("dt", {}, name), h("dd", {}, value)];

function state(table, facts, about, again) {
  return h("section", {}, h("h2", {}, "State"),
    h("dl", { class: "fields short" },
      pair("Backend", facts.backend), pair("Rows", number(facts.rows)), pair("Size", bytes(facts.bytes)),
      pair("Index", facts.index),
      facts.approximate && pair("Rows not indexed", number(facts.unindexedRows)),
      pair("Measured recall", facts.recall !== null ? percent(facts.recall)
        : facts.approximate ? "not measured yet" : "every search is exact"),
      pair("Memory of searches", facts.scanMemory ? bytes(facts.scanMemory) : "none in use"),
      facts.lastOptimize && pair("Last optimized", ago(facts.lastOptimize))),
    about.writes && facts.can.optimize && h("p", { class: "actions" },
      h("button", { type: "button", click: (event) => optimize(table, event.currentTarget, again) }, "Optimize table")));
}

async function optimize(table, button, again) {
  const sure = await confirm("Optimize this table?",
    "The store compacts the table and brings its indexes up to date. Reads and writes go on meanwhile. If it takes longer than the server's time limit, it is given up, and `aiovec optimize` does it without a limit.", "Optimize");
  if (!sure) return;
  button.disabled = true;
  button.textContent = "Optimizing…";
  announce("Optimizing");
  const began = performance.now();
  try {
    await api.optimize(table);
    announce(`Optimized in ${seconds((performance.now() - began) / 1000)}`);
    again();
  } catch (error) {
    button.disabled = false;
    button.textContent = "Optimize table";
    button.parentElement.after(h("p", { class: "error", role: "alert" }, error.message));
  }
}

function indexes(facts) {
  if (facts.indexes.length === 0) return null;
  const titles = [["Index"], ["Kind"], ["Column"], ["Indexed", "num"], ["Not indexed", "num"], ["Recall", "num"]];
  return h("section", {}, h("h2", {}, "Indexes"), grid("Indexes", titles, facts.indexes.map((one) => [
    shown(one.name), one.kind, one.column, number(one.rows_indexed), number(one.rows_unindexed),
    one.recall === null ? "–" : percent(one.recall)])));
}

const TRAITS = {
  nullable: (on) => on === false && "never null",
  index: (kind) => kind && `index: ${kind}`,
  partition: (on) => on && "partition key",
  text: (on) => on && "keyword search",
};

function fields(facts) {
  const { schema } = facts;
  const rows = Object.entries(schema.fields).map(([name, given]) => {
    const field = typeof given === "string" ? { type: given } : given;
    const traits = Object.entries(TRAITS).map(([trait, say]) => trait in field && say(field[trait])).filter(Boolean);
    if (schema.embed?.field === name) traits.push("vectors are made of it");
    return [name, field.type, traits.join(", ")];
  });
  rows.unshift(["id", "text", "key"], [schema.vector, "vector", `${plural(schema.dim, "dimension")}, ${schema.metric}`
    + (schema.model ? `, ${schema.model}` : "") + (schema.quantized ? `, also as ${schema.quantized} codes` : "")]);
  rows.push(schema.payload === false ? ["other keys", "–", "refused"] : ["other keys", "JSON", "kept as payload"]);
  return h("section", {}, h("h2", {}, "Fields"), grid("Fields of the table", [["Field"], ["Type"], ["Traits"]],
    rows.map(([name, kind, traits]) => [cell(name), kind, traits || "–"])));
}
