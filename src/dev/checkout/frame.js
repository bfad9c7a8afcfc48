// What stands around every view: links, progress, the order line, the one message, the countdown.

import { byId, h, replace } from "./dom.js";
import { notice } from "./views.js";
import { orderStatus } from "./words.js";

export function link(id, url) {
  if (!/^https?:/.test(url ?? "")) return;
  byId(id).href = url;
  byId(id).hidden = false;
}

export function steps(current) {
  for (const step of document.querySelectorAll("[data-step]")) {
    if (step.dataset.step === current) step.setAttribute("aria-current", "step");
    else step.removeAttribute("aria-current");
  }
}

export function orderLine(order) {
  const line = byId("order-line");
  if (!order) return replace(line, "No order yet");
  line.dataset.status = order.status ?? "";
  const status = order.status ? [" · ", h("strong", {}, orderStatus(order.status))] : [];
  replace(line, "Order ", h("span", { class: "mono" }, order.id), status);
}

// One message at a time: troubles interrupt a screen reader, progress and success wait their turn.
export function say(message) {
  const bad = (message.tone ?? "bad") === "bad";
  replace(byId(bad ? "status" : "alert"));
  replace(byId(bad ? "alert" : "status"), notice(message));
  byId("alert").dataset.reason = message.reason ?? "";
  if (bad) byId("alert").scrollIntoView({ block: "nearest" });
}

// Takes the message away; with a reason, only the message that was said for it.
export function hush(reason) {
  if (reason && byId("alert").dataset.reason !== reason) return;
  replace(byId("status"));
  replace(byId("alert"));
}

export function tick() {
  const countdown = byId("countdown");
  if (!countdown) return;
  const until = Date.parse(countdown.dataset.until);
  const leftMs = Math.max(0, until - Date.now());
  const seconds = Math.ceil(leftMs / 1000);
  countdown.textContent = leftMs > 0 ? `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}` : "ended";
  countdown.classList.toggle("short-left", seconds <= 60);
  const meter = byId("meter");
  const whole = Math.max(1, until - Date.parse(meter.dataset.from));
  meter.style.setProperty("--left", String(Math.min(1, leftMs / whole)));
  if (leftMs === 0) byId("pay").disabled = true;
}
