// What the buyer sees: each function turns data into elements and hands clicks to the actions it is given.

import { debounceClicks, h } from "./dom.js";
import { BANKS, bank, callWords, cancellationStatus, count, dateTimeOf, eventWords, method, money, orderStatus, paymentStatus, plain, refusal, timeOf } from "./words.js";

export const left = (available) => (available > 0 ? `${available} in stock` : "Sold out");

const tint = (id) => `tint-${Array.from(id).reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 5, 7)}`;

export function notice({ title, text, tone = "bad", actions = [] }) {
  return h("div", { class: `notice ${tone}` }, [
    tone === "wait" && h("span", { class: "spinner", "aria-hidden": "true" }),
    h("div", {}, [
      h("p", { class: "notice-title" }, title),
      text && h("p", {}, text),
      actions.length > 0 &&
        h("p", { class: "row" }, actions.map((a) => h("button", { type: "button", class: "quiet", id: a.id, onclick: debounceClicks(a.run) }, a.label))),
    ]),
  ]);
}

export function shop(products, cart, act) {
  const cards = products.map((product) => productCard(product, cart[product.id] ?? 0, act));
  return [
    h("h1", {}, "Choose what you like"),
    h("div", { class: "two" }, [
      h("section", { "aria-label": "Products" }, [
        products.length ? h("ul", { class: "products" }, cards) : h("p", { class: "card soft" }, "The shop has no products yet."),
      ]),
      h("section", { class: "card cart", id: "cart", "aria-label": "Your cart" }),
    ]),
  ];
}

function productCard(product, quantity, act) {
  const change = (to) => act.setQuantity(product.id, to);
  const input = h("input", {
    type: "number", inputmode: "numeric", min: 0, max: product.available, value: quantity,
    id: `quantity-${product.id}`, "aria-label": `Quantity of ${product.name}`,
    onchange: (event) => change(Math.trunc(Number(event.target.value)) || 0),
  });
  const step = (by, sign, word) =>
    h("button", { type: "button", class: by > 0 ? "plus" : "minus", "aria-label": `${word} ${product.name}`, onclick: () => change(Number(input.value) + by) }, sign);
  return h("li", { class: "card product", "data-product": product.id }, [
    h("span", { class: `tile ${tint(product.id)}`, "aria-hidden": "true" }, Array.from(product.name)[0] ?? "?"),
    h("div", { class: "product-text" }, [
      h("h2", {}, product.name),
      h("p", { class: "price" }, money(product.price, product.currency)),
      h("p", { class: "stock soft", "data-stock": product.id }, left(product.available)),
    ]),
    h("div", { class: "stepper" }, [step(-1, "−", "One less of"), input, step(1, "+", "One more of")]),
  ]);
}

export function cart(products, chosen, act) {
  const lines = products.filter((product) => chosen[product.id] > 0);
  const total = lines.reduce((sum, product) => sum + product.price * chosen[product.id], 0);
  const items = lines.reduce((sum, product) => sum + chosen[product.id], 0);
  return [
    h("h2", {}, "Your cart"),
    lines.length === 0
      ? h("p", { class: "soft" }, "Nothing in it yet. Use + to add an item.")
      : h("ul", { class: "plain-list" }, lines.map((product) =>
          h("li", { class: "between" }, [
            h("span", {}, `${chosen[product.id]} × ${product.name}`),
            h("span", { class: "num" }, money(product.price * chosen[product.id], product.currency)),
          ]))),
    h("p", { class: "between total" }, [h("span", {}, items ? `Total, ${count(items, "item")}` : "Total"), h("span", { class: "num" }, money(total, lines[0]?.currency))]),
    h("button", { type: "button", class: "main", id: "place-order", disabled: lines.length === 0, onclick: act.place }, "Place order"),
    h("p", { class: "soft small" }, "Placing the order holds the items for you. You pay in the next step."),
  ];
}

