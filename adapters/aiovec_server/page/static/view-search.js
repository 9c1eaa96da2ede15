// Search: by words, by meaning, by both, by a row, or by a vector.

import * as api from "./api.js";
import { announce, code, empty, h, labelled, uid } from "./dom.js";
import { number, plural, score, seconds } from "./format.js";
import { cell, plainText, shown } from "./value.js";
import { filterHint } from "./view-rows.js";
import { rowLink, tableLink } from "./table-head.js";

const MODES = {
  words: ["Keywords", "Words", "Words, \"phrases\", -excluded, prefix*"],
  meaning: ["Meaning", "Text", "What the text is about"],
  both: ["Both", "Text", "Words, and what they are about"],
  like: ["Like a row", "Id of the row", "Id of a row, to find those nearest to it"],
  vector: ["Vector", "Numbers", ""],
};
// Keys of a hit that are not fields.
const OWN = new Set(["id", "_score", "_distance", "_ranks", "_highlights"]);
// Fields of a document's passage that its head shows already, or that nobody needs to read.
const OF_PASSAGES = new Set(["source", "title", "start", "part", "parts", "hash", "base", "expires"]);
const LIMITS = [10, 25, 50, 100];

// Pasted vectors, one for each table, until the page is closed. A vector is too long for an address.
const pasted = new Map();

function modesOf(facts) {
  const { words, meaning } = facts.can;
  return Object.keys(MODES).filter((mode) => ({ words, meaning, both: words && meaning })[mode] ?? true);
}

export async function search(context) {
  const { table, facts, query, signal } = context;
  const modes = modesOf(facts);
  const by = modes.includes(query.get("by")) ? query.get("by") : modes.includes("both") ? "both" : modes[0];
  const options = {
    by, query: query.get("q") ?? "", id: query.get("id") ?? "",
    where: query.get("where")?.trim() || undefined,
    limit: LIMITS.includes(Number(query.get("k"))) ? Number(query.get("k")) : LIMITS[0],
    exact: query.get("exact") === "1",
    vector: pasted.get(table)?.numbers,
  };
  const form = searchForm(context, modes, options);
  const asked = by === "like" ? options.id !== "" : by === "vector" ? query.has("go") && options.vector : options.query.trim() !== "";
  if (!asked) return [form, hint(facts)];
  try {
    return [form, results(table, facts, options, await api.search(table, options, signal))];
  } catch (error) {
    if (!api.isOfTheCall(error)) throw error;
    return [form, h("p", { class: "error", role: "alert", "data-status": true }, error.message)];
  }
}

function hint(facts) {
  if (facts.rows === 0) {
    return empty("There is nothing to find yet", h("p", {}, "The table has no rows. Insert some first."));
  }
  const missing = [];
  if (!facts.can.words) missing.push("Keyword search needs a field with text=True.");
  if (!facts.can.meaning) {
    missing.push(facts.schema.embed ? "Search by meaning needs the table's embedder, which this server does not have."
      : "Search by meaning needs a schema with embed=Embed(…).");
  }
  return missing.length ? h("p", { class: "muted" }, missing.join(" ")) : null;
}

// Return the numbers of a pasted vector: JSON, or separated by spaces, commas or semicolons.
export function numbersOf(text, dim) {
  const parts = text.trim().replace(/^\[|\]$/g, "").split(/[\s,;]+/).filter((part) => part !== "");
  const numbers = parts.map(Number);
  const wrong = numbers.findIndex((one) => !Number.isFinite(one));
  if (wrong >= 0) throw new RangeError(`Number ${wrong + 1} of the vector is “${parts[wrong].slice(0, 40)}”, not a finite number.`);
  if (numbers.length !== dim) {
    throw new RangeError(`The vector has ${plural(numbers.length, "number")}; this table's vectors have ${number(dim)}.`);
  }
  return numbers;
}

