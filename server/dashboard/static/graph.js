// The graph: as part of the page it is zoomed and walked through; a large one is drawn here, and only what is in sight.
import { soft } from "./pages.js";

const STEP = 1.3, LEAST = 0.02, MOST = 2.5, NAMES = 0.45;
const SHAPES = {
  completed: "M2 8.5 6 12.5 14 3.5", failed: "M3.5 3.5 12.5 12.5 M12.5 3.5 3.5 12.5", running: "M4 2.5 13 8 4 13.5Z", pending: "M8 2a6 6 0 1 0 .01 0",
  waiting_approval: "M5 5.6a3 3 0 1 1 4.6 2.5C8.5 8.9 8 9.4 8 10.5 M8 13.7v.1", paused: "M5.5 3v10 M10.5 3v10",
  skipped: "M3 3.5 8 8 3 12.5 M8.5 3.5 13.5 8 8.5 12.5", cancelled: "M8 2a6 6 0 1 0 .01 0 M4 12 12 4",
};
const COLOURS = { completed: "done", failed: "bad", running: "run", waiting_approval: "ask", paused: "pause" };
let scale = 0, scrolled = [0, 0], large = null;

const box = () => document.getElementById("graph");

// --- part of the page ----------------------------------------------------------------------------------------------

function zoomTo(wanted) {
  const graph = box(), svg = graph?.querySelector(":scope > svg");
  if (!svg) return;
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const before = scale || 1, middle = [graph.scrollLeft + graph.clientWidth / 2, graph.scrollTop + graph.clientHeight / 2];
  scale = Math.min(MOST, Math.max(0.1, wanted));
  svg.setAttribute("width", Math.round(width * scale));
  svg.setAttribute("height", Math.round(height * scale));
  graph.scrollLeft = middle[0] * scale / before - graph.clientWidth / 2;
  graph.scrollTop = middle[1] * scale / before - graph.clientHeight / 2;
}

function fit(whole = false) {
  const graph = box(), svg = graph?.querySelector(":scope > svg");
  if (!svg) return;
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const across = (graph.clientWidth - 2) / width;
  const down = window.innerHeight * 0.66 / height;
  zoomTo(Math.min(1, whole ? Math.min(across, down) : Math.max(across, 0.5)));
}