const HEADING = {
  pending: "Ready to pay",
  confirming: "Checking your payment",
  awaiting_deposit: "Waiting for your transfer",
  paid: "Thank you, it is paid",
  partially_canceled: "Part of your order is canceled",
  canceled: "Your order is canceled",
  expired: "This order has expired",
};

export function orderPage(data, act) {
  const { order, payment, timeline } = data;
  const charged = payment && payment.approvedAmount > 0;
  return [
    h("h1", {}, HEADING[order.status] ?? orderStatus(order.status)),
    h("div", { class: "two" }, [
      h("div", { class: "stack" }, [nextStep(data, act), charged && receipt(payment), charged && payment.balance > 0 && cancelForm(data, act)]),
      h("div", { class: "stack" }, [summary(data), charged && startButton(act, "quiet wide-button")]),
    ]),
    timeline.length > 0 && timelineSection(timeline),
  ];
}

const startButton = (act, look) => h("button", { type: "button", id: "new-order", class: look, onclick: act.startOver }, "Start a new order");

function nextStep({ order, payment, retry }, act) {
  const cancel = h("button", { type: "button", class: "quiet danger", id: "cancel-order", onclick: act.askCancelOrder }, "Cancel order");
  if (order.status === "pending") {
    return h("section", { class: "card stack", "aria-label": "Payment" }, [
      h("div", { class: "between" }, [
        h("p", {}, "We hold your items for"),
        h("p", { class: "countdown", id: "countdown", role: "timer", "aria-live": "off", "data-until": order.holdExpiresAt }, "–:––"),
      ]),
      h("div", { class: "meter", "aria-hidden": "true" }, h("span", { id: "meter", "data-from": order.createdAt, "data-until": order.holdExpiresAt })),
      retry && h("button", { type: "button", class: "main", id: "retry-confirm", onclick: act.retryConfirm }, "Try again"),
      h("button", { type: "button", class: retry ? "quiet" : "main", id: "pay", onclick: act.pay }, retry ? "Pay in a new window" : `Pay ${money(order.amount, order.currency)}`),
      h("div", { id: "cancel-order-slot" }, cancel),
    ]);
  }
  if (order.status === "confirming") {
    return h("section", { class: "card stack", "aria-label": "Payment" }, [
      h("p", {}, "The payment provider has not given a certain answer yet. It is asked again until it does, and you are charged once or not at all. Your items stay held meanwhile."),
      order.cancelRequested
        ? h("p", {}, "You asked to cancel. We do it as soon as the outcome is certain, and return any money that was taken.")
        : h("div", { id: "cancel-order-slot" }, cancel),
    ]);
  }
  if (order.status === "awaiting_deposit" && payment?.deposit) return depositCard(order, payment, cancel);
  if (payment?.status === "reversing") return notice({ tone: "wait", title: "Your money is being returned", text: "The payment came too late for this order. The full amount goes back automatically; you need to do nothing." });
  if (order.status === "expired") return h("section", { class: "card stack" }, [h("p", {}, "The hold ended before a payment. The items went back on the shelf and nothing is owed."), startButton(act, "main")]);
  if (order.status === "canceled" && !(payment?.approvedAmount > 0)) return h("section", { class: "card stack" }, [h("p", {}, "Nothing was charged, and the items went back on the shelf."), startButton(act, "main")]);
  return null;
}

function depositCard(order, payment, cancel) {
  const { bankCode, accountNumber, holder, dueAt } = payment.deposit;
  return h("section", { class: "card stack", "aria-label": "Bank transfer" }, [
    h("p", {}, "Please transfer the exact amount to this account:"),
    facts([
      ["Amount", h("strong", {}, money(payment.amount, payment.currency))],
      ["Bank", bank(bankCode)],
      ["Account number", h("strong", { class: "mono", id: "account-number" }, accountNumber)],
      ["Account holder", holder],
      ["Due", dateTimeOf(dueAt)],
    ]),
    h("p", { class: "wait-line" }, [h("span", { class: "spinner", "aria-hidden": "true" }), h("span", {}, "Waiting for your transfer. Your items stay held.")]),
    order.cancelRequested ? h("p", {}, "You asked to cancel; it is being done.") : h("div", { id: "cancel-order-slot" }, cancel),
  ]);
}

