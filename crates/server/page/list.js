// The conversations beside the page, or over it on a phone; and the menu of one of them.

import { byId, el, iconButton } from "./dom.js";

const phone = matchMedia("(max-width: 47.99rem)");

/** Shows `summaries` ({ id, title, updated }), newest first, by day. `menu(summary, button)` opens the menu of one. */
export function drawList(summaries, shown, answering, menu) {
  const groups = new Map();
  for (const summary of [...summaries].sort((a, b) => b.updated - a.updated)) {
    const day = dayOf(summary.updated);
    groups.set(day, [...(groups.get(day) ?? []), entry(summary, shown, answering, menu)]);
  }
  const parts = [...groups].flatMap(([day, entries]) => [el("h2", { textContent: day }), el("ul", {}, ...entries)]);
  byId("list").replaceChildren(...parts);
}

function entry(summary, shown, answering, menu) {
  const isShown = summary.id === shown;
  const link = el("a", { href: `#${summary.id}`, textContent: summary.title, onclick: () => setDrawer(false) });
  if (isShown) link.setAttribute("aria-current", "page");
  if (answering.has(summary.id)) link.append(el("span.busy", { title: "Answering" }));
  const more = iconButton("more", `More about ${summary.title}`, () => menu(summary, more));
  return el("li", {}, link, more);
}

function dayOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const days = Math.ceil((midnight - time) / 86_400_000);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  return days <= 7 ? "Last seven days" : "Earlier";
}

/** Opens a menu below `button`: `[[label, action], ...]`. */
export function openMenu(button, entries) {
  const menu = byId("actions");
  const choose = (act) => () => {
    menu.hidePopover();
    act();
  };
  menu.replaceChildren(...entries.map(([label, act]) => el("button", { textContent: label, onclick: choose(act) })));
  menu.showPopover();
  const { bottom, top, right } = button.getBoundingClientRect();
  const isLow = bottom + menu.offsetHeight + 8 > innerHeight;
  menu.style.top = `${isLow ? top - menu.offsetHeight - 4 : bottom + 4}px`;
  menu.style.left = `${Math.min(Math.max(right - menu.offsetWidth, 8), innerWidth - menu.offsetWidth - 8)}px`;
  menu.firstChild.focus();
}

/** Asks for another title, and gives it to `done`. */
export function openRename(title, done) {
  const dialog = byId("rename");
  const text = byId("rename-text");
  text.value = title;
  dialog.returnValue = "";
  dialog.onclose = () => dialog.returnValue && text.value.trim() && done(text.value.trim());
  dialog.showModal();
  text.select();
}

/** Opens or closes the list where it covers the page. What is covered cannot be reached. */
export function setDrawer(isOpen) {
  const isDrawer = phone.matches;
  document.body.classList.toggle("drawer", isDrawer && isOpen);
  byId("side").inert = isDrawer && !isOpen;
  byId("page").inert = isDrawer && isOpen;
  byId("menu").setAttribute("aria-expanded", String(isDrawer && isOpen));
  if (isDrawer) byId(isOpen ? "close" : "menu").focus();
}

/** Whether the list covers the page. */
export const isDrawerOpen = () => document.body.classList.contains("drawer");

/** Makes the buttons of the list work. */
export function startList() {
  byId("menu").onclick = () => setDrawer(true);
  byId("close").onclick = byId("scrim").onclick = () => setDrawer(false);
  byId("rename-cancel").onclick = () => byId("rename").close();
  phone.onchange = () => setDrawer(false);
  byId("side").inert = phone.matches;
}
