// node sample.mjs DIR: answers that are made up, one file per dashboard, to work on the drawing. None of it is measured.
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const [directory] = process.argv.slice(2);
if (!directory) {
  console.error("usage: node sample.mjs DIR");
  process.exit(2);
}
const dashboards = join(dirname(fileURLToPath(import.meta.url)), "..", "dashboards");
const step = 10, to = 1_780_000_000, from = to - 1800;
const times = Array.from({ length: (to - from) / step + 1 }, (_, at) => from + at * step);

// The same numbers each time.
let seed = 7;
const random = () => ((seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648), seed / 2_147_483_648);
const VALUES = {
  outcome: ["success", "declined", "pg_error", "unknown"], provider: ["toss"], method: ["card", "easy_pay", "none"], step: ["pg_call", "lock_wait", "statements", "tx_commit", "pool_wait"],
  operation: ["confirm", "cancel", "inquire"], slo: ["confirm", "confirm_latency", "cancel", "doubt", "webhook"], kind: ["confirm", "cancel"], currency: ["KRW"], task: ["recovery", "webhooks", "expiry", "audit", "overview"],
  stage: ["order_created", "confirm_requested", "paid", "expired"], instance: ["api-1:9464", "worker-1:9464"], reason: ["drift", "failing", "old_doubt"], state: ["idle", "used"], tx: ["confirm_intend", "confirm_resolve", "order_place"],
};
const BOUNDS = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "7.5", "10", "+Inf"];

function labels(expr) {
  const by = [...expr.matchAll(/by \(([^)]*)\)/g)].map((match) => match[1]).find(Boolean) ?? (/\{\{instance|instance/.test(expr) ? "" : "");
  let rows = [{}];
  for (const label of by.split(",").map((name) => name.trim()).filter((name) => name && name !== "le")) {
    rows = rows.flatMap((row) => (VALUES[label] ?? ["one", "two"]).map((value) => ({ ...row, [label]: value }))).slice(0, 8);
  }
  return rows;
}
function level(panel, expr) {
  const unit = panel.fieldConfig.defaults.unit;
  if (expr.includes("verdict)")) return 1;
  if (unit === "percentunit") return /^1 -|budget_remaining|approval|objective/.test(expr) ? 0.97 : 0.004;
  if (unit === "s") return /time\(\)/.test(expr) ? 8 : Number(expr.match(/histogram_quantile\((0\.\d+)/)?.[1] ?? 0.4) ** 4 * 0.9;
  if (unit === "locale") return 250_000;
  if (unit === "bytes") return 9e7;
  return 4;
}
function answer(panel, target) {
  if (target.datasource.type === "grafana-postgresql-datasource") {
    const list = target.rawSql.match(/select (.*?) from/)?.[1] ?? "n";
    const columns = list.replace(/\([^()]*\)/g, "").split(",").map((column) => column.trim().split(/ as | /).pop().replace(/^\w\./, ""));
    const cell = (column, at) => /^(at|created_at|last|first|since|received_at|first_seen_at|last_seen_at|next_at|processed_at)$/.test(column) ? new Date((to - at * 97) * 1000).toISOString() : /amount|count|payments|customers|orders|units|seconds|half|most|inquiries|attempt|tries|available/.test(column) ? Math.round(random() * 900) : /_id$/.test(column) ? `${column.slice(0, 3)}_0198c0de00007000800000000000${1000 + at}` : column === "trace_id" ? "4bf92f3577b34da6a3ce929d0e0e4736" : column === "customer" ? "9f2c41aa07be" : VALUES[column]?.[at % VALUES[column].length] ?? column;
    return { resultType: "table", columns, rows: Array.from({ length: panel.type === "stat" ? 1 : 6 }, (_, at) => columns.map((column) => cell(column, at))) };
  }
  if (target.datasource.type !== "prometheus") return { resultType: "none" };
  const metrics = labels(target.expr);
  const height = level(panel, target.expr);
  if (panel.type === "heatmap") {
    const counts = times.map(() => BOUNDS.map((_, at) => (at > 1 && at < 9 ? random() * Math.exp(-((at - 5) ** 2) / 3) * 20 : 0)));
    const result = BOUNDS.map((le, at) => ({ metric: { le }, values: times.map((time, index) => [time, String(counts[index].slice(0, at + 1).reduce((sum, one) => sum + one, 0))]) }));
    const dots = Array.from({ length: 14 }, () => ({ timestamp: from + random() * 1800, value: String(0.02 + random() ** 3 * 3), labels: { trace_id: "4bf92f3577b34da6a3ce929d0e0e4736" } }));
    return { resultType: "matrix", result, exemplars: dots };
  }
  const wave = (at, phase) => height * (0.75 + 0.2 * Math.sin(at / 23 + phase) + 0.15 * random()) * (panel.type === "state-timeline" && at > 120 && at < 150 ? 30 : 1);
  if (target.instant) return { resultType: "vector", result: metrics.map((metric, phase) => ({ metric, value: [to, String(height === 1 ? 1 : wave(3, phase))] })) };
  const result = metrics.map((metric, phase) => ({ metric, values: times.map((time, at) => [time, String(wave(at, phase) / (phase + 1))]).filter((_, at) => at < 60 || at > 66 || phase) }));
  const dots = target.exemplar && panel.targets.indexOf(target) === 0 ? Array.from({ length: 9 }, () => ({ timestamp: from + random() * 1800, value: String(random() ** 2), labels: {} })) : [];
  return { resultType: "matrix", result, exemplars: dots };
}

mkdirSync(directory, { recursive: true });
for (const file of readdirSync(dashboards)) {
  const dashboard = JSON.parse(readFileSync(join(dashboards, file), "utf8"));
  const panels = {};
  for (const panel of dashboard.panels.filter(({ type }) => type !== "row")) {
    panels[panel.id] = Object.fromEntries((panel.targets ?? []).map((target) => [target.refId, answer(panel, target)]));
  }
  writeFileSync(join(directory, file), JSON.stringify({ from, to, step, panels }));
}
