// Markdown as models write it, into elements. What a model says is never parsed as HTML: it ends in text nodes, and in the `href` of
// links to http and https. Images are shown as links, because loading one would tell its server something.
//
// Rendering happens again and again while an answer comes. Text is cut into top-level blocks; a block whose source is what it was
// keeps its element, so only the last one is built anew, and what the reader has selected or scrolled stays.
//
// Bounds against hostile text: blocks nest `DEPTH_MAX` deep, at most `OPEN_MAX` delimiters wait for their other half, and tables have
// at most `COLUMNS_MAX` columns. Time is linear in the text's length.

import { copyButton, el } from "./dom.js";

const DEPTH_MAX = 12;
const OPEN_MAX = 16;
const COLUMNS_MAX = 64;

const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +|$)(.*)/;
const FENCE = /^ {0,3}(`{3,}|~{3,}) *([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6}) +(.*)$/;
const RULE = /^ {0,3}(?:(?:\* *){3,}|(?:- *){3,}|(?:_ *){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const DASHES = /^ *\|?(?: *:?-+:? *\|)+(?: *:?-+:? *)?$/;
const STARTS = [FENCE, HEADING, RULE, QUOTE, ITEM];

/** What is the source of an element that a block became. */
const sources = new WeakMap();

/** Makes `into` show `text`. */
export function render(into, text) {
  const found = blocks(text.replaceAll("\t", "    ").split(/\r?\n/));
  found.forEach((block, at) => {
    const old = into.children[at];
    if (old && sources.get(old) === block.source) return;
    const element = grown(old, block) ?? block.build(0);
    sources.set(element, block.source);
    if (!old) into.append(element);
    else if (old !== element) old.replaceWith(element);
  });
  while (into.children.length > found.length) into.lastChild.remove();
}

/** The element of a code block that has become longer: the same one. */
function grown(old, block) {
  if (block.code === undefined || old?.dataset.language !== block.language) return null;
  old.querySelector("code").textContent = block.code;
  return old;
}

// Blocks: each rule looks at `lines` from `at` on, and gives how many lines its block takes and how to build it.

const RULES = [fence, heading, rule, quote, list, table];

function blocks(lines) {
  const found = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const block = RULES.reduce((found, rule) => found ?? rule(lines, at), null) ?? paragraph(lines, at);
    block.source = lines.slice(at, at + block.n).join("\n");
    found.push(block);
    at += block.n;
  }
  return found;
}

/** Whether a block other than a paragraph begins at `at`. */
function isStart(lines, at) {
  return STARTS.some((start) => start.test(lines[at])) || isTable(lines, at);
}

/** The blocks inside a block; too deep, their text. */
function nested(element, lines, depth) {
  if (depth >= DEPTH_MAX) element.append(lines.join("\n"));
  else for (const block of blocks(lines)) element.append(block.build(depth + 1));
  return element;
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !isStart(lines, end)) end++;
  const text = lines.slice(at, end).map((line) => line.trim()).join("\n");
  return { n: end - at, build: () => inline(el("p"), text) };
}

function heading(lines, at) {
  const match = HEADING.exec(lines[at]);
  // The page's own headings are h1 and h2.
  const text = match?.[2].trimEnd().replace(/ #+$/, "");
  return match && { n: 1, build: () => inline(el(`h${Math.min(match[1].length + 2, 6)}`), text) };
}

function rule(lines, at) {
  return RULE.test(lines[at]) ? { n: 1, build: () => el("hr") } : null;
}

function quote(lines, at) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  const inner = () => lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return end > at ? { n: end - at, build: (depth) => nested(el("blockquote"), inner(), depth) } : null;
}

/** A block of code; while it has no end yet, all that follows. */
function fence(lines, at) {
  const [, mark, info] = FENCE.exec(lines[at]) ?? [];
  if (!mark) return null;
  const close = new RegExp(`^ {0,3}${mark[0]}{${mark.length},} *$`);
  let end = at + 1;
  while (end < lines.length && !close.test(lines[end])) end++;
  const indent = lines[at].search(/\S/);
  const code = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent, line.search(/\S|$/)))).join("\n");
  const language = info.trim().split(/\s/)[0];
  return { n: Math.min(end + 1, lines.length) - at, code, language, build: () => codeBlock(code, language) };
}

function codeBlock(code, language) {
  const shown = el("code", { textContent: code });
  const head = el("figcaption", {}, el("span", { textContent: language }), copyButton("Copy code", () => shown.textContent));
  const figure = el("figure.code", {}, head, el("pre", { tabIndex: 0 }, shown));
  figure.dataset.language = language;
  return figure;
}

/** Items of one kind, with what is indented below them. */
function list(lines, at) {
  const first = ITEM.exec(lines[at]);
  if (!first || RULE.test(lines[at])) return null;
  const items = [];
  let end = at;
  while (end < lines.length) {
    const n = item(lines, end, first);
    if (!n) break;
    items.push([end, n]);
    end += n;
  }
  const build = (depth) => {
    const isOrdered = /\d/.test(first[2]);
    const element = isOrdered ? el("ol", { start: parseInt(first[2], 10) }) : el("ul");
    for (const [from, n] of items) element.append(nested(el("li"), itemLines(lines, from, n), depth));
    return element;
  };
  return { n: end - at, build };
}

/** How many lines the item at `at` takes; 0 if it is none of the list that begins with `first`. */
function item(lines, at, first) {
  const match = ITEM.exec(lines[at]);
  const isSame = match && match[1].length < first[1].length + 2 && kindOf(match[2]) === kindOf(first[2]);
  if (!isSame || RULE.test(lines[at])) return 0;
  let end = at + 1;
  let last = end;
  for (; end < lines.length; end++) {
    const isBlank = !lines[end].trim();
    const isIndented = lines[end].search(/\S/) >= match[1].length + 2;
    const isLazy = last === end && !isBlank && !isIndented && !isStart(lines, end);
    if (!isBlank && !isIndented && !isLazy) break;
    if (!isBlank) last = end + 1;
  }
  // Blank lines belong to the list only where another item follows them.
  return end < lines.length && ITEM.test(lines[end]) ? end - at : last - at;
}

function kindOf(mark) {
  return mark.at(-1);
}

function itemLines(lines, at, n) {
  const [, indent, mark, text] = ITEM.exec(lines[at]);
  const inner = indent.length + mark.length + 1;
  const rest = lines.slice(at + 1, at + n).map((line) => line.slice(Math.min(inner, Math.max(line.search(/\S/), 0))));
  return [text, ...rest];
}

function isTable(lines, at) {
  return lines[at].includes("|") && DASHES.test(lines[at + 1] ?? "");
}

function table(lines, at) {
  if (!isTable(lines, at)) return null;
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end++;
  return { n: end - at, build: () => tableElement(lines.slice(at, end).map(cells)) };
}

function cells(line) {
  const text = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return text.split(/(?<!\\)\|/, COLUMNS_MAX).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function tableElement([head, dashes, ...rows]) {
  const sides = dashes.map((dash) => (dash.endsWith(":") ? (dash.startsWith(":") ? "center" : "right") : "left"));
  const cell = (kind, text, i) => inline(el(`${kind}.${sides[i] ?? "left"}`), text);
  const row = (kind, texts) => el("tr", {}, ...texts.slice(0, head.length).map((text, i) => cell(kind, text, i)));
  const body = el("tbody", {}, ...rows.map((texts) => row("td", texts)));
  const table = el("table", {}, el("thead", {}, row("th", head)), body);
  return el("div.table", { tabIndex: 0, role: "region", ariaLabel: "Table" }, table);
}

// Inside a block. Nodes are put into one flat array; a delimiter is a text node that waits in `open`, and where its other half
// comes, what lies between them moves into an element.

const TOKEN = /\\[!-/:-@[-`{-~]|`+|\*+|_+|~~|!?\[|\]|<https?:\/\/[^\s<>]+>|https?:\/\/[^\s<>"`]+|\n/g;
const TARGET = /\( *<?([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?: +(?:"[^"]*"|'[^']*'))? *\)/y;

/** Appends `text` to `element`, with what its marks mean. */
function inline(element, text) {
  const line = { text, at: 0, nodes: [], open: [], unclosed: new Set() };
  TOKEN.lastIndex = 0;
  for (let match; (match = TOKEN.exec(text)); TOKEN.lastIndex = line.at) {
    say(line, text.slice(line.at, match.index));
    line.at = match.index + match[0].length;
    token(line, match[0], match.index);
  }
  say(line, text.slice(line.at));
  for (const node of line.nodes) element.append(node);
  return element;
}

function say(line, text) {
  if (text) line.nodes.push(document.createTextNode(text));
}

function token(line, mark, from) {
  if (mark[0] === "\\") say(line, mark[1]);
  else if (mark === "\n") line.nodes.push(el("br"));
  else if (mark[0] === "`") code(line, mark);
  else if (mark.endsWith("[")) wait(line, "[", mark);
  else if (mark === "]") link(line);
  else if (mark[0] === "<") bareLink(line, mark.slice(1, -1));
  else if (mark[0] === "h") bareLink(line, shortened(line, mark));
  else emphasis(line, mark, from);
}

function code(line, mark) {
  const end = line.unclosed.has(mark.length) ? -1 : closing(line, mark);
  if (end < 0) return say(line, mark);
  const text = line.text.slice(line.at, end).replaceAll("\n", " ");
  const isPadded = text.startsWith(" ") && text.endsWith(" ") && text.trim();
  line.nodes.push(el("code", { textContent: isPadded ? text.slice(1, -1) : text }));
  line.at = end + mark.length;
}

/** Where the same number of backticks follows; that there is none is remembered, not looked for again. */
function closing(line, mark) {
  const runs = /`+/g;
  runs.lastIndex = line.at;
  for (let run; (run = runs.exec(line.text)); ) if (run[0].length === mark.length) return run.index;
  line.unclosed.add(mark.length);
  return -1;
}

function wait(line, kind, mark) {
  say(line, mark);
  line.open.push({ kind, mark, at: line.nodes.length - 1 });
  if (line.open.length > OPEN_MAX) line.open.shift();
}

function emphasis(line, mark, from) {
  const before = line.text[from - 1] ?? " ";
  const after = line.text[line.at] ?? " ";
  const isWord = mark[0] === "_" && /[\p{L}\p{N}_]/u.test(before) && /[\p{L}\p{N}_]/u.test(after);
  if (isWord) return say(line, mark);
  const rest = /\s/.test(before) ? mark : close(line, mark);
  if (rest && !/\s/.test(after)) wait(line, mark[0], rest);
  else say(line, rest);
}

/** Closes with `mark` what it can, the innermost first, and gives what is left of it. */
function close(line, mark) {
  for (let i = line.open.length; mark && i-- > 0; ) {
    const opener = line.open[i];
    if (opener.kind === "[") break;
    if (opener.kind !== mark[0]) continue;
    const n = Math.min(2, opener.mark.length, mark.length);
    const inner = line.nodes.splice(opener.at + 1);
    if (!inner.length) break;
    line.nodes.push(filled(kindOfMark(mark[0], n), inner));
    line.open.length = i;
    shorten(line, opener, n);
    mark = mark.slice(n);
    i = line.open.length;
  }
  return mark;
}

function kindOfMark(mark, n) {
  return mark === "~" ? "del" : n === 2 ? "strong" : "em";
}

/** Takes `n` characters from a delimiter. If some are left, it goes on waiting. */
function shorten(line, opener, n) {
  opener.mark = opener.mark.slice(n);
  line.nodes[opener.at].data = opener.mark;
  if (opener.mark) line.open.push(opener);
}

function link(line) {
  const i = line.open.findLastIndex((opener) => opener.kind === "[");
  const opener = line.open[i];
  if (!opener) return say(line, "]");
  line.open.length = i;
  TARGET.lastIndex = line.at;
  const target = TARGET.exec(line.text);
  const href = target && web(target[1]);
  if (!href) return say(line, "]");
  const inner = line.nodes.splice(opener.at);
  inner[0].data = "";
  line.nodes.push(anchor(href, inner[1] ? inner : [document.createTextNode(href)]));
  line.at = TARGET.lastIndex;
}

/** A web address in running text, without the punctuation and the closing brackets behind it. */
function shortened(line, mark) {
  let unopened = mark.split(")").length - mark.split("(").length;
  let end = mark.length;
  while (".,;:!?'*_~]".includes(mark[end - 1]) || (mark[end - 1] === ")" && unopened-- > 0)) end--;
  line.at -= mark.length - end;
  return mark.slice(0, end);
}

function bareLink(line, text) {
  const href = web(text);
  if (href) line.nodes.push(anchor(href, [document.createTextNode(text)]));
  else say(line, text);
}

/** The address, if it is one of the web. */
function web(text) {
  try {
    const { protocol, href } = new URL(text);
    return protocol === "https:" || protocol === "http:" ? href : null;
  } catch {
    return null;
  }
}

function anchor(href, inner) {
  const isNested = inner.some((node) => node.nodeName === "A" || node.querySelector?.("a"));
  const kind = isNested ? "span" : "a";
  const link = filled(kind, inner);
  return isNested ? link : Object.assign(link, { href, title: href, target: "_blank", rel: "noopener noreferrer" });
}

function filled(kind, nodes) {
  const element = el(kind);
  for (const node of nodes) element.append(node);
  return element;
}
