// Draws one dashboard from its JSON and from answers of Prometheus: enough to see whether a panel says what it should.
// `DASHBOARD`, `RESULTS` and `NAME` are put into the page by render.mjs.
"use strict";

const CELL = { w: 1864 / 24, h: 38 };
const PALETTE = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#70dbed", "#ff780a", "#8ab8ff", "#c4162a", "#37872d", "#fade2a", "#a352cc", "#e0b400", "#96d98d", "#ffa6b0"];
const COLOURS = { red: "#e02f44", orange: "#ff9830", green: "#37872d", text: "#ccccdc", blue: "#3274d9", yellow: "#f2cc0c", purple: "#a352cc" };
const QUIET = "#3a3d44";
const colour = (name) => COLOURS[name] || name || QUIET;
const escape = (text) => String(text ?? "").replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const number = (text) => (text === null || text === undefined || text === "" ? NaN : Number(text));

// ---- values as words

const digits = (value, most) => String(Number(value.toFixed(most)));
function seconds(value) {
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 1e-3) return `${digits(value * 1e6, 0)} µs`;
  if (size < 1) return `${digits(value * 1e3, size < 0.01 ? 2 : 0)} ms`;
  if (size < 120) return `${digits(value, size < 10 ? 2 : 0)} s`;
  if (size < 7200) return `${digits(value / 60, 1)} min`;
  if (size < 172800) return `${digits(value / 3600, 1)} h`;
  return `${digits(value / 86400, 1)} d`;
}
function short(value, steps = ["", " K", " M", " B"], by = 1000) {
  let at = 0;
  while (Math.abs(value) >= by && at < steps.length - 1) (value /= by), at++;
  return digits(value, Math.abs(value) < 0.1 ? 4 : Math.abs(value) < 10 ? 2 : 1) + steps[at];
}
function words(value, unit, decimals) {
  if (!Number.isFinite(value)) return null;
  if (unit === "string") return String(value);
  if (unit === "s") return seconds(value);
  if (unit === "percentunit") return `${digits(value * 100, decimals ?? (Math.abs(value) < 0.1 ? 2 : 1))} %`;
  if (unit === "percent") return `${digits(value, 1)} %`;
  if (unit === "locale") return value.toLocaleString("en", { maximumFractionDigits: decimals ?? 0 });
  if (unit === "bytes") return short(value, [" B", " KiB", " MiB", " GiB"], 1024);
  if (unit === "d") return `${digits(value, 1)} d`;
  const suffix = { reqps: " req/s", ops: " ops/s", rowsps: " rows/s" }[unit] || "";
  return (decimals === undefined ? short(value) : digits(value, decimals)) + suffix;
}

// ---- what a panel has to draw

const defaults = (panel) => panel.fieldConfig.defaults;
function judged(panel, value) {
  if (!Number.isFinite(value)) return "#8e8e8e";
  const mapped = (defaults(panel).mappings || []).find((mapping) => mapping.type === "value")?.options[String(value)];
  if (mapped) return colour(mapped.color);
  let found = QUIET;
  for (const step of defaults(panel).thresholds.steps) if (step.value === null || value >= step.value) found = colour(step.color);
  return found;
}
function told(panel, value) {
  const mapped = (defaults(panel).mappings || []).find((mapping) => mapping.type === "value")?.options[String(value)];
  return mapped?.text ?? words(value, defaults(panel).unit, defaults(panel).decimals) ?? defaults(panel).noValue;
}
function named(legend, metric) {
  const filled = (legend || "").replace(/\{\{(\w+)\}\}/g, (_, label) => metric[label] ?? "");
  if (filled.trim()) return filled.trim();
  const labels = Object.entries(metric).filter(([label]) => label !== "__name__");
  return labels.map(([, value]) => value).join(" ");
}
const answers = (panel) => (panel.targets || []).map((target) => [target, RESULTS.panels?.[panel.id]?.[target.refId]]);
function series(panel) {
  const found = [];
  for (const [target, data] of answers(panel)) {
    if (!data || !Array.isArray(data.result)) continue;
    if (data.resultType === "scalar") found.push({ name: "", metric: {}, points: [[data.result[0], number(data.result[1])]] });
    else for (const one of data.result) {
      const points = (one.values || (one.value ? [one.value] : [])).map(([at, value]) => [Number(at), number(value)]);
      found.push({ name: named(target.legendFormat, one.metric || {}), metric: one.metric || {}, points, exemplars: one.exemplars || [], refId: target.refId });
    }
  }
  return found;
}
// Beside `result`, an answer may carry what query_exemplars says: its series, or the dots alone.
// As Grafana does, only dots that stand apart are drawn: within a step the highest, and those two deviations below the last.
function exemplars(panel) {
  const dots = answers(panel).flatMap(([, data]) => data?.exemplars || []).flatMap((one) => one.exemplars || [one])
    .filter((dot) => number(dot.timestamp) >= RESULTS.from && number(dot.timestamp) <= RESULTS.to);
  if (!dots.length) return dots;
  const values = dots.map((dot) => number(dot.value));
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const apart = 2 * Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
  const steps = new Map();
  for (const dot of dots) {
    const step = Math.floor(number(dot.timestamp) / RESULTS.step);
    steps.set(step, [...(steps.get(step) || []), dot]);
  }
  return [...steps.values()].flatMap((those) => those.sort((a, b) => number(b.value) - number(a.value)).reduce(
    (kept, dot) => (!kept.length || number(kept[kept.length - 1].value) - number(dot.value) >= apart ? [...kept, dot] : kept), []));
}
const last = (points) => (points.length ? points[points.length - 1][1] : NaN);

