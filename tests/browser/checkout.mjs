// A buyer in a real browser: order, give up, a refused card, pay in the mock window, receipt, cancel in part and in full.
//
//   CHECKOUT_URL=http://127.0.0.1:PORT SCREENSHOT_DIR=shots node tests/browser/checkout.mjs
//
// Needs a running development stack, Chromium (CHROMIUM, by default /usr/bin/chromium) and the npm package
// playwright-core, found from the current directory or NODE_PATH. Any failed claim, script error, refused load or
// console error ends it with 1; a failure leaves a screenshot named failure.png.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";

const checkout = process.env.CHECKOUT_URL?.replace(/\/+$/, "");
const shots = process.env.SCREENSHOT_DIR;
if (!checkout || !shots) {
  console.error("CHECKOUT_URL and SCREENSHOT_DIR must be set");
  process.exit(2);
}
const { chromium } = createRequire(path.join(process.cwd(), "here.js"))("playwright-core");

const WAIT_MS = 15_000;
const errors = [];

async function main() {
  await mkdir(shots, { recursive: true });
  const profile = await mkdtemp(path.join(tmpdir(), "checkout-"));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    viewport: { width: 1180, height: 900 },
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  const page = browser.pages()[0] ?? (await browser.newPage());
  page.setDefaultTimeout(WAIT_MS);
  page.on("pageerror", (error) => errors.push(`script error: ${error.message}`));
  page.on("console", noteError);
  try {
    await buy(page);
    assert.deepEqual(errors, [], "the browser reported errors");
    console.log("ok: order, give up, refused card, pay, receipt, partial cancel, full cancel");
  } catch (failure) {
    await page.screenshot({ path: path.join(shots, "failure.png"), fullPage: true }).catch(() => {});
    throw failure;
  } finally {
    await browser.close();
    await rm(profile, { recursive: true, force: true });
  }
}

// The window is not our page: browsers ask it for an icon that it need not have. Queries stay out of what is printed,
// they may carry a payment key.
function noteError(message) {
  if (message.type() !== "error") return;
  const { origin, pathname } = new URL(message.location().url || checkout);
  if (origin !== new URL(checkout).origin && pathname === "/favicon.ico") return;
  errors.push(`console: ${message.text()} (${origin}${pathname})`);
}

async function buy(page) {
  const shot = (name) => page.screenshot({ path: path.join(shots, `${name}.png`), fullPage: true });
  const text = (selector) => page.locator(selector).innerText();
  const says = (selector, words) => page.locator(selector).filter({ hasText: words }).first().waitFor();
  const won = (shown) => Number(shown.replaceAll(/[^\d]/g, ""));

  await page.goto(`${checkout}/`);
  await page.locator("[data-product]:not(.sold-out)").first().waitFor();
  const product = await page.locator("[data-product]:not(.sold-out)").first().getAttribute("data-product");
  const card = page.locator(`[data-product="${product}"]`);
  const stock = async () => won(await text(`[data-stock="${product}"]`));
  // What a page is shown of the catalogue may be a second old, and this one asks every four.
  const stockBecomes = async (units, why) => {
    const end = Date.now() + WAIT_MS;
    while ((await stock()) !== units && Date.now() < end) await page.waitForTimeout(100);
    assert.equal(await stock(), units, why);
  };
  const before = await stock();
  assert.ok(before >= 2, `the first product needs two units in stock, it has ${before}`);
  const price = won(await text(`[data-product="${product}"] .price`));
  assert.match(await text("#order-line"), /No order yet/);
  await card.locator(".plus").click();
  await card.locator(".plus").click();
  await says("#cart", "2 items");
  await shot("1-shop");

  // Two clicks at once are one order: the same key is sent, and the button is held.
  await page.locator("#place-order").dblclick();
  await says("#order-line", "Waiting for payment");
  assert.match(await text("#order-line"), /Order ord_\S+ · Waiting for payment/);
  const orderLine = await text("#order-line");
  assert.equal(won(await text("#order-total")), 2 * price);
  assert.match(await text("#countdown"), /^\d+:\d\d$/);
  await stockBecomes(before - 2, "two units are held, once");
  await shot("2-order");

  await page.reload();
  await says("#order-line", "Waiting for payment");
  assert.equal(await text("#order-line"), orderLine, "a reload keeps the order");

  await page.locator("#pay").click();
  await page.locator("#give-up").click();
  await says("#status", "You closed the payment window");
  assert.equal(page.url(), `${checkout}/`);

  await page.locator("#pay").click();
  await page.locator("#decline").click();
  await says("#alert", "Your card company said no");
  assert.equal(await text("#order-line"), orderLine, "the hold outlives a refused card");

  await page.locator("#pay").click();
  await page.locator("#approve").waitFor();
  await shot("3-window");
  await page.locator("#approve").click();
  await says("h1", "Thank you, it is paid");
  assert.equal(page.url(), `${checkout}/`, "the payment key left the address");
  assert.equal(won(await text("#charged")), 2 * price);
  await says("#status", "charged once");
  await says("#timeline", "Order placed, stock held");
  await says("#timeline", "Payment approved, money taken");
  await shot("4-receipt");

  await page.locator("#cancel-lines").check();
  await page.locator('[data-line="1"]').fill("1");
  await page.locator("#cancel-reason").fill("One is enough");
  await page.locator("#cancel-submit").click();
  await says("#order-line", "Partly canceled");
  await says("#status", "refunded");
  assert.equal(won(await text("#refunded")), price);
  assert.equal(won(await text("#balance")), price);
  await stockBecomes(before - 1, "one unit came back");
  await shot("5-partial-cancel");

  await page.locator("#cancel-reason").fill("Changed my mind");
  await page.locator("#cancel-submit").click();
  await says("#receipt", "Refunded in full");
  assert.match(await text("#order-line"), /· Canceled$/);
  assert.equal(won(await text("#refunded")), 2 * price);
  assert.equal(won(await text("#balance")), 0);
  await stockBecomes(before, "all stock came back");
  assert.equal(await page.locator("#cancellations > li").count(), 2);
  assert.equal(await page.locator("#cancel-form").count(), 0, "nothing is left to cancel");
  await shot("6-canceled");

  await page.locator("#new-order").click();
  await says("#order-line", "No order yet");
}

await main().catch((failure) => {
  console.error(failure);
  for (const error of errors) console.error(error);
  process.exit(1);
});