function searchForm({ table, facts, again }, modes, options) {
  const problem = h("p", { class: "error", role: "alert", hidden: true });
  const dim = facts.schema.dim;
  const fieldFor = (mode) => {
    const [, label, placeholder] = MODES[mode];
    if (mode === "vector") {
      return h("textarea", { name: "vector", rows: "3", class: "mono", spellcheck: "false", "aria-label": label,
        placeholder: `${number(dim)} numbers, separated by commas or spaces`, value: pasted.get(table)?.text ?? "" });
    }
    const common = { "aria-label": label, placeholder, autocomplete: "off" };
    return mode === "like"
      ? h("input", { ...common, name: "id", value: options.id, class: "mono", autocapitalize: "off", spellcheck: "false" })
      : h("input", { ...common, name: "q", value: options.query, type: "search", enterkeyhint: "search" });
  };
  const place = h("div", { class: "grow" }, fieldFor(options.by));
  const group = uid("by");
  const choice = h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "Search by"), modes.map((mode) => {
    const input = h("input", { type: "radio", name: "by", value: mode, id: `${group}-${mode}`, checked: mode === options.by,
      change: () => {
        const typed = place.querySelector("[name=q]")?.value;
        if (typed !== undefined) options.query = typed;
        place.replaceChildren(fieldFor(mode));
        problem.hidden = true;
      } });
    return h("span", {}, input, h("label", { for: input.id }, MODES[mode][0]));
  }));
  const where = h("input", { name: "where", value: options.where ?? "", class: "mono", autocomplete: "off",
    autocapitalize: "off", spellcheck: "false" });
  const limit = h("select", { name: "k" }, LIMITS.map((one) => h("option", { value: one, selected: one === options.limit }, one)));
  const form = h("form", { class: "search", role: "search", "aria-label": `Search ${table}`, submit: (event) => {
    event.preventDefault();
    submit(form, problem, table, dim, again);
  } }, choice, h("div", { class: "box" }, place, h("button", { class: "primary" }, "Search")),
  h("details", { open: options.where || options.limit !== LIMITS[0] || options.exact }, h("summary", {}, "Filter and number of hits"),
    h("div", { class: "controls" },
      labelled("Filter", where, { hint: filterHint(facts), class: "wide" }),
      labelled("Hits", limit),
      facts.approximate && h("div", { class: "field check" }, h("label", {},
        h("input", { type: "checkbox", name: "exact", value: "1", checked: options.exact }), " Exact")))),
  problem);
  return form;
}

function submit(form, problem, table, dim, again) {
  const data = new FormData(form);
  const by = data.get("by");
  problem.hidden = true;
  if (by === "vector") {
    try {
      const text = data.get("vector");
      pasted.set(table, { text, numbers: numbersOf(text, dim) });
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
      return;
    }
  }
  const before = location.hash;
  location.hash = tableLink(table, "search", {
    by, q: data.get("q"), id: data.get("id"), where: data.get("where").trim(),
    k: Number(data.get("k")) === LIMITS[0] ? "" : data.get("k"), exact: data.get("exact"),
    go: by === "vector" ? "1" : "",
  });
  if (location.hash === before) {
    again();
    announce("Searching");
  }
}

function results(table, facts, options, { hits, seconds: took }) {
  if (hits.length === 0) {
    return h("div", { "data-status": true }, empty("Nothing was found",
      h("p", {}, options.where ? "No row that matches the filter was found. Try it without the filter."
        : options.by === "words" ? "No row has any of these words." : "The table has no row to compare with.")));
  }
  return [
    h("p", { class: "result-line" }, h("span", { "data-status": true }, `${plural(hits.length, "hit")} in ${seconds(took)}`),
      options.by === "like" && h("span", { class: "muted" }, "nearest to ", h("a", { href: rowLink(table, options.id) }, cell(options.id, 60)))),
    h("ol", { class: "hits" }, hits.map((hit) => hitOf(table, facts, hit))),
    request(table, options),
  ];
}

// Common words of questions. They say nothing about a hit, so they are not marked.
const FILLERS = new Set(("a about an and are as at be by can could do does for from has have how i if in is it its me my of on or "
  + "should so that the their there this to was were what when where which who why will with would you your").split(" "));

