// The demo checkout's story, top-down: start, shop, order, pay, return, confirm, watch, cancel.

import { createApi, loadConfig, Problem, sleep, Unreachable, untilCertain } from "./api.js";
import { byId, debounceClicks, focusHeading, h, replace } from "./dom.js";
import { hush, link, orderLine, say, steps, tick } from "./frame.js";
import { cancelDecided, cancelKey, forgetOrder, recall, remember, uuid } from "./memory.js";
import { cancelBody, prepareCancelForm } from "./refund.js";
import { cancelQuestion, cart as cartView, left, orderPage, shop } from "./views.js";
import { CHECKING, decline, money, refusal, trouble, windowFailure } from "./words.js";

const STOCK_EVERY_MS = 4_000;
const POLL_MS = [1_500, 2_000, 3_000, 5_000];
const FOLLOW_AGAIN_MS = [1_000, 2_000, 5_000, 10_000];
const SILENCE_MS = 40_000; // The shop says something every 15 seconds.
const ENDED = ["canceled", "expired"];
const PLACE_ATTEMPTS = 4;

let config, api;
let products = [];
let stock = new Map();
let shown = null;
let told = false; // Whether the shop tells us of changes, so that there is no need to ask.
let turn = 0; // Grows with every view; a loop that belongs to an older one stops.

start();

async function start() {
  const back = readReturn(new URL(location.href));
  try {
    config = await loadConfig();
  } catch (error) {
    say({ ...trouble(error), actions: [{ label: "Try again", run: () => location.reload() }] });
    replace(byId("view"));
    return;
  }
  api = createApi(config);
  link("docs-link", config.docsUrl);
  link("ops-link", config.opsUrl);
  setInterval(tick, 500);
  setInterval(() => document.hidden || refreshStock().then(reopenShop).catch(() => {}), STOCK_EVERY_MS);
  window.addEventListener("offline", () => say({ tone: "wait", title: "You are offline", text: "This page goes on by itself when the connection is back.", reason: "reach" }));
  window.addEventListener("online", backOnline);
  window.addEventListener("pageshow", (event) => event.persisted && location.reload());
  await resume(back);
}

function backOnline() {
  hush("reach");
  const { order, confirm, placing } = recall();
  if (order && !confirm) return openOrder();
  if (!order && !placing) return openShop();
}

// The addresses the payment window comes back to. Anybody can open them, so they prove nothing by themselves.
function readReturn(url) {
  const kind = { "/return/success": "success", "/return/fail": "fail" }[url.pathname];
  return kind ? { kind, ...Object.fromEntries(url.searchParams) } : null;
}

async function resume(back) {
  const { order, placing, confirm } = recall();
  if (back) return returned(back);
  if (placing) return sendPlacing();
  if (order && confirm) return confirmPayment();
  if (order) return openOrder();
  return openShop();
}

// ---- shop ----

async function openShop() {
  const mine = ++turn;
  shown = null;
  steps("choose");
  orderLine(null);
  try {
    await refreshStock();
  } catch (error) {
    say({ ...trouble(error), actions: [{ label: "Try again", run: () => { hush(); return openShop(); } }] });
    replace(byId("view"), h("h1", {}, "Choose what you like"), h("p", { class: "soft" }, "The products appear here once the shop can be reached."));
    return;
  }
  if (mine !== turn) return;
  replace(byId("view"), shop(products, recall().cart, { setQuantity }));
  drawCart();
  refreshProducts();
}

// The shop could not be reached when it was to be shown, and now it can.
function reopenShop() {
  const { order, placing } = recall();
  if (order || placing || byId("cart")) return;
  hush();
  return openShop();
}

async function refreshStock() {
  const fresh = await api.products();
  const known = products.map((product) => product.id).join();
  products = fresh;
  const before = stock;
  stock = new Map(fresh.map((product) => [product.id, product.available]));
  if (byId("cart") && fresh.map((product) => product.id).join() !== known && known) return openShop();
  for (const place of document.querySelectorAll("[data-stock]")) {
    const now = stock.get(place.dataset.stock);
    if (now === undefined) continue;
    const then = before.get(place.dataset.stock);
    place.textContent = left(now);
    if (then !== undefined && then !== now) flash(place, now - then);
  }
  refreshProducts();
}

function flash(place, difference) {
  place.classList.remove("up", "down");
  void place.offsetWidth; // Restarts the animation.
  place.classList.add(difference > 0 ? "up" : "down");
}

function refreshProducts() {
  for (const card of document.querySelectorAll("[data-product]")) {
    const available = stock.get(card.dataset.product) ?? 0;
    const quantity = recall().cart[card.dataset.product] ?? 0;
    const input = card.querySelector("input");
    card.classList.toggle("sold-out", available === 0);
    input.max = available;
    input.disabled = available === 0 && quantity === 0;
    card.querySelector(".plus").disabled = quantity >= available;
    card.querySelector(".minus").disabled = quantity === 0;
  }
}