// ---- drawing

const none = (panel) => `<div class="none">${escape(defaults(panel).noValue || "no data")}</div>`;

function stat(panel) {
  let tiles = [];
  for (const [, data] of answers(panel)) if (data?.resultType === "table" && data.rows.length) {
    data.columns.forEach((column, at) => tiles.push([data.columns.length > 1 ? column : "", number(data.rows[0][at])]));
  }
  for (const one of series(panel)) tiles.push([one.name, last(one.points)]);
  if (!tiles.length) return none(panel);
  const { w, h } = panel.gridPos;
  const wide = w * CELL.w, high = h * CELL.h - 24;
  const across = Math.min(tiles.length, Math.max(1, Math.round(Math.sqrt((tiles.length * wide) / high / 2.2))));
  const rows = Math.ceil(tiles.length / across);
  const size = Math.max(12, Math.min(44, wide / across / 7, (high / rows) * 0.42));
  const html = tiles.map(([name, value]) => `<div class="tile" style="background:${judged(panel, value)}"><b style="font-size:${size}px">${escape(told(panel, value))}</b>${name ? `<small>${escape(name)}</small>` : ""}</div>`);
  return `<div class="tiles" style="grid-template-columns:repeat(${across},1fr);grid-auto-rows:1fr">${html.join("")}</div>`;
}

function bars(panel) {
  const all = series(panel).filter((one) => Number.isFinite(last(one.points))).sort((a, b) => last(b.points) - last(a.points));
  if (!all.length) return none(panel);
  const most = defaults(panel).max ?? Math.max(...all.map((one) => last(one.points)), 1e-12);
  return all.map((one) => {
    const value = last(one.points);
    return `<div class="bar"><span>${escape(one.name)}</span><div><i style="width:${Math.max(0.5, Math.min(100, (100 * value) / most))}%;background:${judged(panel, value)}"></i></div><em>${escape(told(panel, value))}</em></div>`;
  }).join("");
}

function table(panel) {
  const hidden = new Set();
  for (const step of panel.transformations || []) for (const name of Object.keys(step.options.excludeByName || {})) hidden.add(name);
  const looks = Object.fromEntries(panel.fieldConfig.overrides.map((one) => [one.matcher.options, Object.fromEntries(one.properties.map((property) => [property.id, property.value]))]));
  let columns = [], rows = [];
  const merged = new Map();
  const many = (panel.targets || []).length > 1;
  for (const [target, data] of answers(panel)) {
    if (!data) continue;
    if (data.resultType === "table") (columns = data.columns.slice()), (rows = data.rows);
    else for (const one of series(panel).filter((one) => one.refId === target.refId)) {
      const key = JSON.stringify(one.metric);
      const row = merged.get(key) || { ...one.metric };
      delete row.__name__;
      row[many ? `Value #${target.refId}` : "Value"] = last(one.points);
      merged.set(key, row);
    }
  }
  if (merged.size) {
    columns = [...new Set([...merged.values()].flatMap((row) => Object.keys(row)))].sort((a, b) => a.startsWith("Value") - b.startsWith("Value"));
    rows = [...merged.values()].map((row) => columns.map((column) => row[column]));
  }
  const shown = columns.map((column, at) => [column, at]).filter(([column]) => !hidden.has(column));
  if (!rows.length) return none(panel);
  const isNumber = (value) => typeof value === "number" || (typeof value === "string" && value.trim() !== "" && Number.isFinite(Number(value)) && /^[-\d.]+$/.test(value));
  const numeric = Object.fromEntries(shown.map(([column, at]) => [column, rows.every((row) => row[at] === null || row[at] === undefined || isNumber(row[at]))]));
  const head = shown.map(([column]) => `<th class="${numeric[column] ? "n" : ""}">${escape(looks[column]?.displayName || column)}</th>`).join("");
  const most = Math.floor((panel.gridPos.h * CELL.h - 52) / 24);
  const body = rows.slice(0, most).map((row) => `<tr>${shown.map(([column, at]) => {
    const value = row[at];
    if (numeric[column] && value !== null && value !== undefined) return `<td class="n">${escape(words(Number(value), looks[column]?.unit || defaults(panel).unit, looks[column]?.decimals))}</td>`;
    return `<td>${escape(String(value ?? "").replace(/^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d).*/, "$1 $2"))}</td>`;
  }).join("")}</tr>`).join("");
  return `<div class="scroll"><table><tr>${head}</tr>${body}</table></div>`;
}

