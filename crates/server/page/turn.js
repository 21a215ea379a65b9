// One message on the page. `Turn.update` brings what is shown up to what the message says; it may be called at any time, and while
// an answer comes it is.

import { copyButton, count, duration, el, fit, icon, iconButton } from "./dom.js";
import { versions } from "./conversation.js";
import { render } from "./markdown.js";

/**
 * `actions`: what the page does when asked to: `edit(index, text)`, `again(index)`, `show(index)`, `key()`.
 */
export function turn(conversation, index, actions) {
  const message = conversation.messages[index];
  const make = message.role === "user" ? question : answer;
  const made = make(message, index, actions);
  const pager = el("span.pager");
  made.tools.prepend(pager);
  const update = (ask) => {
    made.update(ask);
    page(pager, versions(conversation, index), index, actions.show);
  };
  return { message, element: made.element, update };
}

/** `< 1/2 >`, where a message has versions. */
function page(pager, indices, index, show) {
  const text = `${indices.indexOf(index) + 1}/${indices.length}`;
  if (pager.dataset.text === text) return;
  pager.dataset.text = text;
  pager.hidden = indices.length < 2;
  const step = (name, label, by) => {
    const to = indices[indices.indexOf(index) + by];
    const button = iconButton(name, label, () => show(to));
    button.disabled = to === undefined;
    return button;
  };
  pager.replaceChildren(step("before", "Version before", -1), el("span", { textContent: text }), step("after", "Version after", 1));
}

// What the user said.

function question(message, index, actions) {
  const said = el("div.said", { textContent: message.content });
  const edit = iconButton("edit", "Edit", () => openEditor(element, message.content, (text) => actions.edit(index, text)));
  const tools = el("div.tools", {}, edit, copyButton("Copy message", () => message.content));
  const element = el("article.turn.user", { ariaLabel: "You" }, said, tools);
  return { element, tools, update: () => {} };
}

