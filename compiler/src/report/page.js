"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

// Elements are made by name, attributes and children; texts are never read as markup.
function make(name, attributes = {}, ...children) {
  const svg = ["svg", "rect", "line", "text", "title"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function number(value) {
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value)) return String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(3) : value.toFixed(3);
}

const weights = (layer) => (layer.shape ? layer.shape[0] * layer.shape[1] : 0);
const place = (layer) => (layer.layer === null ? "" : `layer ${layer.layer}`);

// Signal to noise of a tile in dB: of the written levels, or of rounding where those hold it exactly.
const ratio = (tile) => tile.measures.snr_db ?? tile.rounding_db ?? undefined;

const tilesOf = data.layers.map(() => []);
data.tiles.forEach((tile, i) => tilesOf[tile.layer].push(i));

// Errors add up weighted with the elements they fall on.
const layerRatio = data.layers.map((layer, l) => {
  let error = 0, elements = 0;
  for (const i of tilesOf[l]) {
    const tile = data.tiles[i], db = ratio(tile);
    if (db === undefined || tile.range.length < 4) continue;
    const n = (tile.range[1] - tile.range[0]) * (tile.range[3] - tile.range[2]);
    error += n * 10 ** (-db / 10);
    elements += n;
  }
  return elements > 0 && error > 0 ? -10 * Math.log10(error / elements) : undefined;
});

// ---- Summary

document.title = `${data.model.name} on ${data.target}: pfmc report`;
byId("title").textContent = `${data.model.name} on ${data.target}`;
byId("subtitle").textContent =
  `${number(data.model.parameters)} parameters, process ${data.process}, pfmc ${data.version}, model's SHA-256 ${data.model.sha256.slice(0, 16)}\u2026, manifest ${data.manifest.slice(0, 16)}\u2026`;
for (const f of data.figures) {
  byId("figures").append(make("tr", {}, make("td", {}, f.name), make("td", { class: "n" }, `${number(f.value)} ${f.unit}`)));
}
for (const block of data.blocks) {
  const title = block.times > 1 ? `layer ${block.first} to ${block.first + block.times - 1}: ` : "";
  byId("blocks").append(make("li", {}, make("strong", {}, title), block.parts.join(", ")));
}

// ---- Map

const canvas = byId("canvas"), tip = byId("tip");
const view = { sheet: 0, scale: 1, x: 0, y: 0 };
let chosen = -1, hovered = -1, found = null;

data.sheets.forEach((sheet, i) => byId("sheet").append(make("option", { value: i }, sheet.name)));

const bitsOf = (tile) => {
  const n = tile.range.length === 4 ? (tile.range[1] - tile.range[0]) * (tile.range[3] - tile.range[2]) : 0;
  return n > 0 && tile.bits > 0 ? tile.bits / n : undefined;
};
const measures = { bits: bitsOf, error: ratio };
const spans = Object.fromEntries(Object.entries(measures).map(([name, of]) => {
  const values = data.tiles.map(of).filter((v) => v !== undefined);
  return [name, [Math.min(...values), Math.max(...values)]];
}));

function colour(tile) {
  const by = byId("colour").value;
  if (by === "layer") {
    return data.layers[tile.layer].shape ? `hsl(${(tile.layer * 137.508) % 360} 50% 52%)` : "hsl(0 0% 55%)";
  }
  const value = measures[by](tile);
  if (value === undefined) return "hsl(0 0% 55%)";
  const [low, high] = spans[by];
  const t = high > low ? (value - low) / (high - low) : 0.5;
  return `hsl(${250 - 200 * t} 60% ${38 + 22 * t}%)`;
}

const onSheet = () => data.tiles.map((tile, i) => [tile, i]).filter(([tile]) => tile.sheet === view.sheet);
let shown = onSheet();

function fit() {
  const sheet = data.sheets[view.sheet];
  if (!sheet) return;
  const [x0, y0, x1, y1] = sheet.area;
  const w = canvas.clientWidth, h = canvas.clientHeight;
  view.scale = 0.94 * Math.min(w / Math.max(1, x1 - x0), h / Math.max(1, y1 - y0));
  view.x = (x0 + x1) / 2 - w / 2 / view.scale;
  view.y = (y0 + y1) / 2 - h / 2 / view.scale;
}

// Layout's y goes up, the canvas' down.
function box(tile) {
  const [x0, y0, x1, y1] = tile.area, h = canvas.clientHeight;
  return [(x0 - view.x) * view.scale, h - (y1 - view.y) * view.scale, (x1 - x0) * view.scale, (y1 - y0) * view.scale];
}