// Show the words that a keyword search has marked. Everything else in the snippet stays text.
function marked(snippet) {
  return h("bdi", { class: "value" }, snippet.split(/(<mark>.*?<\/mark>)/s).map((part) => {
    const word = /^<mark>(.*)<\/mark>$/s.exec(part);
    if (!word) return shown(part);
    return FILLERS.has(word[1].toLowerCase()) ? shown(word[1]) : h("mark", {}, shown(word[1]));
  }));
}

// Return where a passage is in its document; null for any other row.
function placeOf(hit) {
  if (typeof hit.source !== "string" || !Number.isInteger(hit.start) || !Number.isInteger(hit.parts)) return null;
  return /\.pdf$/i.test(hit.source) ? `${hit.source}, page ${hit.start}` : `${hit.source}:${hit.start}`;
}

// Return a button that shows the passages before and after a hit, and the places for them.
function neighbours(table, hit, label) {
  const [before, after] = [h("div", {}), h("div", {})];
  const around = [hit.part - 1, hit.part + 1].filter((part) => part >= 1 && part <= hit.parts);
  const button = h("button", { type: "button", class: "quiet", click: async () => {
    const where = `source = '${hit.source.replaceAll("'", "''")}' AND part IN (${around.join(", ")})`;
    try {
      for (const one of await api.find(table, { where, limit: 2 })) {
        (one.part < hit.part ? before : after).append(
          h("p", { class: "text muted", tabindex: "-1" }, shown(one[label] ?? "", "value long")));
      }
      button.remove();
      (before.firstChild ?? after.firstChild)?.focus();
      announce("The passages before and after are shown");
    } catch (error) {
      button.after(h("span", { class: "error", role: "alert" }, error.message));
    }
  } }, "Passages around it");
  return { before, after, button: around.length ? button : null };
}

function hitOf(table, facts, hit) {
  const { label } = facts;
  const place = placeOf(hit);
  const { source, part } = facts.schema.fields;  // a filter does not find them in the payload
  const { before, after, button } = place && source && part ? neighbours(table, hit, label) : {};
  const snippet = hit._highlights?.[label] ?? Object.values(hit._highlights ?? {})[0];
  const text = label && hit[label];
  const others = Object.entries(hit)
    .filter(([name, value]) => name !== label && !OWN.has(name) && !(place && OF_PASSAGES.has(name)) && value !== null && value !== "").slice(0, 6);
  return h("li", {},
    h("div", { class: "hit-head" },
      h("a", { class: "hit-id", href: rowLink(table, hit.id) }, cell(place ?? hit.id, 120)),
      h("span", { class: "score" }, h("span", { class: "unseen" }, "Score "), score(hit._score))),
    place && hit.title && h("p", { class: "muted" }, cell(hit.title, 200)),
    before,
    snippet ? h("p", { class: "text" }, marked(snippet)) : text && h("p", { class: "text" }, cell(text, 280)),
    after,
    h("p", { class: "hit-facts" },
      button,
      others.map(([name, value]) => h("span", {}, h("span", { class: "key" }, cell(name, 40)), " ", cell(value, 60))),
      Object.entries(hit._ranks ?? {}).map(([list, rank]) => h("span", {}, h("span", { class: "key" }, `by ${list}`), ` #${rank.rank ?? rank}`)),
      h("a", { href: tableLink(table, "search", { by: "like", id: hit.id }), "aria-label": `More like ${plainText(hit.id).slice(0, 80)}` }, "More like this")));
}

function request(table, options) {
  const { path, body } = api.searchRequest(table, options);
  const text = JSON.stringify(body).replaceAll("'", "'\\''");
  return h("details", { class: "request" }, h("summary", {}, "The same search as a request"),
    code(`curl -X POST '${api.address(path)}' \\\n  -H 'Content-Type: application/json' \\\n  -d '${text}'`));
}