function openEditor(element, text, save) {
  const area = el("textarea", { value: text, ariaLabel: "Edit message", oninput: () => fit(area) });
  const close = () => {
    editor.remove();
    element.classList.remove("editing");
    element.querySelector(".tools [aria-label=Edit]").focus();
  };
  const finish = () => {
    if (!area.value.trim()) return;
    close();
    save(area.value);
  };
  const cancel = el("button", { type: "button", textContent: "Cancel", onclick: close });
  const send = el("button.main", { type: "button", textContent: "Send", onclick: finish });
  const editor = el("div.editor", {}, area, el("div.buttons", {}, cancel, send));
  editor.onkeydown = (event) => {
    if (event.key === "Escape") close();
    else if (sends(event)) finish();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  element.classList.add("editing");
  element.prepend(editor);
  fit(area);
  area.focus();
}

/**
 * Whether a key in a text area sends it: Enter, but not while an input method composes, and on a touch screen, whose keyboard has no
 * Shift+Enter, only with Ctrl.
 */
export function sends(event) {
  if (event.key !== "Enter" || event.isComposing || event.shiftKey || event.target.tagName !== "TEXTAREA") return false;
  return event.ctrlKey || event.metaKey || !matchMedia("(pointer: coarse)").matches;
}

// What the model answered.

function answer(message, index, actions) {
  const thinking = thinkingFold(message);
  const state = el("div.state", { hidden: true });
  const text = el("div.md");
  const failure = el("div.failure", { hidden: true });
  const note = el("p.note", { hidden: true });
  const again = iconButton("again", "Answer again", () => actions.again(index));
  const stats = el("span.stats");
  const tools = el("div.tools", {}, copyButton("Copy answer", () => message.content), again, stats);
  const element = el("article.turn.model", { ariaLabel: "Answer" }, thinking.element, state, text, note, failure, tools);
  const update = (ask) => {
    element.classList.toggle("live", ask?.phase === "answering");
    thinking.update(ask);
    showState(state, ask);
    render(text, message.content);
    note.textContent = noteOf(message, ask);
    note.hidden = !note.textContent;
    showFailure(failure, message, ask, () => actions.again(index), actions.key);
    stats.textContent = speeds(message.stats);
    // While it comes they keep their place, so that nothing jumps when it ends.
    tools.classList.toggle("waiting", Boolean(ask));
    tools.hidden = !ask && Boolean(message.failure && !message.content);
  };
  return { element, tools, update };
}

/** Reasoning, folded. It is rendered only while it is open. */
function thinkingFold(message) {
  const label = el("span");
  const text = el("div.md");
  const element = el("details.thinking", {}, el("summary", {}, icon("after"), label), text);
  const draw = () => element.open && render(text, message.reasoning);
  element.ontoggle = draw;
  const update = (ask) => {
    element.hidden = !message.reasoning;
    if (element.hidden) return;
    const isThinking = ask?.phase === "thinking";
    element.classList.toggle("now", isThinking);
    const ms = isThinking ? performance.now() - ask.since : message.thinking_ms;
    label.textContent = isThinking ? `Thinking… ${duration(ms)}` : `Thought for ${ms >= 500 ? duration(ms) : "a moment"}`;
    draw();
  };
  return { element, update };
}

/** What happens before the first word. */
function showState(state, ask) {
  state.hidden = !(ask?.phase === "reading" || ask?.phase === "waiting");
  if (state.hidden) return;
  const ms = performance.now() - ask.since;
  const { total, processed } = ask.progress ?? {};
  const words = el("span");
  if (ask.phase === "waiting") words.textContent = `${ask.why} Asking again in ${duration(ask.until - performance.now())}.`;
  else if (total) words.textContent = `Reading the prompt: ${count(processed)} of ${count(total)} tokens`;
  else words.textContent = ms < 2000 ? "Reading the prompt" : `Reading the prompt, ${duration(ms)}`;
  const bar = total && ask.phase === "reading" ? [el("progress", { max: total, value: processed, ariaLabel: "Prompt read" })] : [];
  state.replaceChildren(words, ...bar);
}

const NOTES = {
  length: "Cut off: the answer reached the longest length, or the end of the context.",
  stopped: "Stopped.",
};

/** How the answer ended, where that is not as it should be. */
function noteOf({ finish, failure, content }, ask) {
  if (ask || failure) return "";
  if (finish === "stop") return content ? "" : "The model said nothing.";
  return NOTES[finish] ?? (finish ? `Ended: ${finish}.` : "Interrupted: the page was closed.");
}

function showFailure(element, { failure }, ask, again, key) {
  element.hidden = !failure || Boolean(ask);
  if (element.hidden) return;
  const { kind, title, detail, hint } = failure;
  const lines = [el("strong", { textContent: title }), sentence(detail), hint].filter(Boolean).map((line) => el("p", {}, line));
  const enter = el("button", { type: "button", textContent: "Enter the key", onclick: key });
  const retry = el("button", { type: "button", textContent: "Try again", onclick: again });
  element.replaceChildren(...lines, el("div.buttons", {}, ...(kind === "key" ? [enter] : []), retry));
}

/** What a server says, which may begin small and end without a stop. */
function sentence(text) {
  return text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** `212 tokens at 17.3/s · prompt 412 (380 known) at 238/s`. */
function speeds(stats) {
  if (!stats) return "";
  const rate = (n, ms) => (n > 0 && ms > 0 ? ` at ${decimal((n * 1000) / ms)}/s` : "");
  const known = stats.cached_n ? ` (${count(stats.cached_n)} known)` : "";
  const said = `${count(stats.predicted_n)} tokens${rate(stats.predicted_n, stats.predicted_ms)}`;
  return `${said} · prompt ${count(stats.prompt_n)}${known}${rate(stats.read_n, stats.read_ms)}`;
}

function decimal(n) {
  return n.toLocaleString(undefined, { maximumFractionDigits: n < 100 ? 1 : 0 });
}
