// A conversation is a tree, so that nothing is lost when a message is edited or an answer is asked for again: the new one becomes
// a sibling of the old one.
//
//   { id, title, created, updated,        times in ms since 1970
//     messages: [message],                in the order in which they came
//     shown }                             index of the last message of the branch on the page; -1 if there is none
//
//   message: { parent,                    index of the message before it; -1 for a first one
//              role, content, created,
//              reasoning, thinking_ms,    of answers, as is all that follows
//              model, finish,             finish: "stop", "length", "stopped"; absent if the answer was cut off
//              failure,                   { title, detail, hint, kind }
//              stats }                    { prompt_n, cached_n, read_n, read_ms, predicted_n, predicted_ms }: tokens of the prompt,
//                                         how many of them were known, how many read in what time; tokens of the answer

/** An empty conversation. */
export function begin() {
  const now = Date.now();
  // `crypto.randomUUID` exists over HTTPS and on this machine only.
  const id = now.toString(36) + Math.random().toString(36).slice(2, 10);
  return { id, title: "", created: now, updated: now, messages: [], shown: -1 };
}

/** Puts a message at the end of the branch that ends with its parent, shows it, and gives its index. */
export function add(conversation, message) {
  conversation.messages.push({ created: Date.now(), content: "", ...message });
  conversation.updated = Date.now();
  conversation.shown = conversation.messages.length - 1;
  if (!conversation.title && message.role === "user") conversation.title = titleOf(message.content);
  return conversation.shown;
}

/** Indices of the messages from the first to `last`. */
export function branch(conversation, last = conversation.shown) {
  const indices = [];
  for (let at = last; at >= 0; at = conversation.messages[at].parent) indices.push(at);
  return indices.reverse();
}

/** Indices of a message and of those that were said in its place. */
export function versions(conversation, index) {
  const { parent } = conversation.messages[index];
  return [...conversation.messages.keys()].filter((at) => conversation.messages[at].parent === parent);
}

/** Shows a message, and behind it what came last. */
export function show(conversation, index) {
  for (let at = index; at >= 0; at = newestChild(conversation, at)) conversation.shown = at;
}

function newestChild(conversation, index) {
  return conversation.messages.findLastIndex((message) => message.parent === index);
}

/** What the server is asked to answer: the messages up to `last`. */
export function prompt(conversation, last, system) {
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const at of branch(conversation, last)) {
    const { role, content, reasoning } = conversation.messages[at];
    if (role === "assistant" && !content) continue;
    // Where an answer failed, two messages of the user follow each other, which many models' templates refuse.
    if (messages.at(-1)?.role === role) messages.at(-1).content += `\n\n${content}`;
    else messages.push({ role, content, ...(reasoning && { reasoning_content: reasoning }) });
  }
  return messages;
}

/** The branch that is shown, in the words of the API, for a file. */
export function exported(conversation) {
  const { title, created, updated } = conversation;
  const messages = branch(conversation).map((at) => {
    const { role, content, reasoning, model } = conversation.messages[at];
    return { role, content, ...(reasoning && { reasoning_content: reasoning }), ...(model && { model }) };
  });
  const time = (ms) => new Date(ms).toISOString();
  return JSON.stringify({ title, created: time(created), updated: time(updated), messages }, null, 2);
}

/** Tokens in the context after the last answer whose numbers are known; 0 if there is none. */
export function used(conversation) {
  const at = branch(conversation).findLast((index) => conversation.messages[index].stats);
  const stats = conversation.messages[at]?.stats;
  return stats ? stats.prompt_n + stats.predicted_n : 0;
}

function titleOf(text) {
  const line = text.trim().split("\n")[0].replace(/\s+/g, " ");
  if (line.length <= 60) return line;
  const short = [...line].slice(0, 60).join("");
  return `${short.slice(0, Math.max(short.lastIndexOf(" "), 30))}…`;
}
