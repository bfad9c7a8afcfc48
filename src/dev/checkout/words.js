// Everything the buyer reads that depends on a code, in one place.

// The won sign is written in its common form, which the Korean locale of `Intl` also uses for amounts at home.
export function money(minor, currency = "KRW") {
  if (minor === null || minor === undefined) return "–";
  try {
    const format = new Intl.NumberFormat("ko-KR", { style: "currency", currency });
    const digits = format.resolvedOptions().maximumFractionDigits;
    return format.format(minor / 10 ** digits);
  } catch {
    return `${minor} ${currency}`;
  }
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dateClock = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });

const exactClock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });

export const timeOf = (at, exact = false) => (at ? (exact ? exactClock : clock).format(new Date(at)) : "–");
export const dateTimeOf = (at) => (at ? dateClock.format(new Date(at)) : "–");
export const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
export const plain = (code) => String(code ?? "").replaceAll(/[_:.]+/g, " ").trim();

const listed = (table, key) => (Object.hasOwn(table, key) ? table[key] : undefined);

export const ORDER_STATUS = {
  pending: "Waiting for payment",
  confirming: "Payment being checked",
  awaiting_deposit: "Waiting for your transfer",
  paid: "Paid",
  partially_canceled: "Partly canceled",
  canceled: "Canceled",
  expired: "Expired",
};
export const orderStatus = (status) => listed(ORDER_STATUS, status) ?? plain(status);

const PAYMENT_STATUS = {
  ready: "Not charged",
  confirming: "Being checked",
  awaiting_deposit: "Waiting for your transfer",
  approved: "Paid",
  partially_canceled: "Partly refunded",
  canceled: "Refunded in full",
  declined: "Declined",
  expired: "Expired",
  reversing: "Being returned to you",
};
export const paymentStatus = (status) => listed(PAYMENT_STATUS, status) ?? plain(status);

const METHOD = {
  card: "Card",
  easy_pay: "Easy pay",
  transfer: "Bank transfer",
  virtual_account: "Virtual account",
  mobile: "Mobile phone bill",
  gift: "Gift certificate",
  foreign: "Foreign wallet",
  other: "Other",
};
export const method = (name) => (name ? listed(METHOD, name) ?? plain(name) : "–");

const CANCELLATION_STATUS = { requested: "In progress", done: "Refunded", refused: "Refused" };
export const cancellationStatus = (status) => listed(CANCELLATION_STATUS, status) ?? plain(status);

export const BANKS = {
  "02": "KDB", "03": "IBK", "06": "KB Kookmin", "07": "Suhyup", 11: "NH NongHyup", 12: "Local NongHyup", 20: "Woori",
  23: "SC First", 27: "Citi", 31: "iM Bank", 32: "Busan", 34: "Gwangju", 35: "Jeju", 37: "Jeonbuk", 39: "Kyongnam",
  45: "MG Saemaul", 48: "Shinhyup", 50: "Savings banks", 54: "HSBC", 64: "Forestry Coop", 71: "Korea Post",
  81: "Hana", 88: "Shinhan", 89: "K bank", 90: "Kakao Bank", 92: "Toss Bank",
};
export const bank = (code) => {
  const name = listed(BANKS, code);
  return name ? `${name} (${code})` : `Bank ${code}`;
};

// Why a payment was refused. Each text ends in what the buyer can do next.
const DECLINE = {
  insufficient_funds: ["Not enough money on this card", "Please try another card, or top up and try again."],
  limit_exceeded: ["A limit of this card was reached", "Please try another card, or a smaller order."],
  card_invalid: ["The card details are not right", "Please check number and expiry date, or try another card."],
  card_blocked: ["This card is blocked", "Please try another card and ask your card company about this one."],
  issuer_reject: ["Your card company said no", "It gave no reason. Please try another card, or ask your card company."],
  auth_failed: ["The password or authentication was wrong", "Please try again, or try another card."],
  fraud_suspected: ["The payment was stopped for your safety", "Please try another card, or ask your card company."],
  user_canceled: ["You left the payment window", "Your items are still held. Pay whenever you are ready."],
  session_expired: ["The payment window was open too long", "Please pay again in a new window."],
  method_unavailable: ["This way to pay does not work right now", "Please try another card or another method."],
  merchant_config: ["The shop cannot take this payment", "This is the shop's mistake, not yours. Please try another method."],
  other: ["The payment was declined", "Please try another card."],
};
export function decline(declineClass) {
  const [title, text] = listed(DECLINE, declineClass) ?? DECLINE.other;
  return { title, text: `Nothing was charged. ${text}` };
}

const REFUSAL = {
  refund_account: "The bank account for the refund is missing or not right. Please check it.",
  not_cancelable: "This payment can no longer be canceled here. Please ask the shop.",
  too_late: "It is too late to cancel this payment. Please ask the shop.",
  partial_not_allowed: "This payment can only be canceled as a whole.",
  amount: "The amount is more than what can be refunded.",
  merchant_config: "The shop is not set up to refund this. This is the shop's mistake.",
  other: "The payment provider refused the refund. Nothing was changed.",
};
export const refusal = (refusalClass) => listed(REFUSAL, refusalClass) ?? REFUSAL.other;