function frame(panel, room) {
  const width = panel.gridPos.w * CELL.w - 10, height = panel.gridPos.h * CELL.h - 38;
  return { width, height, left: room.left, right: width - 10, top: 6, bottom: height - room.below };
}
const clock = (at) => new Date(at * 1000).toISOString().slice(11, 19);
function timeAxis(box, x) {
  let svg = "";
  const count = Math.max(2, Math.floor((box.right - box.left) / 110));
  for (let at = 0; at <= count; at++) {
    const time = RESULTS.from + ((RESULTS.to - RESULTS.from) * at) / count;
    svg += `<text x="${x(time)}" y="${box.bottom + 14}" text-anchor="${at === 0 ? "start" : at === count ? "end" : "middle"}">${clock(time)}</text>`;
  }
  return svg;
}
// Who moves comes first; of those that stay at zero, as many as there is room for.
function legend(panel, items) {
  const moves = items.filter(([, , any]) => any), rests = items.filter(([, , any]) => !any);
  const room = (panel.gridPos.w * CELL.w - 26) * 2;
  let taken = 0;
  const shown = [...moves, ...rests].filter(([name], at, all) => {
    taken += 32 + name.length * 6.2;
    return taken < room - (at < all.length - 1 ? 80 : 0);
  });
  const more = items.length - shown.length;
  const html = shown.map(([name, tint, any]) => `<span${any ? "" : ' class="rests"'}><i style="background:${tint}"></i>${escape(name)}</span>`);
  return `<div class="legend">${html.join("")}${more ? `<span class="rests">and ${more} more${shown.length >= moves.length ? " at 0" : ""}</span>` : ""}</div>`;
}
const spread = (box) => (time) => box.left + ((time - RESULTS.from) / Math.max(1e-9, RESULTS.to - RESULTS.from)) * (box.right - box.left);

function nice(least, most, unit) {
  const wide = most - least;
  const step = unit === "bytes" ? 2 ** Math.floor(Math.log2(wide / 4 || 1)) : 10 ** Math.floor(Math.log10(wide / 4 || 1));
  const clocks = [30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400].find((one) => wide / one <= 5);
  const by = unit === "s" && wide > 120 && clocks ? clocks : [1, 2, 2.5, 5, 10].find((one) => wide / (one * step) <= 5) * step;
  const from = Math.ceil(least / by - 1e-9);
  return Array.from({ length: Math.floor(most / by + 1e-9) - from + 1 }, (_, at) => (from + at) * by);
}

