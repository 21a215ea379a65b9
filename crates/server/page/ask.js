// An answer while it comes: from the question to the last part, with the waiting when the server is busy.

import { prompt } from "./conversation.js";
import { announce } from "./dom.js";
import { key, settings } from "./settings.js";
import { answer, Failure } from "./stream.js";

const TRIES_MAX = 20;

/**
 * What is known of an answer that is on its way, beside the message: `phase` ("reading" the prompt, "thinking", "answering", or
 * "waiting" to ask again) and `since` when; `progress` of reading; while waiting `why` and `until` when. Times are those of
 * `performance.now`.
 */
export class Ask {
  constructor(conversation, index) {
    const now = performance.now();
    this.conversation = conversation;
    this.message = conversation.messages[index];
    this.controller = new AbortController();
    Object.assign(this, { phase: "reading", since: now, asked: now, first: 0, last: 0 });
  }

  /** Fills the message, and calls `changed()` whenever something is new. It never fails: what goes wrong is in the message. */
  async run(model, changed) {
    const { message } = this;
    for (const name of ["reasoning", "thinking_ms", "finish", "failure", "stats"]) delete message[name];
    Object.assign(message, { content: "", created: Date.now() });
    try {
      await this.#persist(model, changed);
    } catch (error) {
      if (this.controller.signal.aborted) message.finish = "stopped";
      else message.failure = (error instanceof Failure ? error : new Failure("server", String(error))).toJSON();
    }
    if (this.phase === "thinking") message.thinking_ms = performance.now() - this.since;
    const stats = this.#stats();
    if (stats) message.stats = stats;
  }

  stop() {
    this.controller.abort();
  }

  /** Asks again while the server says that it may be able to answer later, more slowly each time. */
  async #persist(model, changed) {
    for (let tries = 1; ; tries++) {
      try {
        return await this.#once(model, changed);
      } catch (error) {
        if (!error.wait_ms || tries === TRIES_MAX) throw error;
        await this.#wait(error, tries, changed);
      }
    }
  }

  async #wait(error, tries, changed) {
    const ms = error.wait_ms * tries;
    Object.assign(this, { why: error.message, until: performance.now() + ms });
    this.#enter("waiting");
    changed();
    await pause(ms, this.controller.signal);
    this.asked = performance.now();
    this.#enter("reading");
    changed();
  }

  async #once(model, changed) {
    const { name, parameters } = await model();
    this.message.model = name;
    for await (const part of answer(this.#body(name, parameters), key(), this.controller.signal)) {
      this.#take(part);
      changed();
    }
  }

  #body(model, parameters) {
    const { system, effort, temperature } = settings;
    return {
      model,
      messages: prompt(this.conversation, this.message.parent, system),
      stream: true,
      stream_options: { include_usage: true },
      ...(temperature !== "" && { temperature: Number(temperature) }),
      ...(effort && { reasoning_effort: effort }),
      // An extension of llama.cpp's; a strict server refuses what it does not know.
      ...(parameters.includes("return_progress") && { return_progress: true }),
    };
  }

  #take({ progress, reasoning, text, usage, timings, finish }) {
    const { message } = this;
    if (progress) this.progress = progress;
    if (reasoning) {
      this.#enter("thinking");
      message.reasoning = (message.reasoning ?? "") + reasoning;
    }
    if (text) {
      if (this.phase === "thinking") message.thinking_ms = performance.now() - this.since;
      this.#enter("answering");
      message.content += text;
    }
    if (reasoning || text) this.last = performance.now();
    if (usage) this.usage = usage;
    if (timings) this.timings = timings;
    if (finish) message.finish = finish;
  }

  #enter(phase) {
    if (this.phase === phase) return;
    const now = performance.now();
    Object.assign(this, { phase, since: now });
    if (phase === "thinking" || phase === "answering") this.first ||= now;
    announce({ thinking: "Thinking", answering: "Answering", waiting: this.why, reading: "Asking again" }[phase]);
  }

  /** By the server's clock if it tells, else by this one's. */
  #stats() {
    const { usage, timings } = this;
    if (!usage) return null;
    const cached_n = usage.prompt_tokens_details?.cached_tokens ?? 0;
    return {
      prompt_n: usage.prompt_tokens,
      cached_n,
      read_n: timings?.prompt_n ?? usage.prompt_tokens - cached_n,
      read_ms: timings?.prompt_ms ?? this.first - this.asked,
      predicted_n: usage.completion_tokens,
      predicted_ms: timings?.predicted_ms ?? this.last - this.first,
    };
  }
}

/** Fails when `signal` is aborted. */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
