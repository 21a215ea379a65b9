//! What agents send back after a call, in the shapes that were recorded of them: all of the first turn is known in the second, in the
//! same server and in the next one.

use crate::common::{Running, Setup, start};
use engine::Kept;
use serde_json::{Value, json};

const CALL: &str = "I wonder.</think>Let me look.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"look\">\n<｜DSML｜parameter \
    name=\"path\" string=\"true\">a \"b\"</｜DSML｜parameter>\n<｜DSML｜parameter name=\"n\" string=\"false\">[1, 2]</｜DSML｜parameter>\n\
    </｜DSML｜invoke>\n</｜DSML｜tool_calls>";
const SEEN: &str = "I see.</think>It is a file.";

/// An agent: how it asks first, and what it sends when it has the answer and the call's result.
struct Agent {
    name: &'static str,
    path: &'static str,
    asks: fn() -> Value,
    goes_on: fn(&mut Value, &Value),
    /// Tokens of a prompt, those of it that were known, and tokens of the answer.
    usage: fn(&Value) -> [u64; 3],
    /// It sends all that there was, so that a server that has never seen it knows it, too.
    sends_all: bool,
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"path": {"type": "string"}, "n": {"type": "array"}}, "required": ["path"]})
}

/// Long enough that some of it is kept for itself.
fn instructions() -> String {
    "You are an agent, and careful. ".repeat(20)
}