function walk(from, key) {
  const nodes = [...box().querySelectorAll("a.node")];
  const place = (one) => { const r = one.querySelector("rect"); return [Number(r.getAttribute("x")), Number(r.getAttribute("y"))]; };
  const [x, y] = place(from);
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  let best = null, least = Infinity;
  for (const one of nodes) {
    const [ox, oy] = place(one), along = (ox - x) * dx + (oy - y) * dy;
    if (along <= 1) continue;
    const aside = Math.abs((ox - x) * dy) + Math.abs((oy - y) * dx), far = along + aside * 2.5;
    if (far < least) { least = far; best = one; }
  }
  best?.focus();
  best?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

// --- drawn here ----------------------------------------------------------------------------------------------------

class Large {
  constructor(graph, data) {
    this.graph = graph;
    this.take(data);
    this.canvas = document.createElement("canvas");
    this.at = { x: 0, y: 0, scale: 1 };
    this.chosen = -1;
    graph.replaceChildren(this.canvas);
    this.listen();
    this.whole();
  }

  take(data) {
    this.data = data;
    this.rows = [...data.nodes.keys()].sort((a, b) => data.nodes[a][4] - data.nodes[b][4]);
    this.tops = this.rows.map((one) => data.nodes[one][4]);
    this.joined = new Map();
    for (const line of data.lines) for (const end of [line[0], line[1]]) {
      if (!this.joined.has(end)) this.joined.set(end, []);
      this.joined.get(end).push(line);
    }
    this.longest = data.lines.length > 60000;
  }

  listen() {
    let from = null, moved = false;
    this.canvas.addEventListener("pointerdown", (event) => { from = [event.clientX, event.clientY]; moved = false; this.canvas.setPointerCapture(event.pointerId); });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const dx = event.clientX - from[0], dy = event.clientY - from[1];
      if (Math.abs(dx) + Math.abs(dy) > 3) moved = true;
      if (moved) { this.at.x -= dx / this.at.scale; this.at.y -= dy / this.at.scale; from = [event.clientX, event.clientY]; this.draw(); }
    });
    this.canvas.addEventListener("pointerup", (event) => { from = null; if (!moved) this.open(this.hit(event.offsetX, event.offsetY)); });
    this.canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== this.graph) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * 0.0016), event.offsetX, event.offsetY);
    }, { passive: false });
    new ResizeObserver(() => this.draw()).observe(this.graph);
    document.addEventListener("omium:theme", () => this.draw());
  }

  open(one) {
    if (one < 0) return;
    this.chosen = one;
    this.draw();
    const url = new URL(location.href);
    url.searchParams.set("node", this.data.nodes[one][0]);
    soft(url.href);
  }

  size() { return [this.canvas.clientWidth, this.canvas.clientHeight]; }

  whole() {
    const [width, height] = this.size();
    this.at.scale = Math.min(1, Math.max(LEAST, Math.min(width / this.data.width, height / this.data.height)));
    this.at.x = (this.data.width - width / this.at.scale) / 2;
    this.at.y = (this.data.height - height / this.at.scale) / 2;
    this.draw();
  }

  zoom(by, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    const before = this.at.scale;
    this.at.scale = Math.min(MOST, Math.max(LEAST, before * by));
    this.at.x += px / before - px / this.at.scale;
    this.at.y += py / before - py / this.at.scale;
    this.draw();
  }

  first(y) {
    let low = 0, high = this.tops.length;
    while (low < high) { const middle = (low + high) >> 1; if (this.tops[middle] < y) low = middle + 1; else high = middle; }
    return low;
  }

  seen() {
    const [width, height] = this.size(), [w, h] = this.data.box, found = [];
    const right = this.at.x + width / this.at.scale, bottom = this.at.y + height / this.at.scale;
    for (let place = this.first(this.at.y - h); place < this.rows.length && this.tops[place] < bottom; place += 1) {
      const one = this.rows[place], x = this.data.nodes[one][3];
      if (x + w > this.at.x && x < right) found.push(one);
    }
    return found;
  }

  hit(px, py) {
    const x = this.at.x + px / this.at.scale, y = this.at.y + py / this.at.scale, [w, h] = this.data.box;
    return this.seen().find((one) => { const node = this.data.nodes[one]; return x >= node[3] && x <= node[3] + w && y >= node[4] && y <= node[4] + h; }) ?? -1;
  }

  draw() {
    if (this.due) return;
    this.due = requestAnimationFrame(() => { this.due = 0; this.paint(); });
  }

  paint() {
    const [width, height] = this.size(), ratio = window.devicePixelRatio || 1;
    if (!width || !this.canvas.isConnected) return;
    if (this.canvas.width !== Math.round(width * ratio)) this.canvas.width = Math.round(width * ratio);
    if (this.canvas.height !== Math.round(height * ratio)) this.canvas.height = Math.round(height * ratio);
    const pen = this.canvas.getContext("2d"), style = getComputedStyle(document.documentElement), zoom = this.at.scale;
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const seen = this.seen();
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.setTransform(ratio * zoom, 0, 0, ratio * zoom, -this.at.x * zoom * ratio, -this.at.y * zoom * ratio);
    this.lines(pen, seen, colour, zoom);
    this.boxes(pen, seen, colour, zoom);
  }

  lines(pen, seen, colour, zoom) {
    const [w, h] = this.data.box, drawn = new Set();
    for (const bad of [0, 1]) {
      pen.beginPath();
      for (const one of seen) for (const line of this.joined.get(one) || []) {
        if (line[2] !== bad || drawn.has(line)) continue;
        drawn.add(line);
        if (drawn.size > 8000) break;
        const a = this.data.nodes[line[0]], b = this.data.nodes[line[1]], x1 = a[3] + w / 2, y1 = a[4] + h, x2 = b[3] + w / 2, y2 = b[4];
        const bend = Math.max(12, (y2 - y1) / 2);
        pen.moveTo(x1, y1);
        if (zoom < 0.2) pen.lineTo(x2, y2); else pen.bezierCurveTo(x1, y1 + bend, x2, y2 - bend, x2, y2);
      }
      pen.strokeStyle = colour(bad ? "bad" : "edge");
      pen.globalAlpha = bad ? 1 : zoom < 0.2 ? 0.35 : 0.8;
      pen.lineWidth = (bad ? 2.4 : 1.2) / Math.max(zoom, 0.35);
      pen.stroke();
    }
    pen.globalAlpha = 1;
  }

  boxes(pen, seen, colour, zoom) {
    const [w, h] = this.data.box, ink = {}, chosen = new URL(location.href).searchParams.get("node");
    for (const one of seen) {
      const [id, kind, status, x, y, attempt, inside] = this.data.nodes[one], name = COLOURS[status] || "idle";
      ink[name] ||= [colour(name), colour(`${name}-ground`)];
      const mine = id === chosen || one === this.chosen;
      pen.fillStyle = zoom < 0.12 ? ink[name][0] : ink[name][1];
      pen.strokeStyle = mine ? colour("focus") : ink[name][0];
      pen.lineWidth = mine ? Math.max(4, 3 / zoom) : status === "failed" ? 2.6 : 1.5;
      pen.beginPath();
      if (zoom < 0.25) pen.rect(x, y, w, h); else pen.roundRect(x, y, w, h, kind === "approval" ? 23 : 8);
      pen.fill();
      if (zoom >= 0.12 || mine) pen.stroke();
      if (zoom < NAMES) continue;
      pen.save();
      pen.translate(x + 12, y + 15);
      pen.strokeStyle = ink[name][0];
      pen.lineWidth = 1.9;
      pen.stroke(new Path2D(SHAPES[status] || SHAPES.pending));
      pen.restore();
      pen.fillStyle = colour("text");
      pen.font = "600 13px system-ui, sans-serif";
      pen.fillText(id.length > 20 ? `…${id.slice(-19)}` : id, x + 36, y + 20);
      pen.fillStyle = ink[name][0];
      pen.font = "11px system-ui, sans-serif";
      pen.fillText(inside ? `${inside.toLocaleString()} nodes inside` : `${kind}${attempt > 1 ? ` · attempt ${attempt}` : ""}`, x + 36, y + 36);
    }
  }

  key(key) {
    const far = 90 / this.at.scale, steps = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
    if (!steps[key]) return false;
    this.at.x += steps[key][0];
    this.at.y += steps[key][1];
    this.draw();
    return true;
  }
}

