// The server's interface, as far as the page uses it: GET /v1/models and POST /v1/chat/completions, streamed.

/**
 * Why there is no answer, or only a part of one. `kind`: "gone" (nobody answers), "cut" (the connection ended early), "key",
 * "busy" and "away" (ask again after `wait_ms`), "context" (too long), "server" (anything else that the server says).
 */
export class Failure extends Error {
  constructor(kind, detail = "", wait_ms = 0) {
    super(TITLES[kind]);
    Object.assign(this, { kind, detail, wait_ms });
  }

  /** As a message keeps it. */
  toJSON() {
    return { kind: this.kind, title: this.message, detail: this.detail, hint: HINTS[this.kind] ?? "" };
  }
}

const TITLES = {
  gone: "The server does not answer.",
  cut: "The connection broke off.",
  key: "The server asks for an API key.",
  busy: "The server is busy.",
  away: "The server cannot answer now.",
  context: "The conversation does not fit into the context.",
  server: "The server could not answer.",
};

const HINTS = {
  gone: "Is it still running? Nothing is lost; try again when it is back.",
  cut: "What came until then is above. It may be incomplete.",
  context: "Begin a new conversation, or edit an earlier message: what came after it is left out.",
};

/**
 * The model that answers: `name`, `n_ctx` (tokens; 0 if the server does not say), `parameters` (the optional fields of a request
 * that the server says it knows).
 */
export async function model(key) {
  const response = await request("/v1/models", { headers: headers(key), cache: "no-store" });
  const first = (await response.json()).data?.[0] ?? {};
  const n_ctx = first.context_length ?? first.max_model_len ?? first.meta?.n_ctx ?? 0;
  return { name: first.id ?? "", n_ctx, parameters: first.supported_parameters ?? [] };
}

/**
 * Asks, and gives the answer's parts as they come: { reasoning }, { text }, { progress: { total, processed } } while the prompt is
 * read, { usage }, { timings }, { finish }.
 */
export async function* answer(body, key, signal) {
  const post = { method: "POST", headers: { ...headers(key), "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
  const response = await request("/v1/chat/completions", post);
  let isWhole = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    for (const part of parts(read(data))) {
      isWhole ||= "finish" in part;
      yield part;
    }
  }
  if (!isWhole) throw new Failure("cut");
}

function headers(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function request(path, options) {
  const response = await fetch(path, options).catch((error) => {
    throw error.name === "AbortError" ? error : new Failure("gone");
  });
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw refusal(response.status, response.headers.get("Retry-After"), error);
}

function refusal(status, after, error) {
  const detail = error?.message ?? `It says ${status}, and not why.`;
  if (status === 401) return new Failure("key", detail);
  if (error?.code === "context_length_exceeded") return new Failure("context", detail);
  if (status === 429) return new Failure("busy", detail, waitMs(after));
  if (status === 503) return new Failure("away", detail, waitMs(after));
  return new Failure("server", detail);
}

/** Of a `Retry-After`: a number of seconds, a date, or nothing. */
function waitMs(after) {
  const ms = /^\d+$/.test(after) ? Number(after) * 1000 : Date.parse(after) - Date.now();
  return Math.min(Math.max(ms || 2000, 1000), 120_000);
}

function read(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new Failure("server", "It sent something that is not JSON.");
  }
  const { error } = chunk;
  if (error) throw new Failure(error.code === "context_length_exceeded" ? "context" : "server", error.message);
  return chunk;
}

function* parts({ choices, usage, timings, prompt_progress }) {
  const { delta, finish_reason } = choices?.[0] ?? {};
  if (prompt_progress) yield { progress: prompt_progress };
  if (delta?.reasoning_content) yield { reasoning: delta.reasoning_content };
  if (delta?.content) yield { text: delta.content };
  if (usage) yield { usage };
  if (timings) yield { timings };
  if (finish_reason) yield { finish: finish_reason };
}

/** The data of server-sent events. Comments, which keep the connection alive, are left out. */
async function* events(stream) {
  let data = [];
  for await (const line of lines(stream)) {
    if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
    if (line || !data.length) continue;
    yield data.join("\n");
    data = [];
  }
}

async function* lines(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const whole = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = whole.pop();
      for (const line of whole) yield line.endsWith("\r") ? line.slice(0, -1) : line;
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure("cut");
  } finally {
    reader.cancel().catch(() => {});
  }
}
