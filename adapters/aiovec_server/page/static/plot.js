// Draw points on a canvas, move them, and let a pointer or the arrow keys pick one.

const REACH = 22; // the distance from a point, in CSS pixels, at which a finger picks it
const ZOOMS = [1, 40];
const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function dot(pen, [x, y], size, color) {
  pen.fillStyle = color;
  pen.beginPath();
  pen.arc(x, y, size, 0, 7);
  pen.fill();
}

export class Plot {
  // points: { x, y, members }. picked(n) gets the point that was picked, over(n) the one under the pointer.
  constructor(canvas, { picked, over, opened, signal }) {
    Object.assign(this, { canvas, picked, over, opened });
    this.points = { x: [], y: [], members: [] };
    this.chosen = -1;
    this.near = [];
    this.reset();
    const on = (name, act) => canvas.addEventListener(name, act, { signal });
    on("pointerdown", (event) => this.down(event));
    on("pointermove", (event) => this.move(event));
    on("pointerup", (event) => this.up(event));
    on("pointercancel", () => { this.from = null; });
    on("pointerleave", () => this.over(-1));
    on("keydown", (event) => this.key(event));
    on("focus", () => this.later());
    on("blur", () => this.later());
    this.sizes = new ResizeObserver(() => this.later());
    this.sizes.observe(canvas);
    signal.addEventListener("abort", () => this.sizes.disconnect());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.later(), { signal });
  }

  show(points) {
    this.points = points;
    this.chosen = -1;
    this.near = [];
    this.fit();
    this.reset();
  }

  // Fill the canvas with the points, with the same scale in both directions.
  fit() {
    const spread = (values) => [Math.min(...values, 0), Math.max(...values, 0)];
    const [[left, right], [low, high]] = [spread(this.points.x), spread(this.points.y)];
    this.middle = [(left + right) / 2, (low + high) / 2];
    this.spans = [right - left || 1, high - low || 1];
  }

  reset() {
    this.zoom = 1;
    this.shift = [0, 0];
    this.later();
  }

  later() {
    this.frame ??= requestAnimationFrame(() => { this.frame = null; this.draw(); });
  }

  scale() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const [wide, high] = this.spans ?? [2, 2];
    return Math.min((width - 36) / wide, (height - 36) / high) * this.zoom;
  }

  place(n) {
    const scale = this.scale();
    const [x, y] = this.middle;
    return [this.canvas.clientWidth / 2 + this.shift[0] + (this.points.x[n] - x) * scale,
      this.canvas.clientHeight / 2 + this.shift[1] - (this.points.y[n] - y) * scale];
  }

  draw() {
    const { canvas } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (width === 0) return;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    const color = (name) => style.getPropertyValue(name).trim();
    const colors = Array.from({ length: 8 }, (_, n) => color(`--group-${n}`));
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const size = this.points.x.length > 600 ? 3 : 4;
    pen.globalAlpha = this.chosen >= 0 ? 0.45 : 0.75;
    for (let n = 0; n < this.points.x.length; n += 1) {
      dot(pen, this.place(n), size, colors[this.points.members[n] ?? 0]);
    }
    pen.globalAlpha = 1;
    if (this.chosen >= 0) this.drawChosen(pen, color("--text"), colors);
  }

  drawChosen(pen, ink, colors) {
    const center = this.place(this.chosen);
    pen.strokeStyle = ink;
    pen.lineWidth = 1;
    for (const n of this.near) {
      pen.globalAlpha = 0.35;
      pen.beginPath();
      pen.moveTo(...center);
      pen.lineTo(...this.place(n));
      pen.stroke();
      pen.globalAlpha = 1;
      dot(pen, this.place(n), 5, colors[this.points.members[n] ?? 0]);
      pen.stroke();
    }
    pen.lineWidth = 2.5;
    dot(pen, center, 7.5, colors[this.points.members[this.chosen] ?? 0]);
    pen.stroke();
  }

  // Return the point under the pointer, or -1.
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const reach = event.pointerType === "touch" ? REACH : REACH / 2;
    let [best, least] = [-1, reach * reach];
    for (let n = 0; n < this.points.x.length; n += 1) {
      const [x, y] = this.place(n);
      const far = (x - px) ** 2 + (y - py) ** 2;
      if (far < least) [best, least] = [n, far];
    }
    return best;
  }

  down(event) {
    if (event.button !== 0) return;
    this.from = { x: event.clientX, y: event.clientY, shift: [...this.shift], moved: false };
    if (event.pointerType !== "touch" || this.zoom > 1) this.canvas.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (!this.from) return void this.over(this.at(event));
    const [dx, dy] = [event.clientX - this.from.x, event.clientY - this.from.y];
    if (Math.hypot(dx, dy) > 5) this.from.moved = true;
    if (this.from.moved) {
      this.shift = [this.from.shift[0] + dx, this.from.shift[1] + dy];
      this.over(-1);
      this.later();
    }
  }

  up(event) {
    const still = this.from && !this.from.moved;
    this.from = null;
    if (!still) return;
    const n = this.at(event);
    if (n >= 0) this.pick(n);
  }

  pick(n) {
    this.chosen = n;
    this.near = [];
    this.later();
    this.picked(n);
  }

  neighbours(near) {
    this.near = near;
    this.later();
  }

  // Zoom around the chosen point, or around the middle if there is none.
  zoomBy(factor) {
    const middle = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2];
    const around = this.chosen >= 0 ? this.place(this.chosen) : middle;
    const before = this.zoom;
    this.zoom = Math.min(ZOOMS[1], Math.max(ZOOMS[0], before * factor));
    const grown = this.zoom / before;
    this.shift = this.zoom === ZOOMS[0] ? [0, 0] : this.shift.map((one, n) => {
      const far = around[n] - middle[n];
      return far - (far - one) * grown;
    });
    this.later();
  }

  center(n) {
    const [x, y] = this.place(n);
    this.shift = [this.shift[0] + this.canvas.clientWidth / 2 - x, this.shift[1] + this.canvas.clientHeight / 2 - y];
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const direction = DIRECTIONS[event.key];
    if (direction) this.step(direction);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.5);
    else if (event.key === "-") this.zoomBy(1 / 1.5);
    else if (event.key === "0") this.reset();
    else if (event.key === "Escape" && this.chosen >= 0) { this.chosen = -1; this.near = []; this.later(); this.picked(-1); }
    else if (event.key === "Enter" && this.chosen >= 0) this.opened(this.chosen);
    else return;
    event.preventDefault();
  }

  // Pick the nearest point in a direction; the first press picks the middle one.
  step([dx, dy]) {
    const { x, y } = this.points;
    if (x.length === 0) return;
    const from = this.chosen >= 0 ? [x[this.chosen], y[this.chosen]] : this.middle;
    let [best, least] = [-1, Infinity];
    for (let n = 0; n < x.length; n += 1) {
      if (n === this.chosen) continue;
      const [ax, ay] = [x[n] - from[0], y[n] - from[1]];
      const along = ax * dx + ay * dy;
      const aside = Math.abs(ax * dy) + Math.abs(ay * dx);
      if (this.chosen >= 0 && (along <= 0 || aside > along)) continue;
      const far = this.chosen >= 0 ? along + 2 * aside : Math.hypot(ax, ay);
      if (far < least) [best, least] = [n, far];
    }
    if (best < 0) return;
    this.pick(best);
    const [px, py] = this.place(best);
    const inside = px > 10 && py > 10 && px < this.canvas.clientWidth - 10 && py < this.canvas.clientHeight - 10;
    if (!inside) this.center(best);
  }
}