async function drawLarge() {
  const graph = box();
  if (graph?.dataset.mode !== "canvas") return;
  const known = large?.graph === graph;
  try {
    const answer = await fetch(graph.dataset.source, { headers: { accept: "application/json" }, credentials: "same-origin" });
    if (!answer.ok) throw new Error(String(answer.status));
    const data = await answer.json();
    if (known) { large.take(data); large.draw(); return; }
    const before = large;
    large = new Large(graph, data);
    if (before && before.data.width === data.width) { large.at = before.at; large.draw(); }
  } catch (_) {
    if (!known) graph.querySelector("p")?.replaceChildren("The graph could not be had. The table below has every node.");
  }
}

// --- both ----------------------------------------------------------------------------------------------------------

function ready(fresh) {
  for (const one of document.querySelectorAll(".zoom")) one.hidden = !box();
  if (!box()) return;
  if (box().dataset.mode === "canvas") { drawLarge(); return; }
  if (fresh && !scale) fit();
  else if (scale) {
    const kept = scale;
    scale = 0;
    zoomTo(kept);
  }
  if (!fresh) [box().scrollLeft, box().scrollTop] = scrolled;
}

function zoom(how) {
  if (box()?.dataset.mode === "canvas") {
    if (how === "0") large?.whole(); else large?.zoom(how === "+" ? STEP : 1 / STEP);
  } else if (how === "0") fit(true);
  else zoomTo((scale || 1) * (how === "+" ? STEP : 1 / STEP));
}

export function startGraph() {
  ready(true);
  document.addEventListener("omium:leaving", () => { const graph = box(); if (graph) scrolled = [graph.scrollLeft, graph.scrollTop]; });
  document.addEventListener("omium:arrived", () => ready(false));
  document.addEventListener("omium:refreshed", () => { const graph = box(); if (graph) scrolled = [graph.scrollLeft, graph.scrollTop]; ready(false); });
  document.addEventListener("click", (event) => { const button = event.target.closest?.("[data-zoom]"); if (button) zoom(button.dataset.zoom); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !box() || event.target.matches?.("input, textarea, select")) return;
    const inside = event.target === box() || box().contains(event.target);
    if (["+", "-", "0", "="].includes(event.key)) { zoom(event.key === "=" ? "+" : event.key); event.preventDefault(); return; }
    if (!inside || !event.key.startsWith("Arrow")) return;
    if (large?.graph === box()) { if (large.key(event.key)) event.preventDefault(); return; }
    const node = event.target.closest("a.node");
    if (node) { event.preventDefault(); walk(node, event.key); }
  });
}
