// The cancel form: shows what the chosen part comes to, and turns the form into a request.

import { byId } from "./dom.js";
import { money } from "./words.js";

export function prepareCancelForm(payment) {
  const form = byId("cancel-form");
  if (!form) return;
  const update = () => {
    const what = form.elements.what.value;
    for (const part of form.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== what;
    form.elements.amount.required = what === "amount";
    form.elements.amount.disabled = what !== "amount";
    for (const input of form.querySelectorAll("[data-line]")) input.disabled = what !== "lines";
    const { balance, currency } = payment;
    const lines = chosenLines(form).reduce((sum, line) => sum + line.quantity * line.price, 0);
    const sum = { all: balance, lines, amount: Number(form.elements.amount.value) || 0 }[what];
    byId("cancel-submit").textContent = sum > 0 ? `Refund ${money(sum, currency)}` : "Refund";
  };
  form.addEventListener("input", update);
  update();
}

const chosenLines = (form) =>
  Array.from(form.querySelectorAll("[data-line]"), (input) => ({ line: Number(input.dataset.line), quantity: Math.trunc(Number(input.value)) || 0, price: Number(input.dataset.price) })).filter(({ quantity }) => quantity > 0);

export function cancelBody(form) {
  const fields = form.elements;
  const body = { reason: fields.reason.value.trim() };
  if (fields.what.value === "lines") body.lines = chosenLines(form).map(({ line, quantity }) => ({ line, quantity }));
  if (fields.what.value === "amount") body.amount = Math.trunc(Number(fields.amount.value));
  if (fields.bankCode) body.refundAccount = { bankCode: fields.bankCode.value, accountNumber: fields.accountNumber.value, holder: fields.holder.value.trim() };
  return body;
}