let waiting = false;
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    paint();
  });
}

function paint() {
  const dense = window.devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
  if (canvas.width !== Math.round(w * dense)) canvas.width = Math.round(w * dense);
  if (canvas.height !== Math.round(h * dense)) canvas.height = Math.round(h * dense);
  const c = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink"), mark = style.getPropertyValue("--mark");
  c.setTransform(dense, 0, 0, dense, 0, 0);
  c.clearRect(0, 0, w, h);
  c.font = "11px system-ui, sans-serif";
  c.textBaseline = "top";
  for (const [tile, i] of shown) {
    const [x, y, bw, bh] = box(tile);
    if (x > w || y > h || x + bw < 0 || y + bh + (tile.measures.lanes_height_nm ?? 0) * view.scale < 0) continue;
    c.globalAlpha = found && !found.has(i) ? 0.18 : 1;
    c.fillStyle = colour(tile);
    c.fillRect(x, y, Math.max(bw, 0.7), Math.max(bh, 0.7));
    // The outline of the lanes below a macro.
    c.strokeStyle = ink;
    c.lineWidth = 0.4;
    c.strokeRect(x, y + bh, bw, (tile.measures.lanes_height_nm ?? 0) * view.scale);
    if (bw > 70 && bh > 30) {
      c.save();
      c.beginPath();
      c.rect(x, y, bw, bh);
      c.clip();
      c.fillStyle = "#fff";
      c.fillText(tile.name, x + 4, y + 4);
      if (bh > 46) c.fillText(tile.range.length === 4 ? `k ${tile.range[0]}..${tile.range[1]} n ${tile.range[2]}..${tile.range[3]}` : `bytes ${tile.range.join("..")}`, x + 4, y + 18);
      c.restore();
    }
  }
  c.globalAlpha = 1;
  for (const [i, line, width] of [[hovered, ink, 1.5], [chosen, mark, 3]]) {
    const tile = data.tiles[i];
    if (!tile || tile.sheet !== view.sheet) continue;
    const [x, y, bw, bh] = box(tile);
    c.strokeStyle = line;
    c.lineWidth = width;
    c.strokeRect(x - 1, y - 1, bw + 2, bh + 2);
  }
  const by = byId("colour").value;
  byId("legend").textContent = by === "layer"
    ? "A colour a layer; grey is data. Outlines below macros are those of their lanes."
    : `From ${number(spans[by][0])} (violet) to ${number(spans[by][1])} (yellow) ${by === "bits" ? "bits a weight, scales and codebooks included" : "dB"}; grey has none.`;
}

function at(event) {
  const area = canvas.getBoundingClientRect();
  const px = event.clientX - area.left, py = event.clientY - area.top;
  return [px, py, view.x + px / view.scale, view.y + (canvas.clientHeight - py) / view.scale];
}

function hit(x, y) {
  for (let s = shown.length - 1; s >= 0; s--) {
    const [x0, y0, x1, y1] = shown[s][0].area;
    if (x >= x0 && x <= x1 && y >= y0 && y <= y1) return shown[s][1];
  }
  return -1;
}

function zoom(factor, px = canvas.clientWidth / 2, py = canvas.clientHeight / 2) {
  const x = view.x + px / view.scale, up = canvas.clientHeight - py, y = view.y + up / view.scale;
  view.scale *= factor;
  view.x = x - px / view.scale;
  view.y = y - up / view.scale;
  draw();
}

function describe(tile) {
  const layer = data.layers[tile.layer];
  const rows = [
    ["tile", tile.name],
    ["ONNX tensor", layer.name],
    ["nodes", layer.nodes.join(", ")],
    ["where in the model", [place(layer), layer.part].filter(Boolean).join(", ")],
  ];
  if (tile.range.length === 4) {
    rows.push(["rows", `${tile.range[0]} to ${tile.range[1]} of ${layer.shape[0]}`], ["columns", `${tile.range[2]} to ${tile.range[3]} of ${layer.shape[1]}`]);
  } else if (tile.range.length === 2) {
    rows.push(["bytes of the data", `${tile.range[0]} to ${tile.range[1]}`]);
  }
  rows.push(["written as", tile.scheme], ["bits", number(tile.bits)]);
  if (bitsOf(tile) !== undefined && tile.scheme !== "real") rows.push(["bits a weight", number(bitsOf(tile))]);
  if (tile.sheet !== null) {
    const um = tile.area.map((v) => number(v / 1000));
    rows.push(["place", `${data.sheets[tile.sheet].name}, from (${um[0]}, ${um[1]}) to (${um[2]}, ${um[3]}) um`]);
  }
  if (tile.rounding_db !== null) rows.push(["rounding, dB", number(tile.rounding_db)]);
  for (const [name, value] of Object.entries(tile.measures)) rows.push([name.replaceAll("_", " "), number(value)]);
  return rows.filter(([, value]) => value !== "");
}

