// How far a migration of the store is.

import * as api from "./api.js";
import { empty, h, put } from "./dom.js";
import { number, percent } from "./format.js";
import { every } from "./polling.js";

const PHASES = [
  ["planned", "Planned", "Both stores were looked at."],
  ["copying", "Copying", "Rows go over in batches; reads and writes go on."],
  ["catching-up", "Catching up", "What was written meanwhile goes over."],
  ["indexing", "Indexing", "The target builds its indexes."],
  ["verifying", "Verifying", "Every row of both stores is compared."],
  ["cutting-over", "Cutting over", "Writers wait while the last changes go over."],
  ["moved", "Moved", "The target is in use; the TOML file is about to change."],
  ["done", "Done", "The target is in use."],
];
const OTHER = {
  "rolling-back": ["Rolling back", "The source is coming into use again."],
  "rolled-back": ["Rolled back", "The source is in use again."],
  aborting: ["Aborting", "The run ends; the source stays in use."],
};

export async function migration({ signal }) {
  const place = h("div", {});
  const fill = (found) => put(place, found ? progress(found) : none());
  fill(await api.migration(signal).then((answer) => answer?.run ?? null));
  every(2000, signal, async () => fill((await api.migration(signal))?.run ?? null));
  return [h("h1", {}, "Migration"), place];
}

const none = () => empty("No migration is open",
  h("p", {}, "A store moves to another backend while apps go on using it. See what a move would do:"),
  h("p", {}, h("code", {}, "aiovec migrate plan --config aiovec.toml --to lancedb")));

function progress(run) {
  const at = PHASES.findIndex(([name]) => name === run.phase);
  const other = OTHER[run.phase];
  return [
    h("p", { class: "facts" }, run.source && h("span", {}, `from ${run.source}`), run.target && h("span", {}, `to ${run.target}`)),
    other && h("p", { class: "phase-now", "data-status": true }, h("strong", {}, other[0]), ` ${other[1]}`),
    h("ol", { class: "phases", "aria-label": "Phases" }, PHASES.map(([name, title, note], n) => {
      const state = n < at || run.phase === "done" ? "past" : n === at ? "now" : "to-come";
      return h("li", { class: state, "aria-current": state === "now" ? "step" : null },
        h("strong", {}, title), h("span", { class: "unseen" }, { past: " (done)", now: " (now)", "to-come": "" }[state]),
        h("span", { class: "muted" }, note));
    })),
    tables(run.tables ?? []),
    run.next && h("p", {}, "Next: ", h("code", {}, run.next)),
  ];
}

function tables(found) {
  const list = Array.isArray(found) ? found : Object.entries(found).map(([name, facts]) => ({ name, ...facts }));
  if (list.length === 0) return null;
  return h("ul", { class: "progress" }, list.map((one) => {
    const done = one.copied ?? one.rows ?? 0;
    const total = one.total ?? one.rows ?? 0;
    const share = total > 0 ? Math.min(1, done / total) : 1;
    const name = one.name ?? one.table;
    return h("li", {}, h("div", { class: "hit-head" }, h("span", { class: "mono" }, name),
      h("span", {}, `${number(done)} of ${number(total)} rows`)),
    h("progress", { max: "1", value: share, "aria-label": `${name}: ${percent(share)} copied` }));
  }));
}