function lines(panel) {
  const all = series(panel).filter((one) => one.points.some(([, value]) => Number.isFinite(value)));
  if (!all.length) return none(panel);
  const stacked = defaults(panel).custom.stacking.mode === "normal";
  const box = frame(panel, { left: 62, below: 54 });
  const x = spread(box);
  const sums = new Map();
  for (const one of all) {
    one.drawn = one.points.map(([at, value]) => {
      if (!stacked || !Number.isFinite(value)) return [at, value, 0];
      const under = sums.get(at) || 0;
      sums.set(at, under + value);
      return [at, under + value, under];
    });
  }
  const dots = exemplars(panel);
  const finite = all.flatMap((one) => one.drawn.map(([, value]) => value)).filter(Number.isFinite);
  let most = Math.max(...finite, ...dots.map((dot) => number(dot.value)), 0);
  const least = Math.min(...finite, 0);
  for (const step of defaults(panel).thresholds.steps) if (step.value !== null && step.value <= most * 2) most = Math.max(most, step.value);
  most = defaults(panel).max ?? (most > least ? most + (most - least) * 0.05 : 1);
  const y = (value) => box.bottom - ((value - least) / (most - least)) * (box.bottom - box.top);
  let svg = timeAxis(box, x);
  for (const mark of nice(least, most, defaults(panel).unit)) svg += `<line x1="${box.left}" x2="${box.right}" y1="${y(mark)}" y2="${y(mark)}" stroke="#26292f"/><text x="${box.left - 6}" y="${y(mark) + 3}" text-anchor="end">${escape(words(mark, defaults(panel).unit))}</text>`;
  const gap = Math.max(RESULTS.step * 2.5, 1);
  all.forEach((one, at) => {
    const tint = PALETTE[at % PALETTE.length];
    let pieces = [], piece = [];
    one.drawn.forEach((point, index) => {
      const before = one.drawn[index - 1];
      if (piece.length && (!Number.isFinite(point[1]) || (before && point[0] - before[0] > gap))) pieces.push(piece), (piece = []);
      if (Number.isFinite(point[1])) piece.push(point);
    });
    if (piece.length) pieces.push(piece);
    for (const part of pieces) {
      const path = part.map(([time, value]) => `${x(time).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
      if (stacked) {
        const back = part.slice().reverse().map(([time, , under]) => `${x(time).toFixed(1)},${y(under).toFixed(1)}`).join(" ");
        svg += `<polygon points="${path} ${back}" fill="${tint}" fill-opacity=".55"/>`;
      }
      svg += part.length > 1 ? `<polyline points="${path}" fill="none" stroke="${tint}" stroke-width="1.4"/>` : `<circle cx="${x(part[0][0])}" cy="${y(part[0][1])}" r="2" fill="${tint}"/>`;
    }
  });
  if (defaults(panel).custom.thresholdsStyle?.mode !== "off") for (const step of defaults(panel).thresholds.steps) {
    if (step.value !== null && step.value <= most && step.value >= least) svg += `<line x1="${box.left}" x2="${box.right}" y1="${y(step.value)}" y2="${y(step.value)}" stroke="${colour(step.color)}" stroke-dasharray="5 4"/>`;
  }
  for (const dot of dots) svg += diamond(x(number(dot.timestamp)), y(number(dot.value)));
  return `<svg width="${box.width}" height="${box.height}">${svg}</svg>${legend(panel, all.map((one, at) => [one.name, PALETTE[at % PALETTE.length], one.points.some(([, value]) => value)]))}`;
}
const diamond = (x, y) => `<path d="M${x} ${y - 4}L${x + 4} ${y}L${x} ${y + 4}L${x - 4} ${y}Z" fill="#ff00ffb0" stroke="#fff" stroke-width=".6"/>`;

function heatmap(panel) {
  const byBound = series(panel).map((one) => [one.metric.le === "+Inf" ? Infinity : Number(one.metric.le), one]).sort((a, b) => a[0] - b[0]);
  if (!byBound.length) return none(panel);
  const cells = [];
  let below = new Map();
  for (const [bound, one] of byBound) {
    const now = new Map(one.points);
    cells.push([bound, [...now].map(([at, value]) => [at, Math.max(0, value - (below.get(at) || 0))])]);
    below = now;
  }
  const filled = cells.map(([, values], at) => [at, values.some(([, value]) => value > 1e-9)]).filter(([, any]) => any).map(([at]) => at);
  if (!filled.length) return none(panel);
  const shown = cells.slice(Math.max(0, filled[0] - 1), filled[filled.length - 1] + 2);
  const box = frame(panel, { left: 62, below: 22 });
  const x = spread(box), high = (box.bottom - box.top) / shown.length;
  const most = Math.max(...shown.flatMap(([, values]) => values.map(([, value]) => value)), 1e-9);
  const wide = Math.max(1.5, x(RESULTS.from + RESULTS.step) - x(RESULTS.from) - 0.6);
  const lower = (at) => (at === 0 ? 0 : shown[at - 1][0]);
  let svg = timeAxis(box, x);
  shown.forEach(([bound, values], at) => {
    const top = box.bottom - (at + 1) * high;
    if (at % Math.ceil(shown.length / 12) === 0) svg += `<text x="${box.left - 6}" y="${top + 4}" text-anchor="end">${bound === Infinity ? "more" : escape(words(bound, defaults(panel).unit))}</text>`;
    for (const [time, value] of values) if (value > 1e-9) {
      const share = Math.sqrt(value / most);
      svg += `<rect x="${x(time).toFixed(1)}" y="${(top + 0.5).toFixed(1)}" width="${wide.toFixed(1)}" height="${Math.max(1, high - 1).toFixed(1)}" fill="rgb(${Math.round(90 + 165 * share)},${Math.round(50 + 120 * share)},${Math.round(20 + 60 * share)})" fill-opacity="${0.35 + 0.65 * share}"/>`;
    }
  });
  for (const dot of exemplars(panel)) {
    const value = number(dot.value), at = shown.findIndex(([bound]) => value <= bound);
    if (at < 0) continue;
    const end = Number.isFinite(shown[at][0]) ? shown[at][0] : Math.max(value, lower(at)) * 1.01;
    const within = (value - lower(at)) / Math.max(1e-12, end - lower(at));
    svg += diamond(x(number(dot.timestamp)), box.bottom - (at + Math.min(1, Math.max(0, within))) * high);
  }
  return `<svg width="${box.width}" height="${box.height}">${svg}</svg>`;
}

function states(panel) {
  const all = series(panel).filter((one) => one.points.some(([, value]) => Number.isFinite(value)));
  if (!all.length) return none(panel);
  const longest = Math.max(...all.map((one) => one.name.length));
  const box = frame(panel, { left: Math.min(200, 16 + longest * 6), below: 22 });
  const x = spread(box), high = Math.min(34, (box.bottom - box.top) / all.length);
  let svg = timeAxis(box, x);
  all.forEach((one, at) => {
    const top = box.top + at * high;
    svg += `<text x="${box.left - 6}" y="${top + high / 2 + 3}" text-anchor="end">${escape(one.name)}</text>`;
    for (const [time, value] of one.points) if (Number.isFinite(value)) {
      const left = x(time), right = Math.min(box.right, x(time + RESULTS.step) + 0.6);
      if (right > left) svg += `<rect x="${left.toFixed(1)}" y="${top + 2}" width="${(right - left).toFixed(1)}" height="${high - 4}" fill="${judged(panel, value)}"/>`;
    }
  });
  return `<svg width="${box.width}" height="${box.height}">${svg}</svg>`;
}

function text(panel) {
  const html = escape(panel.options.content).replace(/\*\*(.+?)\*\*/g, "<b>$1</b>").replace(/\*(.+?)\*/g, "<i>$1</i>").replace(/`(.+?)`/g, "<code>$1</code>").replace(/\n\n/g, "<p>");
  return `<div class="text">${html}</div>`;
}
const elsewhere = () => `<div class="none">from Loki, not in a preview</div>`;

const DRAW = { stat, bargauge: bars, table, timeseries: lines, heatmap, "state-timeline": states, text, logs: elsewhere };

let height = 0;
const grid = document.getElementById("grid");
for (const panel of DASHBOARD.panels) {
  const { x, y, w, h } = panel.gridPos;
  height = Math.max(height, (y + h) * CELL.h);
  if (panel.type === "row") {
    grid.insertAdjacentHTML("beforeend", `<div class="row" style="top:${y * CELL.h}px">${escape(panel.title)}</div>`);
    continue;
  }
  const fromTempo = panel.targets?.[0]?.datasource.type === "tempo";
  let body;
  try {
    body = fromTempo ? `<div class="none">from Tempo, not in a preview</div>` : DRAW[panel.type](panel);
  } catch (error) {
    body = `<div class="none">cannot be drawn: ${escape(error.message)}</div>`;
  }
  const style = `left:${x * CELL.w + 3}px;top:${y * CELL.h + 3}px;width:${w * CELL.w - 6}px;height:${h * CELL.h - 6}px`;
  grid.insertAdjacentHTML("beforeend", `<section class="panel" style="${style}"><h2>${escape(panel.title)}</h2><div class="body">${body}</div></section>`);
}
// A table that is too wide gives up the ends of its longest words.
for (const scroll of document.querySelectorAll(".scroll")) {
  for (let most = 240; most >= 60 && scroll.scrollWidth > scroll.clientWidth; most -= 10) {
    for (const cell of scroll.querySelectorAll("td, th")) cell.style.maxWidth = `${most}px`;
  }
}
grid.style.height = `${height + 8}px`;
const when = (at) => new Date(at * 1000).toISOString().slice(0, 19).replace("T", " ");
document.querySelector("header").innerHTML = `<b>${escape(DASHBOARD.title)}</b><i>preview, not Grafana</i><span>${when(RESULTS.from)} – ${when(RESULTS.to)} UTC</span><span>${escape(NAME)}</span><span>${escape(DASHBOARD.description)}</span>`;
document.title = `${DASHBOARD.title}: preview, not Grafana`;