function choose(i, move = false) {
  const tile = data.tiles[i];
  if (!tile) return;
  chosen = i;
  if (tile.sheet !== null && tile.sheet !== view.sheet) {
    view.sheet = tile.sheet;
    byId("sheet").value = String(tile.sheet);
    shown = onSheet();
    fit();
  }
  if (move) {
    const [x, y, w, h] = box(tile);
    if (x < 0 || y < 0 || x + w > canvas.clientWidth || y + h > canvas.clientHeight) {
      view.x = (tile.area[0] + tile.area[2]) / 2 - canvas.clientWidth / 2 / view.scale;
      view.y = (tile.area[1] + tile.area[3]) / 2 - canvas.clientHeight / 2 / view.scale;
    }
  }
  const list = make("dl");
  for (const [name, value] of describe(tile)) list.append(make("dt", {}, name), make("dd", {}, value));
  byId("details").replaceChildren(make("h3", {}, tile.name), list);
  draw();
}

// The nearest tile whose centre lies in a direction.
function step(dx, dy) {
  const from = data.tiles[chosen];
  if (!from || from.sheet !== view.sheet) return choose(shown[0]?.[1] ?? -1, true);
  const centre = ({ area: [a, b, c, d] }) => [(a + c) / 2, (b + d) / 2];
  const [x, y] = centre(from);
  let best = -1, least = Infinity;
  for (const [tile, i] of shown) {
    const [tx, ty] = centre(tile), along = (tx - x) * dx + (ty - y) * dy, across = Math.abs((tx - x) * dy) + Math.abs((ty - y) * dx);
    if (i === chosen || along <= 0) continue;
    if (along + 3 * across < least) [best, least] = [i, along + 3 * across];
  }
  choose(best, true);
}

let drag = null;
canvas.addEventListener("pointerdown", (e) => {
  drag = { x: e.clientX, y: e.clientY, moved: false };
  canvas.setPointerCapture(e.pointerId);
});
canvas.addEventListener("pointermove", (e) => {
  if (drag) {
    const dx = e.clientX - drag.x, dy = e.clientY - drag.y;
    if (drag.moved || Math.hypot(dx, dy) > 4) {
      Object.assign(drag, { x: e.clientX, y: e.clientY, moved: true });
      view.x -= dx / view.scale;
      view.y += dy / view.scale;
      draw();
    }
    return;
  }
  const [px, py, x, y] = at(e), i = hit(x, y);
  if (i !== hovered) {
    hovered = i;
    draw();
  }
  tip.hidden = i < 0;
  if (i >= 0) {
    const tile = data.tiles[i], db = ratio(tile);
    tip.textContent = `${tile.name}: ${data.layers[tile.layer].name} [${tile.range.join(", ")}] ${tile.scheme}${db === undefined ? "" : `, ${number(db)} dB`}`;
    tip.style.left = `${Math.min(px + 14, canvas.clientWidth - 260)}px`;
    tip.style.top = `${py + 14}px`;
  }
});
canvas.addEventListener("pointerup", (e) => {
  const [, , x, y] = at(e);
  if (drag && !drag.moved) choose(hit(x, y));
  drag = null;
});
canvas.addEventListener("pointerleave", () => {
  hovered = -1;
  tip.hidden = true;
  draw();
});
canvas.addEventListener("wheel", (e) => {
  e.preventDefault();
  const [px, py] = at(e);
  zoom(Math.exp(-e.deltaY / 500), px, py);
}, { passive: false });
canvas.addEventListener("keydown", (e) => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  if (steps[e.key]) step(...steps[e.key]);
  else if (e.key === "+" || e.key === "=") zoom(1.4);
  else if (e.key === "-") zoom(1 / 1.4);
  else if (e.key === "Escape") {
    fit();
    draw();
  } else return;
  e.preventDefault();
});
byId("in").addEventListener("click", () => zoom(1.4));
byId("out").addEventListener("click", () => zoom(1 / 1.4));
byId("fit").addEventListener("click", () => {
  fit();
  draw();
});
byId("colour").addEventListener("change", draw);
byId("sheet").addEventListener("change", (e) => {
  view.sheet = Number(e.target.value);
  shown = onSheet();
  fit();
  draw();
});