function setQuantity(productId, wanted) {
  const quantity = Math.max(0, Math.min(wanted, stock.get(productId) ?? 0));
  const cart = { ...recall().cart, [productId]: quantity };
  if (quantity === 0) delete cart[productId];
  remember({ cart });
  hush();
  const input = byId(`quantity-${productId}`);
  if (input) input.value = quantity;
  refreshProducts();
  drawCart();
}

function drawCart() {
  if (byId("cart")) replace(byId("cart"), cartView(products, recall().cart, { place: debounceClicks(place) }));
}

const productName = (id) => products.find((product) => product.id === id)?.name ?? "This item";

// ---- place the order ----

// The key is kept with the lines until the answer is certain: a reload or a second click repeats both.
// Another cart is another wish and gets another key.
async function place() {
  const cart = recall().cart;
  const known = new Set(products.map((product) => product.id));
  const wanted = Object.entries(cart).filter(([id]) => known.size === 0 || known.has(id)).map(([productId, quantity]) => ({ productId, quantity }));
  if (JSON.stringify(recall().placing?.lines) !== JSON.stringify(wanted)) remember({ placing: { key: uuid(), lines: wanted } });
  await sendPlacing();
}

async function sendPlacing() {
  const { key, lines } = recall().placing;
  hush();
  say({ tone: "wait", title: "Placing your order…" });
  let answer;
  try {
    answer = await untilCertain(() => api.placeOrder(lines, key), {
      attempts: PLACE_ATTEMPTS,
      onWait: () => say({ tone: "wait", title: "Still placing your order…", text: "The shop is slow to answer. You will not be ordered twice." }),
    });
  } catch (error) {
    return placingFailed(error);
  }
  const { checkoutToken, ...order } = answer.body;
  remember({ placing: null, cart: {}, order: { id: order.id, token: checkoutToken }, confirm: null, cancel: null });
  hush();
  await openOrder();
}

async function placingFailed(error) {
  if (!error.uncertain) remember({ placing: null });
  await openShop();
  const actions = [];
  if (error.uncertain) actions.push({ label: "Try again", id: "retry-place", run: sendPlacing });
  const { productId, available } = error.fields ?? {};
  if (error.code === "insufficient_stock") {
    await refreshStock().catch(() => {});
    if (available > 0) actions.push({ label: `Take ${available} instead`, id: "take-rest", run: () => setQuantity(productId, available) });
    else setQuantity(productId, 0);
  }
  if (shown === null) say({ ...trouble(error, productName), actions });
}

// ---- the order page ----

async function fetchOrder() {
  const { order: mine } = recall();
  const order = await api.order(mine);
  const [payment, timeline] = await Promise.all([
    order.paymentId ? api.payment(order.paymentId, mine).then((answer) => ({ ...answer.body, retryAfterMs: answer.retryAfterMs })) : null,
    api.timeline(mine),
    refreshStock().catch(() => {}),
  ]);
  return { order, payment, timeline, stock, retry: Boolean(recall().confirm) };
}

async function openOrder() {
  const mine = ++turn;
  try {
    show(await fetchOrder());
  } catch (error) {
    if (mine !== turn) return;
    sayOrderTrouble(error);
    if (shown === null) {
      orderLine({ id: recall().order.id });
      replace(byId("view"), h("h1", {}, "Your order"), h("p", { class: "soft" }, "It appears here once the shop answers."));
    }
    if (error.uncertain) watch(mine);
    return;
  }
  watch(mine);
}

function sayOrderTrouble(error) {
  const actions = [401, 403, 404].includes(error.status) ? [{ label: "Start a new order", run: startOver }] : [];
  say({ ...trouble(error, productName), actions });
}

// Draws only what changed: an unchanged answer must not take the cursor out of a form.
function show(data) {
  const before = shown;
  const print = ({ order, payment, timeline, retry }) => JSON.stringify([order, { ...payment, retryAfterMs: null }, timeline.length, retry]);
  shown = data;
  orderLine(data.order);
  steps(data.payment?.approvedAmount > 0 ? "receipt" : "pay");
  if (before && byId("view").dataset.order === data.order.id && print(before) === print(data)) return;
  byId("view").dataset.order = data.order.id;
  replace(byId("view"), orderPage(data, orderActions));
  prepareCancelForm(data.payment);
  tick();
  if (before?.order.status !== data.order.status) focusHeading();
  announce(before, data);
}

