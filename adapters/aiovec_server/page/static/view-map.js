// A sample of the table's vectors in two dimensions.

import * as api from "./api.js";
import { announce, empty, h, labelled, select, uid } from "./dom.js";
import { number, percent, plural, score, seconds } from "./format.js";
import { Plot } from "./plot.js";
import { cell, plainText, whole } from "./value.js";
import { rowLink, tableLink } from "./table-head.js";

const SIZES = [250, 500, 1000, 2000];
const NEAREST = 10;
const NONE = "-"; // no field can have this name

export async function mapView({ table, facts, query, signal }) {
  if (facts.rows === 0) {
    return empty("There is nothing to draw yet", h("p", {}, "The map shows rows by their vectors. Insert some rows first."));
  }
  const names = Object.keys(facts.schema.fields);
  const wanted = {
    rows: SIZES.includes(Number(query.get("rows"))) ? Number(query.get("rows")) : 1000,
    color: [NONE, ...names].includes(query.get("color")) ? query.get("color") : "",
  };
  const found = await api.map(table, wanted, signal);
  if (found.rows === 0) return empty("No row of the sample has a vector", h("p", {}, "Give rows their vectors with ", h("code", {}, "set_vectors"), "."));
  return new MapView(table, facts, wanted, found, signal).parts();
}

function sampleOf({ rows, total, of }) {
  if (rows >= total) return plural(rows, "row");
  const part = of < total ? `the first ${number(of)} of ` : "";
  return `A sample of ${number(rows)} of ${part}${plural(total, "row")}`;
}

class MapView {
  constructor(table, facts, wanted, found, signal) {
    Object.assign(this, { table, facts, wanted, signal });
    const help = h("p", { class: "hint", id: uid("help") }, "Click a point, or use the arrow keys. Enter opens the row, + and − zoom, 0 shows everything.");
    this.help = help;
    this.canvas = h("canvas", { class: "map", tabindex: "0", role: "application", "aria-roledescription": "map", "aria-describedby": help.id });
    this.tip = h("div", { class: "tip", hidden: true, "aria-hidden": "true" });
    this.panel = h("aside", { class: "panel", "aria-label": "Chosen row" });
    this.legend = h("ul", { class: "groups", "aria-label": "Colors" });
    this.line = h("p", { class: "result-line" });
    this.plot = new Plot(this.canvas, {
      picked: (n) => this.pick(n), over: (n) => this.hover(n), signal,
      opened: (n) => { location.hash = rowLink(table, this.found.ids[n]); },
    });
    this.show(found);
  }

  parts() {
    const change = () => this.reload();
    const color = select("color", [[NONE, "none"], ...Object.keys(this.facts.schema.fields).map((name) => [name, name])], this.found.color ?? NONE);
    const rows = select("rows", SIZES.map((size) => [size, number(size)]), this.wanted.rows);
    this.controls = { color, rows };
    color.addEventListener("change", change);
    rows.addEventListener("change", change);
    const button = (text, name, act) => h("button", { type: "button", class: "square", "aria-label": name, click: act }, text);
    return [
      h("form", { class: "controls", "aria-label": "Map", submit: (event) => event.preventDefault() },
        labelled("Color by", color), labelled("Rows at most", rows)),
      this.line,
      h("div", { class: "map-and-panel" },
        h("div", {},
          h("div", { class: "map-frame" }, this.canvas, this.tip,
            h("div", { class: "zoom", role: "group", "aria-label": "Zoom" }, button("+", "Zoom in", () => this.plot.zoomBy(1.5)),
              button("−", "Zoom out", () => this.plot.zoomBy(1 / 1.5)), button("⤢", "Show everything", () => this.plot.reset()))),
          this.legend, this.help),
        this.panel),
    ];
  }