// ---- Search

const words = data.tiles.map((tile) => {
  const layer = data.layers[tile.layer];
  return [tile.name, layer.name, ...layer.nodes, place(layer), layer.part].join(" ").toLowerCase();
});

function search() {
  const query = byId("query").value.trim().toLowerCase();
  found = query ? new Set(words.flatMap((text, i) => (text.includes(query) ? [i] : []))) : null;
  const layers = found ? new Set([...found].map((i) => data.tiles[i].layer)) : null;
  byId("hits").textContent = found ? `${found.size} tiles of ${layers.size} layers` : "";
  for (const row of byId("layer-table").tBodies[0].rows) row.hidden = layers !== null && !layers.has(Number(row.dataset.layer));
  const first = found ? Math.min(...found) : -1;
  if (Number.isFinite(first) && first >= 0) choose(first, true);
  draw();
}
byId("query").addEventListener("input", search);
byId("find").addEventListener("submit", (e) => e.preventDefault());

// ---- Layers

const columns = [
  ["tensor", (l) => data.layers[l].name],
  ["layer", (l) => data.layers[l].layer ?? -1],
  ["block", (l) => data.layers[l].part],
  ["rows x columns", (l) => weights(data.layers[l])],
  ["tiles", (l) => tilesOf[l].length],
  ["bits a weight", (l) => (weights(data.layers[l]) ? data.layers[l].bits / weights(data.layers[l]) : -1)],
  ["signal to noise, dB", (l) => layerRatio[l] ?? Infinity],
];
let order = { column: -1, up: true };

function list() {
  const rows = data.layers.map((_, l) => l).filter((l) => tilesOf[l].length > 0);
  if (order.column >= 0) {
    const key = columns[order.column][1], sign = order.up ? 1 : -1;
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      return sign * (x < y ? -1 : x > y ? 1 : 0) || a - b;
    });
  }
  byId("layer-table").tBodies[0].replaceChildren(...rows.map((l) => {
    const layer = data.layers[l];
    const name = make("button", { type: "button", onclick: () => choose(tilesOf[l][0], true) }, layer.name || `matrix ${l}`);
    const cells = [
      layer.layer ?? "", layer.part, layer.shape ? layer.shape.join(" x ") : "", tilesOf[l].length,
      weights(layer) ? number(layer.bits / weights(layer)) : "", layerRatio[l] === undefined ? "" : layerRatio[l].toFixed(2),
    ];
    return make("tr", { "data-layer": l }, make("td", {}, name), ...cells.map((text, i) => make("td", i === 1 ? {} : { class: "n" }, String(text))));
  }));
}
columns.forEach(([name], i) => {
  const sort = make("button", { type: "button", onclick: () => {
    order = { column: i, up: order.column === i ? !order.up : true };
    list();
    search();
  } }, name);
  byId("layer-table").tHead.rows[0].append(make("th", { scope: "col", class: i === 0 || i === 2 ? "" : "n" }, sort));
});

// ---- Charts

