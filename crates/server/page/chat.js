// The page: what is shown, what is being asked, and what the buttons do. `conversation.js` says what a conversation is, `ask.js` how
// an answer comes, `turn.js` how a message looks.

import { Ask } from "./ask.js";
import { add, begin, branch, exported, show, used } from "./conversation.js";
import { announce, byId, count, download, el, fit, iconButton } from "./dom.js";
import { startFollowing, stayAtEnd, toEnd } from "./follow.js";
import { drawList, isDrawerOpen, openMenu, openRename, setDrawer, startList } from "./list.js";
import { key, openSettings } from "./settings.js";
import { onChange, open } from "./store.js";
import { model as askModel } from "./stream.js";
import { sends, turn } from "./turn.js";

const SAVE_MS = 1000;
const TICK_MS = 500;
const UNDO_MS = 8000;
/** Only then is the message field given the focus unasked: on a touch screen that would open the keyboard. */
const hasMouse = matchMedia("(pointer: fine)");

let store;
/** The conversation on the page, and its messages there. */
let shown = begin();
const turns = [];
/** What the list shows, by id. */
let summaries = new Map();
/** Answers that are on their way, by message. */
const asks = new Map();
/** Conversations that are to be saved soon, with the timer; and those that are not to be, because they were deleted. */
const unsaved = new Map();
const deleted = new Set();
/** Those that could not be saved, which was said. */
const unkept = new Set();
/** Whether the page is being left, which breaks off answers: not a failure to be kept. */
let isLeaving = false;
/** The model that answers, once the server has told; and whether it does not tell without a key. */
let model = null;
let needsKey = false;

// What is shown.

function showAll() {
  showThread();
  showFrame();
  showList();
}

/** Brings the messages on the page in line with the branch that is shown; those that are there already stay. */
function showThread() {
  const indices = branch(shown);
  const differs = indices.findIndex((index, at) => turns[at]?.message !== shown.messages[index]);
  const same = differs < 0 ? indices.length : differs;
  for (const old of turns.splice(same)) old.element.remove();
  for (const index of indices.slice(same)) {
    const made = turn(shown, index, actions);
    turns.push(made);
    byId("thread").append(made.element);
  }
  for (const made of turns) made.update(asks.get(made.message));
  byId("welcome").hidden = turns.length > 0;
}

/** What is around the messages. */
function showFrame() {
  const title = shown.title || "New conversation";
  byId("title").textContent = title;
  document.title = shown.title || model?.name || "Chat";
  byId("more").hidden = !summaries.has(shown.id);
  const isAsking = Boolean(askOf(shown));
  byId("send").hidden = isAsking;
  byId("stop").hidden = !isAsking;
  showContext();
}

function showContext() {
  const n = used(shown);
  const n_ctx = model?.n_ctx;
  const text = n_ctx ? `${count(n)} of ${count(n_ctx)} tokens of context` : `${count(n)} tokens of context`;
  byId("context").textContent = n ? text : "";
  byId("context").classList.toggle("near", n_ctx > 0 && n > 0.9 * n_ctx);
}

function showList() {
  const answering = new Set([...asks.values()].map((ask) => ask.conversation.id));
  drawList(summaries.values(), shown.id, answering, openMenuOf);
}

/** A line above the message field, until it is closed. */
function notice(text) {
  const close = iconButton("close", "Close", () => (byId("notice").hidden = true));
  byId("notice").replaceChildren(el("span", { textContent: text }), close);
  byId("notice").hidden = false;
}

// An answer that comes changes its message many times between two frames.

const changed = new Set();

function showSoon(message) {
  if (!changed.size) requestAnimationFrame(showChanged);
  changed.add(message);
}

function showChanged() {
  const now = new Set(changed);
  changed.clear();
  for (const made of turns) if (now.has(made.message)) made.update(asks.get(made.message));
}

// Asking.

function askOf(conversation) {
  return [...asks.values()].find((ask) => ask.conversation === conversation);
}