export function cancelQuestion(act) {
  return h("div", { class: "row question", role: "group", "aria-label": "Cancel this order?" }, [
    h("span", {}, "Cancel this order?"),
    h("button", { type: "button", class: "danger-fill", id: "cancel-order-yes", onclick: debounceClicks(act.cancelOrder) }, "Yes, cancel it"),
    h("button", { type: "button", class: "quiet", onclick: act.keepOrder }, "Keep it"),
  ]);
}

function facts(rows) {
  return h("dl", { class: "facts" }, rows.filter(Boolean).map(([term, value]) => h("div", {}, [h("dt", {}, term), h("dd", {}, value ?? "–")])));
}

function receipt(payment) {
  const won = (amount) => money(amount, payment.currency);
  return h("section", { class: "card stack", id: "receipt", "aria-label": "Receipt" }, [
    h("div", { class: "between" }, [h("h2", {}, "Receipt"), h("span", { class: `pill ${payment.status}` }, paymentStatus(payment.status))]),
    facts([
      ["Charged", h("strong", { id: "charged" }, won(payment.approvedAmount))],
      payment.canceledAmount > 0 && ["Refunded", h("span", { id: "refunded" }, `−${won(payment.canceledAmount)}`)],
      payment.canceledAmount > 0 && ["Balance", h("strong", { id: "balance" }, won(payment.balance))],
      ["Paid with", method(payment.method)],
      ["Paid at", dateTimeOf(payment.approvedAt)],
      ["Payment", h("span", { class: "mono" }, payment.id)],
      ["Provider", plain(payment.provider)],
    ]),
    payment.cancellations.length > 0 && [
      h("h3", {}, "Cancellations"),
      h("ul", { class: "plain-list", id: "cancellations" }, payment.cancellations.map((c) =>
        h("li", { class: "cancellation" }, [
          h("div", { class: "between" }, [h("span", {}, `${cancellationStatus(c.status)} · ${won(c.amount)}`), h("span", { class: "soft small" }, timeOf(c.canceledAt ?? c.createdAt))]),
          h("p", { class: "soft small" }, c.reason),
          c.status === "refused" && h("p", { class: "small" }, refusal(c.refusal?.class)),
        ]))),
    ],
  ]);
}

function summary({ order, stock }) {
  return h("section", { class: "card stack", "aria-label": "Order" }, [
    h("h2", {}, "Your order"),
    h("ul", { class: "plain-list" }, order.lines.map((line) =>
      h("li", { class: "line" }, [
        h("div", { class: "between" }, [h("span", {}, `${line.quantity} × ${line.name}`), h("span", { class: "num" }, money(line.unitPrice * line.quantity, order.currency))]),
        h("div", { class: "between soft small" }, [
          h("span", { "data-stock": line.productId }, stock.has(line.productId) ? left(stock.get(line.productId)) : ""),
          line.canceledQuantity > 0 && h("span", { class: "gone" }, `${line.canceledQuantity} canceled`),
        ]),
      ]))),
    h("p", { class: "between total" }, [h("span", {}, "Total"), h("span", { class: "num", id: "order-total" }, money(order.amount, order.currency))]),
  ]);
}

