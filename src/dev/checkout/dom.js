// Builds elements from plain data. Text is always text: nothing here parses markup.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

export const replace = (element, ...children) => element.replaceChildren(...children.flat(Infinity).filter(Boolean));

// After a change of view the reader's place is its heading, not a button that no longer exists.
export function focusHeading() {
  const heading = byId("view").querySelector("h1");
  if (!heading) return;
  heading.tabIndex = -1;
  heading.focus({ preventScroll: true });
  window.scrollTo({ top: 0 });
}

export function debounceClicks(work) {
  let running = false;
  return async (event) => {
    event?.preventDefault();
    if (running) return;
    running = true;
    const button = event?.submitter ?? event?.currentTarget;
    button?.setAttribute?.("aria-busy", "true");
    try {
      await work(event);
    } finally {
      running = false;
      button?.removeAttribute?.("aria-busy");
    }
  };
}