const orderActions = {
  pay: debounceClicks(pay),
  retryConfirm: debounceClicks(() => confirmPayment()),
  askCancelOrder: () => {
    replace(byId("cancel-order-slot"), cancelQuestion({ cancelOrder, keepOrder }));
    byId("cancel-order-yes").focus();
  },
  cancelPayment: (form) => cancelPayment(form),
  startOver: debounceClicks(startOver),
};

function keepOrder() {
  const data = shown;
  replace(byId("view"), orderPage(data, orderActions));
  tick();
  byId("cancel-order")?.focus();
}

// What a change of state means for the one message on the page.
function announce(before, { order, payment }) {
  if (order.status === "confirming") {
    if (!byId("status").hasChildNodes() && !byId("alert").hasChildNodes()) say({ ...CHECKING, tone: "wait" });
    return;
  }
  const waited = ["confirming", "awaiting_deposit"].includes(before?.order.status);
  if (waited) hush();
  if (waited && order.status === "paid") sayPaid(order, payment);
  const asked = new Set(before?.payment?.cancellations.filter((c) => c.status === "requested").map((c) => c.id));
  const decided = payment?.cancellations.find((c) => asked.has(c.id) && c.status !== "requested");
  if (decided?.status === "done") sayRefunded(decided);
  if (decided?.status === "refused") say({ title: "The refund was refused", text: refusal(decided.refusal?.class) });
  if (payment?.status === "declined" && order.status === "pending" && before?.payment?.status !== "declined") {
    say(decline(payment.decline?.class));
  }
}

function sayPaid(order, payment) {
  say({ tone: "good", title: `${money(payment?.approvedAmount ?? order.amount, order.currency)} charged once`, text: "Thank you. Your receipt is below." });
}

function sayRefunded({ amount, currency, lines }) {
  say({ tone: "good", title: `${money(amount, currency)} refunded`, text: lines?.length ? "The items are back in stock." : "" });
}

async function startOver() {
  forgetOrder();
  hush();
  delete byId("view").dataset.order;
  await openShop();
  focusHeading();
}

// Waits to be told of changes; a page that nobody looks at holds no connection.
async function follow(mine) {
  for (let failures = 0; mine === turn; ) {
    const stop = new AbortController();
    let heard = Date.now();
    let first = true;
    const check = setInterval(() => (mine !== turn || document.hidden || Date.now() - heard > SILENCE_MS) && stop.abort(), 500);
    const alive = () => { heard = Date.now(); };
    const seen = (order) => {
      if (mine !== turn) return;
      told = true;
      const known = first && shown && order.updatedAt === shown.order.updatedAt && !canChange(shown);
      first = false;
      if (!known) refresh(mine).catch(() => { told = false; });
    };
    try {
      if (!document.hidden) await api.follow(recall().order, { alive, seen, signal: stop.signal });
      failures = 0;
    } catch (error) {
      // Refused for good: asking tells why.
      if (error.status >= 400 && !error.uncertain) return;
      failures += 1;
    } finally {
      clearInterval(check);
      if (mine === turn) told = false;
    }
    if (ENDED.includes(shown?.order.status)) return;
    await sleep(FOLLOW_AGAIN_MS[Math.min(failures, FOLLOW_AGAIN_MS.length - 1)]);
  }
}

// Follows the order while something can still happen by itself: asks now and then whenever nobody tells.
async function watch(mine) {
  told = false;
  follow(mine);
  for (let round = 0; mine === turn; round += 1) {
    const delay = shown?.payment?.retryAfterMs ?? POLL_MS[Math.min(round, POLL_MS.length - 1)];
    await sleep(delay);
    if (mine !== turn) return;
    if (told || document.hidden || (shown && !canChange(shown))) continue;
    try {
      await refresh(mine);
    } catch (error) {
      if (mine !== turn) return;
      if (!error.uncertain) return sayOrderTrouble(error);
      say({ ...trouble(error), tone: "wait", text: "We keep trying. Do not pay again; nothing is charged twice.", reason: "reach" });
    }
  }
}

async function refresh(mine) {
  const data = await fetchOrder();
  if (mine !== turn) return;
  hush("reach");
  show(data);
}

function canChange({ order, payment }) {
  if (["confirming", "awaiting_deposit"].includes(order.status)) return true;
  if (order.status === "pending") return Date.parse(order.holdExpiresAt) <= Date.now();
  return payment?.status === "reversing" || payment?.status === "confirming" || Boolean(payment?.cancellations.some((c) => c.status === "requested"));
}

// ---- pay and return ----

function pay() {
  const { order } = shown;
  remember({ confirm: null });
  const to = new URL(config.windowUrl);
  const values = {
    clientKey: config.clientKey,
    orderId: order.id,
    amount: order.amount,
    currency: order.currency,
    orderName: order.name,
    successUrl: `${location.origin}/return/success`,
    failUrl: `${location.origin}/return/fail`,
  };
  for (const [name, value] of Object.entries(values)) to.searchParams.set(name, value);
  location.assign(to);
}