/** Asks for an answer to the message `parent`, into the message `index` or a new one. */
async function ask(conversation, parent, index = add(conversation, { role: "assistant", parent })) {
  askOf(conversation)?.stop();
  const current = new Ask(conversation, index);
  const { message } = current;
  asks.set(message, current);
  const running = current.run(knownModel, () => {
    showSoon(message);
    saveSoon(conversation);
  });
  save(conversation);
  showAll();
  toEnd();
  await running;
  asks.delete(message);
  finish(conversation, message);
}

function finish(conversation, message) {
  conversation.updated = Date.now();
  if (message.failure?.kind === "gone") forgetModel();
  save(conversation);
  showAll();
  if (conversation === shown) stayAtEnd();
  announce(message.failure ? message.failure.title : `Answer: ${message.content || "none"}`);
  if (message.failure?.kind === "key") enterKey();
}

async function send() {
  const text = byId("text");
  const content = text.value.trim();
  if (!content || askOf(shown)) return;
  text.value = "";
  fit(text);
  if (hasMouse.matches) text.focus();
  const parent = add(shown, { role: "user", content, parent: shown.shown });
  place(shown.id);
  await ask(shown, parent);
}

const actions = {
  edit(index, content) {
    ask(shown, add(shown, { role: "user", content, parent: shown.messages[index].parent }));
  },
  again(index) {
    const { parent, content, reasoning } = shown.messages[index];
    // An answer that never began has nothing to be kept beside the next one.
    ask(shown, parent, content || reasoning ? undefined : index);
  },
  show(index) {
    show(shown, index);
    save(shown);
    showAll();
  },
  key: enterKey,
};

function enterKey() {
  needsKey = true;
  changeSettings();
}

function changeSettings() {
  openSettings(needsKey, (isNewKey) => isNewKey && retryWithKey());
}

async function retryWithKey() {
  await refreshModel();
  if (needsKey) return enterKey();
  const last = shown.messages[shown.shown];
  if (last?.failure?.kind === "key") actions.again(shown.shown);
}

// The model.

async function knownModel() {
  model ??= await askModel(key());
  needsKey = false;
  showModel(model.name);
  return model;
}

function forgetModel() {
  model = null;
  showModel("The server does not answer");
}

async function refreshModel() {
  try {
    await knownModel();
  } catch (failure) {
    needsKey = failure.kind === "key";
    showModel(failure.message);
  }
}

function showModel(text) {
  byId("model").textContent = text;
  byId("model").classList.toggle("gone", !model);
  showFrame();
}

// Keeping.

function saveSoon(conversation) {
  if (!unsaved.has(conversation)) unsaved.set(conversation, setTimeout(save, SAVE_MS, conversation));
}

async function save(conversation) {
  clearTimeout(unsaved.get(conversation));
  unsaved.delete(conversation);
  if (isLeaving || deleted.has(conversation.id)) return;
  const { id, title, updated } = conversation;
  summaries.set(id, { id, title, updated });
  try {
    await store.put(conversation);
    unkept.delete(id);
  } catch (error) {
    if (!unkept.has(id)) notice(unkeptNotice(error));
    unkept.add(id);
  }
}

function unkeptNotice(error) {
  const why = error?.name === "QuotaExceededError" ? "The browser has no room left" : "The browser could not store it";
  return `${why}: this conversation is kept only until the page is closed. Export it, or delete others.`;
}

function saveAll() {
  for (const conversation of [...unsaved.keys()]) save(conversation);
}

function leave() {
  saveAll();
  isLeaving = true;
}

async function remove({ id, title }) {
  const conversation = await load(id);
  deleted.add(id);
  askOf(conversation)?.stop();
  summaries.delete(id);
  await store.remove(id);
  if (shown.id === id) go("");
  showAll();
  offerUndo(`Deleted “${title}”`, () => {
    deleted.delete(id);
    save(conversation);
    place(id);
    go(id);
  });
}

let toastTimer;

function offerUndo(text, undo) {
  const toast = byId("toast");
  const hide = () => (toast.hidden = true);
  const button = el("button", { type: "button", textContent: "Undo" });
  button.onclick = () => {
    hide();
    undo();
  };
  toast.replaceChildren(el("span", { textContent: text }), button);
  toast.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(hide, UNDO_MS);
}