function cancelForm({ order, payment }, act) {
  if (payment.cancellations.some((c) => c.status === "requested")) {
    return h("section", { class: "card stack", "aria-label": "Cancel and refund" }, [
      h("h2", {}, "Cancel and refund"),
      h("p", { class: "wait-line" }, [h("span", { class: "spinner", "aria-hidden": "true" }), h("span", {}, "Your refund is being checked with the payment provider. Do not ask again.")]),
    ]);
  }
  const lines = order.lines.filter((line) => line.quantity > line.canceledQuantity);
  const radio = (value, label) =>
    h("label", { class: "choice" }, [h("input", { type: "radio", name: "what", value, id: `cancel-${value}`, checked: value === "all" }), h("span", {}, label)]);
  const quantities = lines.map((line) => {
    const most = line.quantity - line.canceledQuantity;
    return h("label", { class: "between" }, [
      h("span", {}, [line.name, " ", h("span", { class: "soft small" }, `up to ${most}`)]),
      h("input", { type: "number", min: 0, max: most, value: 0, inputmode: "numeric", class: "short", "data-line": line.line, "data-price": line.unitPrice }),
    ]);
  });
  const form = h("form", { class: "card stack", id: "cancel-form", "aria-label": "Cancel and refund", onsubmit: debounceClicks(() => act.cancelPayment(form)) }, [
    h("h2", {}, "Cancel and refund"),
    h("fieldset", {}, [
      h("legend", {}, "What should be canceled?"),
      radio("all", `Everything that is left, ${money(payment.balance, payment.currency)}`),
      lines.length > 0 && radio("lines", "Some items"),
      lines.length > 0 && h("div", { class: "nested", "data-for": "lines" }, quantities),
      radio("amount", "An amount, keeping the items"),
      h("div", { class: "nested", "data-for": "amount" }, [
        h("label", { class: "between" }, [h("span", {}, ["Amount ", h("span", { class: "soft small" }, `up to ${money(payment.balance, payment.currency)}`)]),
          h("input", { type: "number", min: 1, max: payment.balance, inputmode: "numeric", class: "short", name: "amount", id: "cancel-amount-value" })]),
      ]),
      h("label", { class: "field" }, [h("span", {}, "Reason"), h("input", { type: "text", name: "reason", id: "cancel-reason", required: true, maxlength: 150, autocomplete: "off", placeholder: "For example: changed my mind" })]),
      payment.method === "virtual_account" && refundAccount(),
      h("button", { class: "danger-fill", id: "cancel-submit" }, "Cancel and refund"),
    ]),
  ]);
  return form;
}

function refundAccount() {
  const field = (label, attributes) => h("label", { class: "field" }, [h("span", {}, label), h("input", { required: true, autocomplete: "off", ...attributes })]);
  return h("div", { class: "nested always stack" }, [
    h("p", { class: "soft small" }, "You paid by bank transfer, so please name an account for the refund."),
    h("label", { class: "field" }, [h("span", {}, "Bank"), h("select", { name: "bankCode", required: true }, Object.entries(BANKS).sort((a, b) => a[1].localeCompare(b[1])).map(([code, name]) => h("option", { value: code }, name)))]),
    field("Account number", { type: "text", inputmode: "numeric", name: "accountNumber", pattern: "[0-9]{4,20}", maxlength: 20, title: "Digits only" }),
    field("Account holder", { type: "text", name: "holder", maxlength: 60 }),
  ]);
}

function timelineSection(items) {
  return h("section", { class: "card stack timeline", "aria-label": "Timeline" }, [
    h("h2", {}, "What happened"),
    h("ol", { id: "timeline" }, items.map((item) => h("li", { class: `event ${item.aggregate}` }, [
      h("time", { datetime: item.at, title: item.at }, timeOf(item.at, true)),
      h("div", { class: "event-text" }, [
        h("p", { class: "event-title" }, eventWords(item.kind)),
        h("p", { class: "soft small" }, [`${item.aggregate} · by ${plain(item.actor) || "unknown"}`, item.to && item.from !== item.to ? ` · ${item.from ? `${plain(item.from)} → ` : ""}${plain(item.to)}` : ""]),
        item.detail?.call && h("p", { class: "call small" }, callWords(item.detail.call)),
      ]),
      item.traceId && h("p", { class: "soft small trace" }, ["trace ", h("span", { class: "mono" }, item.traceId)]),
    ]))),
  ]);
}
