// Format numbers, sizes and times for people.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const number = (value) => whole.format(value);
export const plural = (count, one, many = `${one}s`) =>
  `${number(count)}\u00a0${Number(count) === 1 ? one : many}`;

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  let left = Number(value);
  while (left >= 999.5 && unit < units.length - 1) { left /= 1000; unit += 1; }
  return `${unit === 0 ? number(left) : three.format(left)}\u00a0${units[unit]}`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (value < 0.001) return `${three.format(value * 1e6)}\u00a0µs`;
  if (value < 1) return `${three.format(value * 1000)}\u00a0ms`;
  if (value < 120) return `${three.format(value)}\u00a0s`;
  if (value < 7200) return `${number(value / 60)}\u00a0min`;
  if (value < 172800) return `${number(value / 3600)}\u00a0h`;
  return `${number(value / 86400)}\u00a0days`;
}

export const percent = (share) =>
  `${new Intl.NumberFormat("en", { maximumFractionDigits: 1 }).format(share * 100)}\u00a0%`;

export function score(value) {
  if (value === null || value === undefined) return "–";
  // A keyword in most rows has a score close to 0.
  return value !== 0 && Math.abs(value) < 0.001 ? value.toPrecision(2) : value.toFixed(4);
}

export function ago(text) {
  const at = Date.parse(text ?? "");
  if (Number.isNaN(at)) return "never";
  const past = (Date.now() - at) / 1000;
  return past < 5 ? "just now" : `${seconds(past)} ago`;
}