async function rename({ id }, title) {
  const conversation = await load(id);
  conversation.title = title;
  await save(conversation);
  showAll();
}

async function exportFile({ id, title }) {
  const name = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").toLowerCase() || "conversation";
  download(`${name}.json`, exported(await load(id)));
}

function openMenuOf(summary, button) {
  openMenu(button, [
    ["Rename", () => openRename(summary.title, (title) => rename(summary, title))],
    ["Export as JSON", () => exportFile(summary)],
    ["Delete", () => remove(summary)],
  ]);
}

// Which conversation: the address says it, so that the browser's buttons and a reload work.

/** The conversation with this id; the one in memory if there is one, because it may be newer. */
async function load(id) {
  if (shown.id === id) return shown;
  const asking = [...asks.values()].find((ask) => ask.conversation.id === id);
  return asking?.conversation ?? [...unsaved.keys()].find((one) => one.id === id) ?? (await store.get(id));
}

/** Writes the address without going there. */
function place(id) {
  history.replaceState(null, "", id ? `#${id}` : location.pathname);
}

/** Goes to a conversation; to a new one if there is none with this id. */
async function go(id) {
  const found = id ? await load(id) : null;
  if (found !== shown) {
    shown = found ?? begin();
    for (const old of turns.splice(0)) old.element.remove();
  }
  place(found ? id : "");
  showAll();
  toEnd();
}

function startNew() {
  setDrawer(false);
  if (location.hash) history.pushState(null, "", location.pathname);
  go("");
  byId("text").focus();
}

/** Another tab has changed a conversation. */
async function takeOver(id) {
  summaries = byIdOf(await store.list());
  if (shown.id === id && !askOf(shown)) {
    shown = (await store.get(id)) ?? begin();
    place(summaries.has(shown.id) ? shown.id : "");
  }
  showAll();
}

function byIdOf(list) {
  return new Map(list.map((summary) => [summary.id, summary]));
}

// Beginning.

function listen() {
  const text = byId("text");
  text.oninput = () => fit(text);
  text.onkeydown = (event) => {
    if (!sends(event)) return;
    event.preventDefault();
    send();
  };
  byId("composer").onsubmit = (event) => {
    event.preventDefault();
    send();
  };
  byId("stop").onclick = () => askOf(shown)?.stop();
  byId("new").onclick = byId("new-phone").onclick = startNew;
  byId("more").onclick = () => openMenuOf(shown, byId("more"));
  byId("open-settings").onclick = () => {
    setDrawer(false);
    changeSettings();
  };
  document.querySelector(".skip").onclick = (event) => {
    event.preventDefault();
    text.focus();
  };
  document.onkeydown = onKey;
}

function onKey(event) {
  if (event.key !== "Escape" || document.querySelector("dialog[open], :popover-open")) return;
  if (isDrawerOpen()) setDrawer(false);
  else askOf(shown)?.stop();
}

function listenToBrowser() {
  addEventListener("popstate", () => go(location.hash.slice(1)));
  addEventListener("pagehide", leave);
  addEventListener("pageshow", () => (isLeaving = false));
  addEventListener("focus", () => model || refreshModel());
  document.addEventListener("visibilitychange", () => document.hidden && saveAll());
  // On iOS the keyboard covers the page instead of making it smaller.
  visualViewport?.addEventListener("resize", () => {
    if (visualViewport.scale > 1.01) return;
    document.documentElement.style.setProperty("--height", `${visualViewport.height}px`);
  });
  setInterval(() => [...asks.keys()].forEach(showSoon), TICK_MS);
}

async function start() {
  listen();
  startList();
  startFollowing(() => Boolean(askOf(shown)));
  store = await open();
  if (!store.isKept) notice("This browser stores nothing here: conversations are kept only until the page is closed.");
  summaries = byIdOf(await store.list());
  onChange(takeOver);
  listenToBrowser();
  await go(location.hash.slice(1));
  if (hasMouse.matches) byId("text").focus();
  await refreshModel();
  if (needsKey) enterKey();
}

start();
