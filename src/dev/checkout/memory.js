// What survives a reload and the trip to the payment window: this tab's session storage, one entry.
// The checkout token lives here and in request headers, never in an address.

const ENTRY = "paygauge.checkout";
const EMPTY = { cart: {}, placing: null, order: null, confirm: null, cancel: null };

function load() {
  try {
    return { ...EMPTY, ...JSON.parse(sessionStorage.getItem(ENTRY) ?? "{}") };
  } catch {
    return { ...EMPTY };
  }
}

let memory = load();

export const recall = () => memory;

export function remember(changes) {
  memory = { ...memory, ...changes };
  try {
    sessionStorage.setItem(ENTRY, JSON.stringify(memory));
  } catch {
    // A browser that refuses storage still shops; only a reload then forgets the order.
  }
}

export const forgetOrder = () => remember({ ...EMPTY });

// Browsers offer randomUUID on secure origins only, and a demo may be opened by a plain network address.
export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

// The same wish keeps its key until its outcome is known, so that a second click or a reload repeats it
// instead of asking for another. A refund account is personal and stays out of storage: its key lives with the page.
let privateCancel = null;

export function cancelKey(target, body) {
  const wish = JSON.stringify([target, body]);
  const kept = body.refundAccount ? privateCancel : memory.cancel;
  if (kept?.wish === wish) return kept.key;
  const fresh = { wish, key: uuid() };
  if (body.refundAccount) privateCancel = fresh;
  else remember({ cancel: fresh });
  return fresh.key;
}

export function cancelDecided() {
  privateCancel = null;
  remember({ cancel: null });
}
