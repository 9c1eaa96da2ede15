// The frame around the views: it shows the view that the address names, errors, and a lost server.

import * as api from "./api.js";
import { announce, empty, h, put } from "./dom.js";
import { askForKey } from "./dialogs.js";
import { details } from "./view-details.js";
import { mapView } from "./view-map.js";
import { row } from "./view-row.js";
import { rows } from "./view-rows.js";
import { search } from "./view-search.js";
import { tables } from "./view-tables.js";
import { tableHead } from "./table-head.js";

const view = document.getElementById("view");
const OF_TABLE = new Map(Object.entries({ rows, search, map: mapView, details, row }));

const BOX = "input[name=q]";

let leaving = null;
let shown = "";

// Split "#/t/notes/search?q=x" into its parts and its query.
export function route(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  let parts;
  try { parts = path.split("/").map(decodeURIComponent); } catch { parts = ["?"]; }
  return { parts, query: new URLSearchParams(query) };
}

function viewOf(parts) {
  if (parts[0] === "") return { make: tables, title: "Tables" };
  const [first, table, name] = parts;
  if (first === "t" && table && (!name || OF_TABLE.has(name))) return { table, name, title: table };
  return null;
}

async function content(found, context) {
  if (!found) {
    return empty("There is no such page", h("p", {}, h("a", { href: "#/" }, "All tables")));
  }
  if (!found.table) return found.make(context);
  const of = await api.facts(found.table, context.signal);
  const name = found.name || (of.can.words || of.can.meaning ? "search" : "rows");
  const made = await OF_TABLE.get(name)({ ...context, facts: of, table: found.table });
  return [tableHead(of, name), made];
}

async function show({ again = false } = {}) {
  const here = location.hash;
  const { parts, query } = route(here);
  const found = viewOf(parts);
  leaving?.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const wait = setTimeout(() => { document.getElementById("busy").hidden = false; }, 150);
  view.setAttribute("aria-busy", "true");
  try {
    // Asked each time: after a migration, a server continues with another backend.
    const facts = await about(signal);
    const context = { parts, query, signal, about: facts, again: () => show({ again: true }) };
    const made = await content(found, context);
    if (signal.aborted) return;
    put(view, made);
    online();
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 401) {
      await askForKey(api.key.get() !== null);
      return void show({ again: true });
    }
    if (error.status === api.UNREACHABLE) return void offline();
    view.replaceChildren(failure(error));
  } finally {
    clearTimeout(wait);
    if (!signal.aborted || leaving.signal === signal) {
      document.getElementById("busy").hidden = true;
      view.removeAttribute("aria-busy");
    }
  }
  settle(found, here, again);
}

async function about(signal) {
  const known = await api.about(signal);
  document.getElementById("about").replaceChildren(
    h("span", {}, `${known.backend} · ${known.version}`),
    h("span", { class: known.writes ? "chip warn" : "chip" }, known.writes ? "Page: writes allowed" : "Page: view only"));
  return known;
}

function failure(error) {
  if (!(error instanceof api.Problem)) console.error(error);
  const known = error instanceof api.Problem;
  return h("div", { class: "failure", role: "alert" },
    h("h1", { tabindex: "-1" }, known && error.status === 404 ? "Not here" : "That did not work"),
    h("p", {}, known ? error.message : "The page could not show the answer."),
    h("p", {}, h("button", { type: "button", click: () => show({ again: true }) }, "Try again"),
      " ", h("a", { href: "#/" }, "All tables")));
}

// Set the title and the current link, and move the focus for keyboard users.
function settle(found, here, again) {
  const link = document.querySelector("#main-nav a");
  if (found) link.setAttribute("aria-current", found.table ? "true" : "page");
  else link.removeAttribute("aria-current");
  const heading = view.querySelector("h1");
  document.title = `${view.querySelector("[data-title]")?.dataset.title ?? heading?.textContent ?? "aiovec"} · aiovec`;
  const path = here.replace(/\?.*/s, "");
  const before = shown;
  shown = path;
  if (again) return;
  const box = view.querySelector(BOX);
  if (before !== path && box?.value === "") return box.focus({ preventScroll: before === "" });
  if (before === "") return;
  if (before === path) {
    const status = view.querySelector("[data-status]");
    if (status) announce(status.textContent);
    return;
  }
  scrollTo(0, 0);
  if (heading) {
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }
}

// A slash moves the focus to the search box, as on many pages.
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, dialog")) return;
  const box = view.querySelector(BOX) ?? view.querySelector("nav a");
  if (!box) return;
  event.preventDefault();
  if (box.matches("a")) box.click();
  else box.select();
});

let trying = null;

function offline() {
  const bar = document.getElementById("offline");
  bar.hidden = false;
  bar.textContent = "The server does not answer. Trying again…";
  if (view.childElementCount === 0 || view.querySelector("noscript")) {
    view.replaceChildren(empty("No connection", h("p", {}, "Start the server with ",
      h("code", {}, "aiovec serve"), "; this page continues by itself.")));
  }
  trying ??= setInterval(async () => {
    if (document.hidden) return;
    try { await api.health(); } catch (error) {
      if (error.status === api.UNREACHABLE || error.status >= 502) return;
    }
    clearInterval(trying);
    trying = null;
    show({ again: true });
  }, 1500);
}

function online() {
  const bar = document.getElementById("offline");
  if (bar.hidden) return;
  bar.hidden = true;
  announce("The server answers again");
}

addEventListener("hashchange", () => {
  if (location.hash !== "#view") show();
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  (view.querySelector("h1") ?? view).tabIndex = -1;
  (view.querySelector("h1") ?? view).focus();
});
show();
