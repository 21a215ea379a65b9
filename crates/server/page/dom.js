// Small helpers around the document. Elements are built node by node: nothing here or elsewhere parses text as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** The element of the page with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element: `kind` is `name.class.class`, `props` its properties, then what it contains. */
export function el(kind, props = {}, ...children) {
  const [name, ...classes] = kind.split(".");
  const element = Object.assign(document.createElement(name), props);
  if (classes.length) element.className = classes.join(" ");
  element.append(...children);
  return element;
}

/** One of the symbols at the end of `index.html`. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A button that shows only a symbol; `label` is what it is called. */
export function iconButton(name, label, onclick) {
  return el("button.plain", { type: "button", ariaLabel: label, title: label, onclick }, icon(name));
}

/** A button that copies what `text()` gives, and shows for a moment that it did. */
export function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    const copied = await copy(text());
    announce(copied ? "Copied" : "The browser did not allow copying");
    button.replaceChildren(icon(copied ? "done" : "close"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

/** Whether `text` is on the clipboard now. Browsers offer `navigator.clipboard` over HTTPS and on this machine only. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text) {
  const before = document.activeElement;
  const area = el("textarea.unseen", { value: text });
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  before?.focus();
  return copied;
}

/** Says something to those who hear the page instead of seeing it. */
export function announce(text) {
  byId("announce").textContent = text;
}

/** Gives the user a file. */
export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Makes a text area as high as its text; the style sheet says how high at most. */
export function fit(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

/** `12,345`, as the user's language writes it. */
export const count = (n) => Math.round(n).toLocaleString();

/** `8 s`, `2 min 5 s`. */
export function duration(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  return s < 60 ? `${s} s` : `${Math.floor(s / 60)} min ${s % 60} s`;
}