const AGENTS: [Agent; 4] = [
    Agent {
        name: "Codex",
        path: "/v1/responses",
        asks: || {
            let message = |role, text: &str| json!({"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]});
            json!({
                "input": [message("developer", &instructions()), message("user", "<cwd>/x</cwd>"), message("user", "Look.")],
                "tools": [
                    {"type": "function", "name": "look", "description": "Looks.", "strict": false, "parameters": schema()},
                    {"type": "web_search"},
                ],
                "tool_choice": "auto", "parallel_tool_calls": true, "store": false, "prompt_cache_key": "1",
                "include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"},
            })
        },
        goes_on: |request, reply| {
            let items = request["input"].as_array_mut().expect("it is one");
            items.extend(reply["output"].as_array().expect("it is one").iter().cloned());
            let id = items.last().expect("there are some")["call_id"].clone();
            items.push(json!({"type": "function_call_output", "call_id": id, "output": "A file."}));
        },
        usage: |reply| {
            let usage = &reply["usage"];
            [&usage["input_tokens"], &usage["input_tokens_details"]["cached_tokens"], &usage["output_tokens"]]
                .map(number)
        },
        sends_all: true,
    },
    Agent {
        name: "Claude Code",
        path: "/v1/messages",
        asks: || {
            let cached = json!({"type": "ephemeral"});
            json!({
                "system": [
                    {"type": "text", "text": "x-anthropic-billing-header: a=1"},
                    {"type": "text", "text": instructions(), "cache_control": cached},
                ],
                "messages": [{"role": "user", "content": [{"type": "text", "text": "Look.", "cache_control": cached}]}],
                "tools": [{"name": "look", "description": "Looks.", "input_schema": schema()}],
                "max_tokens": 1000, "thinking": {"type": "adaptive", "display": "omitted"},
                "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
                "output_config": {"effort": "high"},
            })
        },
        goes_on: |request, reply| {
            request["system"][0]["text"] = json!("x-anthropic-billing-header: a=2");
            let messages = request["messages"].as_array_mut().expect("it is one");
            // What was marked as worth keeping is the newest block.
            messages[0]["content"][0].as_object_mut().expect("it is one").remove("cache_control");
            messages.push(json!({"role": "assistant", "content": reply["content"]}));
            let result = json!({
                "type": "tool_result", "tool_use_id": reply["content"][2]["id"], "content": "A file.",
                "cache_control": {"type": "ephemeral"},
            });
            messages.push(json!({"role": "user", "content": [result]}));
        },
        usage: |reply| {
            let usage = &reply["usage"];
            let n_known = number(&usage["cache_read_input_tokens"]);
            [number(&usage["input_tokens"]) + n_known, n_known, number(&usage["output_tokens"])]
        },
        sends_all: true,
    },
    Agent {
        name: "opencode",
        path: "/v1/chat/completions",
        asks: asks_in_chat,
        goes_on: |request, reply| {
            let message = compact(&reply["choices"][0]["message"]);
            go_on_in_chat(request, message);
        },
        usage: usage_in_chat,
        sends_all: true,
    },
    Agent {
        name: "Continue",
        path: "/v1/chat/completions",
        asks: asks_in_chat,
        goes_on: |request, reply| {
            let mut message = compact(&reply["choices"][0]["message"]);
            message.as_object_mut().expect("it is one").remove("reasoning_content");
            go_on_in_chat(request, message);
        },
        usage: usage_in_chat,
        sends_all: false,
    },
];

fn asks_in_chat() -> Value {
    json!({
        "messages": [{"role": "system", "content": instructions()}, {"role": "user", "content": "Look."}],
        "tools": [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": schema()}}],
    })
}

/// A message whose arguments were read and written again, without spaces.
fn compact(message: &Value) -> Value {
    let mut message = message.clone();
    let arguments = &mut message["tool_calls"][0]["function"]["arguments"];
    let read: Value = serde_json::from_str(arguments.as_str().expect("a text")).expect("JSON");
    *arguments = json!(read.to_string());
    message
}

fn go_on_in_chat(request: &mut Value, message: Value) {
    let messages = request["messages"].as_array_mut().expect("it is one");
    let result = json!({"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "A file."});
    messages.extend([message, result]);
}

fn usage_in_chat(reply: &Value) -> [u64; 3] {
    let usage = &reply["usage"];
    [&usage["prompt_tokens"], &usage["prompt_tokens_details"]["cached_tokens"], &usage["completion_tokens"]].map(number)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// A grammar of this text alone, as the server cuts it: one that is cut otherwise is known only to the server that said it.
fn script(server: &Running, text: &str) -> Value {
    let reply = server.post("/tokenize", &json!({"content": text, "parse_special": true})).json();
    let tokens = reply["tokens"].as_array().expect("they are a list").iter().map(|id| format!("<[{id}]>"));
    json!({"grammar": format!("start: {}", tokens.collect::<Vec<_>>().join(" ")), "raw": true})
}

fn answer(server: &Running, agent: &Agent, request: &Value, text: &str) -> Value {
    let mut request = request.clone();
    request["structured_outputs"] = script(server, text);
    let reply = server.post(agent.path, &request);
    assert_eq!(reply.status, 200, "{}: {}", agent.name, reply.body);
    reply.json()
}

#[test]
fn a_turn_is_known_in_the_next_and_after_a_restart() {
    for agent in &AGENTS {
        let folder = tempfile::tempdir().expect("a folder");
        let setup = || {
            let (ram_bytes, disk_bytes, written_bytes_per_day) = (64 << 20, 64 << 20, 1 << 40);
            let kept = Kept { dir: Some(folder.path().into()), ram_bytes, disk_bytes, written_bytes_per_day };
            start(Setup { kept: Some(kept), n_ctx: 8192, ..Setup::default() })
        };
        let server = setup();
        let mut request = (agent.asks)();
        let first = answer(&server, agent, &request, CALL);
        let [n_prompt, _, n_answer] = (agent.usage)(&first);
        // The last token of an answer is computed with what comes behind it.
        let n_known = n_prompt + n_answer - 1;
        (agent.goes_on)(&mut request, &first);
        let second = answer(&server, agent, &request, SEEN);
        let known = |reply: &Value| (agent.usage)(reply)[1];
        assert!(known(&second) >= n_known, "{}: {} of {n_known} were known", agent.name, known(&second));
        server.end();
        if agent.sends_all {
            let again = answer(&setup(), agent, &request, SEEN);
            assert!(known(&again) >= n_known, "{}, restarted: {} of {n_known} were known", agent.name, known(&again));
        }
    }
}