async function returned(back) {
  history.replaceState(null, "", "/");
  const { order } = recall();
  if (!order) {
    await openShop();
    return say({ title: "This page does not know that order", text: "It was opened in another tab or browser. Nothing was charged here; please go back to the tab where you ordered." });
  }
  if (back.orderId !== undefined ? back.orderId !== order.id : back.kind === "success") {
    await openOrder();
    return say({ title: "The payment belongs to another order", text: "It was not confirmed, so nothing was charged. Please pay again from this page." });
  }
  if (back.kind === "fail") {
    await openOrder();
    if (shown?.order.status === "pending") say({ tone: back.code === "PAY_PROCESS_CANCELED" ? "info" : "bad", ...windowFailure(back.code) });
    return;
  }
  if (!back.paymentKey || !/^\d{1,15}$/.test(back.amount ?? "")) {
    await openOrder();
    return say({ title: "The payment window's answer is incomplete", text: "It was not confirmed, so nothing was charged. Please pay again from this page." });
  }
  // Kept until the outcome is known, so that a reload repeats this very confirm. The API compares the amount.
  remember({ confirm: { paymentKey: back.paymentKey, orderId: back.orderId, amount: Number(back.amount) } });
  await confirmPayment();
}

async function confirmPayment() {
  const mine = ++turn;
  const { order, confirm } = recall();
  steps("pay");
  orderLine({ id: order.id, status: "confirming" });
  hush();
  if (!confirm) return openOrder();
  shown = null;
  replace(byId("view"), h("h1", {}, "Checking your payment"));
  say({ tone: "wait", title: "Confirming your payment…", text: "Please keep this page open." });
  let problem = null;
  try {
    await untilCertain(() => api.confirm(confirm, order), { attempts: Infinity, alive: () => mine === turn, onWait: () => say({ ...CHECKING, tone: "wait" }) });
  } catch (error) {
    problem = error;
  }
  if (mine !== turn) return;
  hush();
  const tryAgain = problem?.code === "provider_unavailable";
  if (!tryAgain) remember({ confirm: null });
  await openOrder();
  if (problem) confirmProblem(problem);
  else if (shown?.order.status === "paid") sayPaid(shown.order, shown.payment);
}

function confirmProblem(problem) {
  const words = trouble(problem, productName);
  const alive = shown?.order.status === "pending";
  if (problem.code === "payment_declined" && !alive) return say({ ...words, text: "Nothing was charged. The hold has ended meanwhile, so please order again." });
  if (problem.code === "payment_in_flight") return say({ ...words, tone: "wait" });
  if (problem.status === 401) return sayOrderTrouble(problem);
  say(words);
}

// ---- cancel ----

async function cancelOrder() {
  const { order } = recall();
  const body = { reason: "Canceled by the buyer before payment" };
  hush();
  try {
    const answer = await untilCertain(() => api.cancelOrder(order, body, cancelKey(order.id, body)), {
      attempts: PLACE_ATTEMPTS,
      onWait: () => say({ tone: "wait", title: "Canceling your order…" }),
    });
    cancelDecided();
    remember({ confirm: null });
    hush();
    if (answer.status === 202) say({ tone: "wait", title: "Your cancel is noted", text: "It is done as soon as the payment's outcome is certain." });
    await openOrder();
  } catch (error) {
    if (!error.uncertain) cancelDecided();
    await openOrder();
    say(trouble(error, productName));
  }
}

async function cancelPayment(form) {
  const { payment } = shown;
  const body = cancelBody(form);
  hush();
  if (!body.reason) return say({ title: "A reason is missing", text: "Please say in a few words why you cancel." });
  if (body.lines?.length === 0) return say({ title: "No item is chosen", text: "Please enter how many of which item to cancel." });
  say({ tone: "wait", title: "Asking for your refund…" });
  try {
    const answer = await untilCertain(() => api.cancelPayment(payment.id, recall().order, body, cancelKey(payment.id, body)), {
      attempts: PLACE_ATTEMPTS,
      onWait: () => say({ tone: "wait", title: "Still asking for your refund…", text: "You will not be refunded twice." }),
    });
    cancelDecided();
    await openOrder();
    if (answer.status === 202) return say({ tone: "wait", title: "Your refund is being checked", text: "Do not ask again. This page updates by itself." });
    sayRefunded(answer.body);
  } catch (error) {
    if (!error.uncertain) cancelDecided();
    if (!(error instanceof Problem || error instanceof Unreachable)) throw error;
    if (error.status === 409) await openOrder();
    say(trouble(error, productName));
  }
}
