// node render.mjs RESULTS_DIR OUTPUT_DIR [uid…]: RESULTS_DIR/<uid>.json and dashboards/<uid>.json become OUTPUT_DIR/<uid>.png.
// The page gets its data written into it, so nothing is served and nothing is fetched.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const [results, output, ...chosen] = process.argv.slice(2);
if (!results || !output) {
  console.error("usage: node render.mjs RESULTS_DIR OUTPUT_DIR [uid…]");
  process.exit(2);
}
const dashboards = join(here, "..", "dashboards");
const uids = chosen.length ? chosen : readdirSync(dashboards).map((file) => basename(file, ".json"));
const chromium = process.env.CHROMIUM ?? "chromium";
const scratch = mkdtempSync(join(tmpdir(), "preview-"));
mkdirSync(output, { recursive: true });

// Closing tags and separators must not end the script that carries the data.
const literal = (value) => JSON.stringify(value).replaceAll("<", "\\u003c").replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029");
const page = readFileSync(join(here, "index.html"), "utf8");
const draw = readFileSync(join(here, "draw.js"), "utf8");
try {
  for (const uid of uids) {
    const answers = join(results, `${uid}.json`);
    if (!existsSync(answers)) throw new Error(`${answers} is missing`);
    const dashboard = JSON.parse(readFileSync(join(dashboards, `${uid}.json`), "utf8"));
    const data = `const DASHBOARD=${literal(dashboard)},RESULTS=${literal(JSON.parse(readFileSync(answers, "utf8")))},NAME=${literal(basename(resolve(results)))};`;
    const html = page.replace("/*DATA*/", () => data).replace('<script src="draw.js"></script>', () => `<script>${draw}</script>`);
    const file = join(scratch, `${uid}.html`);
    writeFileSync(file, html);
    const rows = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
    const picture = resolve(output, `${uid}.png`);
    const options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", `--user-data-dir=${scratch}/profile`, `--window-size=1880,${rows * 38 + 52}`];
    execFileSync(chromium, [...options, `--screenshot=${picture}`, `file://${file}`], { stdio: "ignore", timeout: 120_000 });
    if (!existsSync(picture)) throw new Error(`${picture} was not drawn`);
    console.log(picture);
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
