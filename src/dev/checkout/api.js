// The shop's half of the REST API: the publishable key for the catalogue and placing, then the checkout token.

// An answer that says no, with the API's stable code and its extra fields.
export class Problem extends Error {
  constructor(status, body, retryAfterMs) {
    super(body?.detail ?? body?.title ?? `HTTP ${status}`);
    this.status = status;
    this.code = body?.code ?? "";
    this.fields = body ?? {};
    this.retryAfterMs = retryAfterMs;
  }

  // Whether asking again, with the same key, is the only way to learn what happened.
  get uncertain() {
    if (this.code === "provider_unavailable") return false;
    const stillRunning = this.status === 409 && this.code.startsWith("idempotency") && !this.code.includes("mismatch");
    return this.status >= 500 || this.status === 429 || stillRunning;
  }
}

// No readable answer: the request may or may not have arrived.
export class Unreachable extends Error {
  get uncertain() {
    return true;
  }
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const ANSWER_WITHIN_MS = 40_000;
const PRODUCT_PAGES = 5;

function retryAfter(response) {
  const seconds = Number(response.headers.get("retry-after"));
  return Number.isFinite(seconds) && seconds > 0 ? Math.min(seconds, 60) * 1000 : null;
}

export async function loadConfig() {
  const response = await fetch("/config.json", { cache: "no-store" });
  if (!response.ok) throw new Unreachable("settings");
  return response.json();
}

export function createApi({ apiUrl, publishableKey }) {
  const base = apiUrl.replace(/\/+$/, "");

  async function send(method, path, { token = publishableKey, body, key } = {}) {
    const headers = { accept: "application/json", authorization: `Bearer ${token}` };
    if (body) headers["content-type"] = "application/json";
    if (key) headers["idempotency-key"] = key;
    let response, json;
    try {
      response = await fetch(base + path, {
        method,
        headers,
        body: body && JSON.stringify(body),
        cache: "no-store",
        credentials: "omit",
        referrerPolicy: "no-referrer",
        signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
      });
      const text = await response.text();
      json = text ? JSON.parse(text) : null;
    } catch (cause) {
      if (response && !response.ok) throw new Problem(response.status, null, retryAfter(response));
      throw new Unreachable("no answer", { cause });
    }
    if (!response.ok) throw new Problem(response.status, json, retryAfter(response));
    return { status: response.status, body: json, retryAfterMs: retryAfter(response) };
  }

  const get = async (path, token) => (await send("GET", path, { token })).body;
  const id = encodeURIComponent;

  return {
    async products() {
      const items = [];
      let after = null;
      for (let page = 0; page < PRODUCT_PAGES; page += 1) {
        const answer = await get(`/v1/products?limit=50${after ? `&after=${id(after)}` : ""}`);
        items.push(...answer.items);
        after = answer.next;
        if (!after) break;
      }
      return items.filter((product) => product.active);
    },
    placeOrder: (lines, key) => send("POST", "/v1/orders", { body: { lines }, key }),
    order: (order) => get(`/v1/orders/${id(order.id)}`, order.token),
    // Calls `seen` with the order at once and whenever something has happened to it, and `alive` whenever anything
    // comes, until the stream ends. With fetch,
    // since an EventSource cannot send the token, and an address must not carry it.
    async follow(order, { alive, seen, signal }) {
      const headers = { accept: "text/event-stream", authorization: `Bearer ${order.token}` };
      const response = await fetch(`${base}/v1/orders/${id(order.id)}/events`, {
        headers,
        cache: "no-store",
        credentials: "omit",
        referrerPolicy: "no-referrer",
        signal,
      });
      if (!response.ok || !response.body) throw new Problem(response.status, null, retryAfter(response));
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ; ) {
        const { value, done } = await reader.read();
        if (done) return;
        alive();
        const blocks = (text + value).split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const data = block.split("\n").find((line) => line.startsWith("data:"));
          if (data) seen(JSON.parse(data.slice(5)));
        }
      }
    },
    timeline: async (order) => (await get(`/v1/orders/${id(order.id)}/timeline`, order.token)).items,
    payment: (paymentId, order) => send("GET", `/v1/payments/${id(paymentId)}`, { token: order.token }),
    confirm: (body, order) => send("POST", "/v1/payments/confirm", { token: order.token, body }),
    cancelOrder: (order, body, key) => send("POST", `/v1/orders/${id(order.id)}/cancel`, { token: order.token, body, key }),
    cancelPayment: (paymentId, order, body, key) =>
      send("POST", `/v1/payments/${id(paymentId)}/cancel`, { token: order.token, body, key }),
  };
}

// Repeats a request whose outcome is uncertain, telling `onWait` before each pause.
export async function untilCertain(request, { attempts, onWait, alive = () => true }) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await request();
    } catch (error) {
      if (!error.uncertain || attempt >= attempts || !alive()) throw error;
      onWait?.(error);
      await sleep(error.retryAfterMs ?? Math.min(1000 * 2 ** (attempt - 1), 10_000));
    }
  }
}
