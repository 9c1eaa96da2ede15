// Lines over the last minutes, in SVG.

import { h, svg } from "./dom.js";

const HEIGHT = 190;
const LEFT = 58;
const RIGHT = 4;
const PADDING = 34; // of the box around it, with its border
const TOP = 12;
const BOTTOM = 24;

// A top of an axis that divides well: 1, 2, 2.5 or 5 times a power of ten.
export function niceTop(most) {
  if (!(most > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((top) => top >= most) ?? 10 * power;
}

function lines(values, x, y) {
  const parts = [];
  let part = [];
  values.forEach((value, n) => {
    if (value === null) { if (part.length) parts.push(part); part = []; } else part.push([x(n), y(value)]);
  });
  if (part.length) parts.push(part);
  return parts;
}

const at = (points) => points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");

// series: [{ name, values, kind }]; format says a value; total is how many points the axis has.
export function chart({ title, series, total, step, format, width }) {
  const right = Math.max(240, width - PADDING) - RIGHT;
  const top = niceTop(Math.max(0, ...series.flatMap(({ values }) => values.filter((one) => one !== null))));
  const count = Math.max(...series.map(({ values }) => values.length), 0);
  const x = (n) => LEFT + ((n + total - count) / Math.max(1, total - 1)) * (right - LEFT);
  const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
  const grid = [0, 0.5, 1].map((share) => [
    svg("line", { x1: LEFT, x2: right, y1: y(share * top), y2: y(share * top), class: "grid-line" }),
    svg("text", { x: LEFT - 8, y: y(share * top) + 4, class: "axis end" }, format(share * top)),
  ]);
  const minutes = Math.round(((total + 1) * step) / 60);
  const every = right < 480 ? 2 : 1; // minutes from one label to the next
  const times = Array.from({ length: minutes + 1 }, (_, n) => {
    if ((minutes - n) % every) return null;
    const place = LEFT + (n / minutes) * (right - LEFT);
    const text = n === minutes ? "now" : `−${minutes - n} min`;
    return svg("text", { x: place, y: HEIGHT - 6, class: n === minutes ? "axis end" : n === 0 ? "axis start" : "axis middle" }, text);
  });
  const drawn = series.map(({ values, kind }) => lines(values, x, y).map((points) => {
    if (points.length === 1) return svg("circle", { cx: points[0][0], cy: points[0][1], r: 2.5, class: `dot ${kind}` });
    const area = `${at(points)} ${points.at(-1)[0].toFixed(1)},${y(0)} ${points[0][0].toFixed(1)},${y(0)}`;
    return [svg("polygon", { points: area, class: `area ${kind}` }), svg("polyline", { points: at(points), class: `line ${kind}` })];
  }));
  return h("figure", { class: "chart" },
    h("figcaption", {}, h("span", {}, title), h("span", { class: "legend" }, series.map(({ name, values, kind }) =>
      h("span", { class: kind }, h("span", { class: "swatch", "aria-hidden": "true" }), name, " ",
        h("strong", {}, values.length && values.at(-1) !== null ? format(values.at(-1)) : "–"))))),
    svg("svg", { width: right + RIGHT, height: HEIGHT, role: "img", "aria-label": summary(title, series, format) }, grid, times, drawn));
}

function summary(title, series, format) {
  return `${title} of the last minutes. ${series.map(({ name, values }) => {
    const known = values.filter((one) => one !== null);
    return known.length ? `${name}: at most ${format(Math.max(...known))}, last ${format(known.at(-1))}` : `${name}: nothing`;
  }).join(". ")}.`;
}
