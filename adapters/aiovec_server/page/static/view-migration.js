// How far a migration of the store is.

import * as api from "./api.js";
import { empty, h, put } from "./dom.js";
import { ago, number, percent, plural, seconds } from "./format.js";
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
// What the store alone says, where nobody here can read how far the run is.
const STATES = {
  open: ["A migration is open", "Rows are being copied; reads and writes go on."],
  paused: ["Writers wait", "The last changes go over to the target."],
  moved: ["The store has moved", "Another store is in use. The migration can still be rolled back."],
  finished: ["The store has moved", "Another store is in use, and the migration is over."],
};

export async function migration({ signal }) {
  const place = h("div", { "data-status": true });
  const fill = (found) => put(place, shown(found));
  fill(await api.migration(signal));
  every(2000, signal, async () => fill(await api.migration(signal)));
  return [h("h1", {}, "Migration"), place];
}

function shown(found) {
  if (found.progress) return progress(found);
  const said = STATES[found.state];
  if (said) {
    return empty(said[0], h("p", {}, said[1]), h("p", {}, "How far the run is, ",
      h("code", {}, "aiovec migrate status"), " tells where it was started."));
  }
  return empty("No migration is open",
    found.generation > 0 && h("p", {}, `This store was moved here by the run ${found.run}.`),
    h("p", {}, "A store moves to another backend while apps go on using it. See what a move would do:"),
    h("p", {}, h("code", {}, "aiovec migrate plan --config aiovec.toml --to lancedb")));
}

function progress({ progress: run }) {
  const phases = PHASES.filter(([name]) => (run.verifies || name !== "verifying")
    && (run.switches || (name !== "moved" && name !== "cutting-over")));
  const at = phases.findIndex(([name]) => name === run.phase);
  const other = OTHER[run.phase];
  return [
    h("p", { class: "facts" },
      h("span", {}, `${run.from} to ${run.to}`), h("span", {}, `run ${run.run.slice(0, 8)}`), h("span", {}, `started ${ago(run.started)}`),
      run.rate !== null && !run.over && h("span", {}, `${number(run.rate)} rows/s`),
      run.left !== null && !run.over && h("span", {}, `${seconds(run.left)} left`),
      run.lag !== null && !run.over && h("span", {}, plural(run.lag, "change behind", "changes behind")),
      run.longestPause > 0 && h("span", {}, `writers waited ${seconds(run.longestPause)}`)),
    other && h("p", { class: "phase-now" }, h("strong", {}, other[0]), ` ${other[1]}`),
    h("ol", { class: "phases", "aria-label": "Phases" }, phases.map(([name, title, note], n) => {
      const state = n < at || run.phase === "done" ? "past" : n === at ? "now" : "to-come";
      return h("li", { class: state, "aria-current": state === "now" ? "step" : null },
        h("strong", {}, title, h("span", { class: "unseen" }, { past: " (done)", now: " (now)", "to-come": "" }[state])),
        h("span", { class: "muted" }, note));
    })),
    run.phase === "done" && run.switches && h("p", {}, h("code", {}, "aiovec migrate finish"), " ends the run when everything works; ",
      h("code", {}, "aiovec migrate rollback"), " goes back."),
    run.tables.length > 0 && h("section", {}, h("h2", {}, "Tables"), tables(run.tables)),
  ];
}

const MARKS = [["copied", "copied"], ["indexed", "indexed"], ["verified", "verified"]];

function tables(found) {
  return h("ul", { class: "progress" }, found.map((one) => {
    // The source may grow during the copy.
    const total = Math.max(one.total, one.rows);
    const share = one.copied ? 1 : total > 0 ? one.rows / total : 0;
    const marks = MARKS.filter(([name]) => one[name]).map(([, text]) => text).join(", ");
    return h("li", {}, h("div", { class: "hit-head" }, h("span", { class: "mono" }, one.name),
      h("span", {}, `${number(one.rows)} of ${plural(total, "row")}`, marks && h("small", {}, ` ${marks}`))),
    h("progress", { max: "1", value: share, "aria-label": `${one.name}: ${percent(share)} copied` }));
  }));
}