// Bars: a label and a value each; the value's text stands in the title that a pointer shows.
function chart(caption, bars, unit, onclick) {
  if (bars.length === 0) return;
  const [w, h, left, low] = [640, 240, 46, 26];
  const values = bars.map((b) => b[1]);
  const top = Math.max(...values, 0), bottom = Math.min(...values, 0);
  const y = (v) => 8 + (h - low - 8) * (1 - (v - bottom) / (top - bottom || 1));
  const width = (w - left - 6) / bars.length;
  const svg = make("svg", { viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": `${caption}: from ${number(Math.min(...values))} to ${number(Math.max(...values))} ${unit}` });
  for (const v of [bottom, (bottom + top) / 2, top]) {
    svg.append(make("line", { class: "axis", x1: left, x2: w, y1: y(v), y2: y(v) }), make("text", { x: left - 4, y: y(v) + 4, "text-anchor": "end" }, Math.abs(v) >= 1e4 ? v.toExponential(0) : String(Number(v.toPrecision(3)))));
  }
  bars.forEach(([label, value], i) => {
    const bar = make("rect", { class: "bar", x: left + i * width, width: Math.max(width - (width > 3 ? 1 : 0), 0.5), y: Math.min(y(value), y(0)), height: Math.max(Math.abs(y(value) - y(0)), 0.5) }, make("title", {}, `${label}: ${number(value)} ${unit}`));
    if (onclick) bar.addEventListener("click", () => onclick(i));
    svg.append(bar);
  });
  // Only labels that have room.
  const every = Math.ceil(bars.length / (w / 70));
  bars.forEach(([label], i) => {
    if (i % every === 0) svg.append(make("text", { x: left + (i + 0.5) * width, y: h - 9, "text-anchor": "middle" }, String(label).slice(0, 14)));
  });
  document.querySelector(".charts").append(make("figure", {}, make("figcaption", {}, caption), svg));
}

const layers = data.layers.map((_, l) => l).filter((l) => data.layers[l].shape && tilesOf[l].length > 0);
const pick = (rows) => (i) => choose(tilesOf[rows[i]][0], true);
const rated = layers.filter((l) => layerRatio[l] !== undefined);
chart("Signal to noise by layer, dB", rated.map((l) => [data.layers[l].name, layerRatio[l]]), "dB", pick(rated));
if (data.tiles.some((tile) => tile.scheme !== "real" && tile.range.length === 4)) {
  chart("Bits a weight by layer, everything counted", layers.map((l) => [data.layers[l].name, data.layers[l].bits / weights(data.layers[l])]), "bits", pick(layers));
}
const terms = data.figures.filter((f) => f.name.trim().startsWith("of it ") && f.unit === "dB");
chart("Noise of the worst tile by cause, in a million parts of the signal", terms.map((f) => [f.name.trim().slice(6), 1e6 * 10 ** (-f.value / 10)]), "ppm");
const times = data.figures.filter((f) => f.name.trim().startsWith("of it ") && f.unit === "s");
chart("Time of writing by cause, s", times.map((f) => [f.name.trim().slice(6), f.value]), "s");
const areas = data.figures.filter((f) => f.unit === "mm2");
chart("Areas, mm2", areas.map((f) => [f.name, f.value]), "mm2");
const bins = data.histograms.weights, half = bins.length / 2;
chart("Weights over the root mean square of their tile", bins.map((n, i) => [((i + 0.5 - half) / 4).toFixed(2), n]), "weights");
for (const [scheme, counts] of Object.entries(data.histograms.levels)) {
  const bars = Object.entries(counts).map(([level, n]) => [Number(level), n]).sort((a, b) => a[0] - b[0]);
  chart(`Integer levels of ${scheme}`, bars, "weights");
}
const voxels = [];
for (const tile of data.tiles) {
  for (const [name, n] of Object.entries(tile.measures)) {
    const level = /^level_(\d+)_voxels$/.exec(name)?.[1];
    if (level !== undefined) voxels[level] = (voxels[level] ?? 0) + n;
  }
}
chart("Voxels by level", Array.from(voxels, (n, i) => [`level ${i}`, n ?? 0]), "voxels");
const ratios = data.tiles.map(ratio).filter((v) => v !== undefined);
if (ratios.length > 0) {
  const low = Math.floor(Math.min(...ratios) * 2) / 2, high = Math.max(...ratios), counts = [];
  const wide = Math.max(0.1, (high - low) / 24);
  for (const v of ratios) {
    const i = Math.min(23, Math.floor((v - low) / wide));
    counts[i] = (counts[i] ?? 0) + 1;
  }
  chart("Tiles by signal to noise, dB", Array.from(counts, (n, i) => [(low + (i + 0.5) * wide).toFixed(1), n ?? 0]), "tiles");
}

// ---- Checks and files

for (const [check, what] of data.checks) {
  byId("check-table").tBodies[0].append(make("tr", {}, make("td", {}, check), make("td", {}, what), make("td", {}, "passed")));
}
for (const pass of data.passes) {
  const did = Object.entries(pass.stats).map(([name, n]) => `${name.replaceAll("_", " ")} ${number(n)}`).join(", ");
  byId("pass-table").tBodies[0].append(make("tr", {}, make("td", {}, pass.name), make("td", {}, pass.exactness), make("td", {}, did)));
}
byId("commands").textContent = data.commands.join("\n");
for (const file of data.files) {
  byId("file-table").tBodies[0].append(make("tr", {}, make("td", {}, file.name), make("td", { class: "n" }, number(file.bytes)), make("td", {}, make("code", {}, file.sha256))));
}

list();
fit();
draw();
new ResizeObserver(() => {
  draw();
}).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