// What the payment window says when it sends the buyer back without a payment.
const WINDOW = {
  PAY_PROCESS_CANCELED: ["You closed the payment window", "Nothing was charged and your items are still held."],
  USER_CANCEL: ["You closed the payment window", "Nothing was charged and your items are still held."],
  PAY_PROCESS_ABORTED: ["The payment was interrupted", "Nothing was charged. Please try again or use another card."],
  REJECT_CARD_COMPANY: ["Your card company said no", "Nothing was charged. Please try another card."],
};
export function windowFailure(code) {
  const [title, text] = listed(WINDOW, code) ?? ["The payment did not go through", "Nothing was charged. Please try another card or method."];
  return { title, text };
}

// API problems by stable code; a code that is not listed falls back to the meaning of its HTTP status.
const PROBLEM = {
  order_expired: ["Your hold ended", "The items went back on the shelf and nothing was charged. Please order again."],
  order_not_pending: ["This order cannot be paid any more", "It was paid, canceled or has expired. Its state is shown below."],
  payment_in_flight: ["Another payment for this order is being checked", "Please wait and do not pay again."],
  amount_mismatch: ["The amount does not match your order", "The payment was stopped and nothing was charged. Please pay again from this page."],
  provider_unavailable: ["The payment provider cannot be reached", "Nothing was charged. Please try again in a moment."],
  cancellation_in_progress: ["A refund is already on its way", "Please wait until it is done, then try again."],
  cancel_amount_exceeds_balance: ["That is more than what is left", "Please choose a smaller amount or fewer items."],
};
const BY_STATUS = {
  400: ["The shop could not read that", "Please check what you entered and try again."],
  401: ["This order's session has ended", "For your safety it is limited in time. Please start a new order or ask the shop."],
  403: ["Only the shop can do that", "Please ask the shop to do it for you."],
  404: ["That could not be found", "It may have been removed. Please start a new order."],
  409: ["That is not possible right now", "Something changed in the meantime. The latest state is shown below."],
  422: ["The shop could not accept that", "Please check what you entered and try again."],
  429: ["The shop is very busy", "Please wait a moment and try again."],
};
const OURS = ["Something went wrong at the shop", "You can safely try again: nothing is ordered or charged twice."];
const OFFLINE = ["The shop cannot be reached", "Please check your connection and try again: nothing is ordered or charged twice."];

export function trouble(error, productName = () => "An item") {
  if (error.status === undefined) return { title: OFFLINE[0], text: OFFLINE[1] };
  if (error.code === "payment_declined") return decline(error.fields.declineClass);
  if (error.code === "cancellation_refused") return { title: "The refund was refused", text: refusal(error.fields.refusalClass) };
  if (error.code === "insufficient_stock") return soldOut(error.fields, productName);
  const [title, text] = listed(PROBLEM, error.code) ?? listed(BY_STATUS, error.status) ?? OURS;
  return { title, text };
}

function soldOut({ productId, available, requested }, productName) {
  const name = productName(productId);
  if (!available) return { title: `${name} is sold out`, text: "Somebody was faster. Nothing was ordered; the other items in your cart are unchanged." };
  return { title: `Only ${available} of ${name} left`, text: `You asked for ${requested}. Nothing was ordered yet.` };
}

export const CHECKING = { title: "Your payment is being checked", text: "Do not pay again. This page updates by itself." };

const EVENT = {
  OrderPlaced: "Order placed, stock held",
  OrderConfirmStarted: "Hold frozen while the payment is confirmed",
  OrderReopened: "Order open again, hold still alive",
  OrderHoldExpired: "Hold ended unpaid, stock given back",
  OrderDepositAwaited: "Order waits for a bank transfer",
  OrderPaid: "Order paid",
  OrderDepositReversed: "Bank took the deposit back",
  OrderDepositOverdue: "No transfer by the due date, stock given back",
  OrderCanceledUnpaid: "Order canceled before payment, stock given back",
  OrderPartiallyCanceled: "Order canceled in part",
  OrderCanceled: "Order canceled in full",
  OrderCancelRequested: "Cancel asked for, waiting for the outcome",
  PaymentConfirmStarted: "Payment confirmation started",
  PaymentOutcomeUnknown: "Outcome not certain yet, being checked",
  PaymentNotSent: "Provider was not reached, nothing charged",
  PaymentApproved: "Payment approved, money taken",
  PaymentDeclined: "Payment declined",
  PaymentDepositAwaited: "Virtual account issued",
  PaymentDepositReversed: "Deposit reversed by the bank",
  PaymentDepositOverdue: "Virtual account ran out",
  PaymentReversalStarted: "Money is being returned automatically",
  PaymentPartiallyCanceled: "Part of the money given back",
  PaymentCanceled: "All of the money given back",
  CancellationRequested: "Refund requested",
  CancellationOutcomeUnknown: "Refund not certain yet, being checked",
  CancellationDone: "Refund done",
  CancellationRefused: "Refund refused",
};
// An event newer than this table is still readable: its name, split into words.
export const eventWords = (kind) => listed(EVENT, kind) ?? String(kind).replaceAll(/(?<=[a-z])(?=[A-Z])/g, " ");

export function callWords(call) {
  const took = Number.isFinite(call.durationMs) ? ` in ${Math.round(call.durationMs)} ms` : "";
  const http = call.httpStatus ? `, HTTP ${call.httpStatus}` : ", no HTTP answer";
  const code = call.code ? `, ${call.code}` : "";
  return `PG ${plain(call.operation)}: ${plain(call.outcome)}${took}${http}${code}`;
}