  show(found) {
    this.found = found;
    const share = found.explained[0] + found.explained[1];
    this.canvas.setAttribute("aria-label", `Map of ${plural(found.rows, "row")}`);
    this.line.replaceChildren(
      h("span", { "data-status": true }, sampleOf(found)),
      h("span", { class: "muted" }, `The two main directions show ${percent(share)} of the variance · computed in ${seconds(found.seconds)}`));
    this.legend.replaceChildren(...found.groups.map((group, n) => h("li", {},
      h("span", { class: `swatch group-${n}`, "aria-hidden": "true" }),
      group.name === null ? `${number(group.values)} more` : cell(group.name, 40),
      h("span", { class: "muted" }, ` ${number(group.rows)}`))));
    this.legend.hidden = found.groups.length === 0;
    this.plot.show({ x: found.x, y: found.y, members: found.members });
    this.rest();
  }

  rest() {
    this.panel.replaceChildren(h("p", { class: "muted" }, "Points that lie close have similar vectors. Choose one to see its row and the rows nearest to it."));
  }

  async reload() {
    this.wanted = { color: this.controls.color.value, rows: Number(this.controls.rows.value) };
    history.replaceState(null, "", tableLink(this.table, "map", {
      color: this.wanted.color, rows: this.wanted.rows === 1000 ? "" : this.wanted.rows }));
    try {
      this.show(await api.map(this.table, this.wanted, this.signal));
      announce(this.line.textContent);
    } catch (error) {
      if (!this.signal.aborted) this.fail(error);
    }
  }

  fail(error) {
    this.panel.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
  }

  name(n) {
    const label = this.found.labels[n];
    return label ? `${this.found.ids[n]}: ${label}` : this.found.ids[n];
  }

  hover(n) {
    this.tip.hidden = n < 0;
    this.canvas.classList.toggle("over", n >= 0);
    if (n < 0) return;
    this.tip.textContent = plainText(this.name(n)).slice(0, 120);
    const [x, y] = this.plot.place(n);
    const left = Math.min(Math.max(x, 90), this.canvas.clientWidth - 90);
    this.tip.style.setProperty("left", `${left}px`);
    this.tip.style.setProperty("top", `${y + (y > 60 ? -14 : 34)}px`);
  }

  async pick(n) {
    this.tip.hidden = true;
    if (n < 0) {
      this.picked = null;
      return void this.rest();
    }
    const id = this.found.ids[n];
    this.picked = id;
    this.panel.setAttribute("aria-busy", "true");
    announce(plainText(this.name(n)).slice(0, 160));
    try {
      const [row, near] = await Promise.all([
        api.record(this.table, id, this.signal),
        api.search(this.table, { by: "like", id, limit: NEAREST }, this.signal).catch((error) => {
          if (error.status === 404 || error.status === 422) return { hits: [] };
          throw error;
        }),
      ]);
      if (this.picked === id) this.tell(id, row, near.hits);
    } catch (error) {
      if (!this.signal.aborted && this.picked === id) this.fail(error);
    } finally {
      if (this.picked === id) this.panel.removeAttribute("aria-busy");
    }
  }

  tell(id, row, hits) {
    if (!row) {
      this.panel.replaceChildren(h("p", { class: "error", role: "alert" }, "This row was deleted meanwhile."));
      return;
    }
    const places = new Map(this.found.ids.map((one, n) => [one, n]));
    this.plot.neighbours(hits.map((hit) => places.get(hit.id)).filter((n) => n !== undefined));
    const { label, schema } = this.facts;
    const fields = Object.entries(row).filter(([name, value]) => name !== "id" && name !== schema.vector && value !== null);
    const text = fields.find(([name]) => name === label);
    const rest = fields.filter(([name]) => name !== label).slice(0, 8);
    this.panel.replaceChildren(
      h("h2", { class: "row-id" }, h("a", { href: rowLink(this.table, id) }, cell(id, 120))),
      text ? h("p", { class: "text" }, cell(text[1], 320)) : "",
      h("dl", { class: "fields small" }, rest.map(([name, value]) => [h("dt", {}, cell(name, 60)), h("dd", {}, typeof value === "object" ? whole(value) : cell(value, 120))])),
      hits.length ? h("h3", {}, "Nearest rows") : "",
      h("ol", { class: "nearest" }, hits.map((hit) => h("li", {}, h("div", {},
        h("a", { href: rowLink(this.table, hit.id) }, cell(hit.id, 60)), h("span", { class: "figure muted" }, score(hit._score)))))));
  }
}
