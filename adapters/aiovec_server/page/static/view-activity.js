// The server's rate and latencies, live.

import * as api from "./api.js";
import { empty, h, put } from "./dom.js";
import { number, rate, seconds } from "./format.js";
import { chart } from "./chart.js";
import { every } from "./polling.js";

const KINDS = [["all", "All requests"], ["search", "Searches"], ["read", "Reads"], ["write", "Writes"]];

export async function activity({ signal, query }) {
  let kind = KINDS.some(([name]) => name === query.get("of")) ? query.get("of") : "all";
  let figures = await api.figures(signal);
  const place = h("div", {});
  const draw = () => put(place, parts(figures, kind, place.clientWidth || 720));
  const choice = h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "Requests of"), KINDS.map(([name, text]) => {
    const id = `of-${name}`;
    return h("span", {}, h("input", { type: "radio", name: "of", id, value: name, checked: name === kind, change: () => {
      kind = name;
      history.replaceState(null, "", name === "all" ? "#/activity" : `#/activity?of=${name}`);
      draw();
    } }), h("label", { for: id }, text));
  }));
  let width = 0;
  new ResizeObserver(() => {
    if (place.clientWidth !== width) {
      width = place.clientWidth;
      draw();
    }
  }).observe(place);
  draw();
  every(2000, signal, async () => { figures = await api.figures(signal); draw(); });
  return [h("h1", {}, "Activity"), choice, place];
}

const sum = (values) => values.reduce((total, one) => total + one, 0);

function parts(figures, kind, width) {
  const { step, points, running, failed, uptime } = figures;
  const of = figures[kind] ?? figures.kinds[kind];
  const total = sum(of.count);
  const span = Math.max(step, of.count.length * step);
  const last = (values) => values.findLast((value) => value !== null) ?? null;
  return [
    h("dl", { class: "tiles" },
      tile("Now", rate((of.count.at(-1) ?? 0) / step), "requests/s"),
      tile("Last five minutes", number(total), total === 1 ? "request" : "requests"),
      tile("Median", seconds(last(of.p50))), tile("99th percentile", seconds(last(of.p99))),
      tile("Running", number(running)), tile("Failed", number(sum(failed)), "", sum(failed) > 0 ? "bad" : "")),
    chart({ title: "Requests per second", width, total: points, step, format: rate,
      series: [{ name: "now", kind: "one", values: of.count.map((count) => count / step) }] }),
    chart({ title: "Latency", width, total: points, step, format: seconds,
      series: [{ name: "99th percentile", kind: "two", values: of.p99 }, { name: "median", kind: "one", values: of.p50 }] }),
    total === 0 && empty("No requests in the last five minutes", h("p", {}, "This page's own requests are not counted. Search a table or let an app ask, and the lines begin.")),
    h("p", { class: "muted" }, `The server has been up for ${seconds(uptime)}. Points span ${step} seconds; the average of ${seconds(span)} is ${rate(total / span)} requests/s.`),
  ];
}

function tile(name, value, unit, kind = "") {
  return h("div", { class: `tile ${kind}` }, h("dt", {}, name), h("dd", {}, value, unit && h("small", {}, ` ${unit}`)));
}
