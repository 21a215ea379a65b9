//! Requests of Claude Code and of SDKs, and streams on paper.

use engine::{SamplerOptions, Stop};
use expect_test::{Expect, expect};

use super::*;
use crate::dialect::{
    content::show,
    script::{calls, choice, ends, ends_malformed, says, streamed, thinks, without_ids},
};

fn check(request: Value, expect: Expect) {
    let read = Fields::of(&request, FIELDS).and_then(|fields| {
        let sampling = sampling(&fields, &SamplerOptions::default(), None)?;
        let (n_max, stop, sealed) = (n_max(&fields), stop(&fields, "stop_sequences")?, is_sealed(&fields));
        let more = format!("t {}, n_max {n_max:?}, stop {stop:?}, sealed {sealed}\n", sampling.temperature);
        Ok(show(&conversation(&fields, &sealer())?) + &more)
    });
    expect.assert_eq(&read.unwrap_or_else(|refusal| refusal.message));
}

fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new([0; 32]))
}

fn telling() -> Telling {
    Telling { model: "m".into(), sealed: false, sealer: sealer() }
}

#[test]
fn what_claude_code_sends_is_understood() {
    let cache = json!({"type": "ephemeral"});
    check(
        json!({
            "model": "deepseek-v4-flash",
            "system": [
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.330; cch=1a2b3;"},
                {"type": "text", "text": "You are Claude Code.", "cache_control": cache},
                {"type": "text", "text": "Be brief.", "cache_control": cache},
            ],
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "<system-reminder>x</system-reminder>"},
                    {"type": "text", "text": "List files.", "cache_control": cache},
                ]},
                {"role": "system", "content": "Skills: none."},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "", "signature": sealer().seal("I list.")},
                    {"type": "text", "text": "Now."},
                    {"type": "tool_use", "id": "call_1", "name": "Bash", "input": {"command": "ls", "b": 1}, "caller": {"type": "direct"}},
                    {"type": "tool_use", "id": "call_2", "name": "Bash", "input": {"command": "rm"}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": "a.txt", "is_error": false},
                    {"type": "tool_result", "tool_use_id": "call_2", "content": [{"type": "text", "text": "denied"}],
                     "is_error": true, "cache_control": cache},
                ]},
            ],
            "tools": [
                {"name": "Bash", "description": "Runs.", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}},
                {"name": "WebFetch", "input_schema": {"type": "object"}, "defer_loading": true},
            ],
            "max_tokens": 32000,
            "thinking": {"type": "adaptive", "display": "omitted"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "output_config": {"effort": "high"},
            "metadata": {"user_id": "x"},
            "stream": true,
        }),
        expect![[r#"
            system "You are Claude Code.\n\nBe brief."
            user "<system-reminder>x</system-reminder>\n\nList files."
            system "Skills: none."
            assistant thinks "I list."
            assistant "Now."
            assistant calls call_1 Bash {"command":"ls","b":1}
            assistant calls call_2 Bash {"command":"rm"}
            tool call_1 "a.txt"
            tool call_2 "Error: denied"
            tool {"name":"Bash","description":"Runs.","parameters":{"type":"object","properties":{"command":{"type":"string"}}}}
            tool {"name":"WebFetch","parameters":{"type":"object"}}
            call Auto, one false, thinking None, effort Some(High), end Answer
            t 1, n_max Some(32000), stop [], sealed true
        "#]],
    );
}

#[test]
fn what_the_sdks_send_is_understood() {
    check(
        json!({"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well,"}],
               "system": "Be brief.", "temperature": 0.5, "stop_sequences": ["###"], "service_tier": "auto",
               "thinking": {"type": "enabled", "budget_tokens": 2048}}),
        expect![[r####"
            system "Be brief."
            user "Hi"
            assistant "Well,"
            at most 2048 tokens of reasoning
            call Auto, one false, thinking Some(true), effort Some(Low), end Continue
            t 0.5, n_max Some(100), stop ["###"], sealed false
        "####]],
    );
    check(
        json!({"messages": [{"role": "user", "content": "Hi"}], "thinking": {"type": "disabled"},
               "tools": [{"type": "custom", "name": "f", "input_schema": {}}],
               "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true}}),
        expect![[r#"
            user "Hi"
            tool {"name":"f","parameters":{}}
            call Must(Some("f")), one true, thinking Some(false), effort None, end Answer
            t 1, n_max None, stop [], sealed false
        "#]],
    );
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let with = |name: &str, value: Value| {
        let mut request = json!({"messages": [{"role": "user", "content": "Hi"}]});
        request[name] = value;
        request
    };
    check(
        with("tools", json!([{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}])),
        expect![
            "tools[0].type: web_search_20250305 is Anthropic's to run or to describe; tools here need an input_schema"
        ],
    );
    check(with("tools", json!([{"name": "f"}])), expect!["tools[0].input_schema: is missing"]);
    check(
        with("tools", json!([{"name": "f\">\n", "input_schema": {}}])),
        expect!["tools[0].name: must be a name of 1 to 128 letters, digits and _ - . : /"],
    );
    check(with("tool_choice", json!({"type": "any"})), expect!["tool_choice: there are no tools to call"]);
    check(
        with("mcp_servers", json!([{"type": "url"}])),
        expect!["mcp_servers: can only be []: tools are called by the client, not here"],
    );
    check(
        with("tools", json!([{"name": "f", "input_schema": {}}, {"name": "f", "input_schema": {}}])),
        expect!["tools: two of them are called f"],
    );
    let result = |id: &str| json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id}]});
    let used = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]});
    check(
        with("messages", json!([used, result("2")])),
        expect!["messages[1].content[0].tool_use_id: is the id of no call of the assistant's last turn"],
    );
    check(
        with("messages", json!([used, result("1"), result("1")])),
        expect!["messages[2].content[0].tool_use_id: is the id of a call that has its result already"],
    );
    check(
        with("messages", json!([{"role": "user", "content": [{"type": "tool_result"}]}])),
        expect!["messages[0].content[0].tool_use_id: is missing"],
    );
    let thought = json!({"type": "thinking", "thinking": "So", "signature": sealer().seal("So") + "!"});
    check(
        with("messages", json!([{"role": "assistant", "content": [thought]}])),
        expect!["messages[0].content[0].signature: was changed: send it back as it came, or leave it out"],
    );
    check(with("best_effort", json!(1)), expect!["best_effort: there is no such field"]);
    check(
        with("messages", json!([{"role": "user", "content": [{"type": "image", "source": {}}]}])),
        expect!["messages[0].content[0]: blocks of type image cannot be read here: the model reads text only"],
    );
    check(
        with("messages", json!([{"role": "tool", "content": ""}])),
        expect!["messages[0].role: must be one of user, assistant, system"],
    );
    check(
        with("messages", json!([{"role": "user", "content": [{"type": "tool_use", "id": "1", "name": "f"}]}])),
        expect!["messages[0].content[0]: blocks of type tool_use cannot be read here: the model reads text only"],
    );
}

fn script() -> Vec<Said> {
    let mut script = vec![Said::Begun, thinks("Wh"), thinks("y"), says("So"), says(".")];
    script.extend(calls(0, "f", &["{\"a\":", "1}"]));
    script.extend(calls(1, "g", &["{}"]));
    script
}

#[test]
fn an_answer_is_a_stream_of_blocks() {
    let mut script = script();
    script.push(ends(Stop::EndOfTurn, 2));
    expect![[r#"
        event: message_start
        data: {"type":"message_start","message":{"id":"msg_ID","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}

        event: ping
        data: {"type":"ping"}

        event: content_block_start
        data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Wh"}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"y"}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"r1:6d3b74ff:0fd7f5859fbfa1635f0f20ba38084ec095deb4dc0fb4a886c59e3e0712da2749:Why"}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":0}

        event: content_block_start
        data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"So"}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"."}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":1}

        event: content_block_start
        data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"call_0","name":"f","input":{}}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":2}

        event: content_block_start
        data: {"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"call_1","name":"g","input":{}}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{}"}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":3}

        event: message_delta
        data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":40,"cache_creation_input_tokens":0,"cache_read_input_tokens":60,"output_tokens":7}}

        event: message_stop
        data: {"type":"message_stop"}

    "#]].assert_eq(&streamed(Events::new(telling()), script));
}

#[test]
fn reasoning_can_be_sealed() {
    let mut script = script();
    script.push(ends(Stop::EndOfTurn, 2));
    let telling = Telling { sealed: true, ..telling() };
    expect![[r#"{"id":"msg_ID","type":"message","role":"assistant","model":"m","content":[{"type":"thinking","thinking":"","signature":"r1:6d3b74ff:0fd7f5859fbfa1635f0f20ba38084ec095deb4dc0fb4a886c59e3e0712da2749:Why"},{"type":"text","text":"So."},{"type":"tool_use","id":"call_0","name":"f","input":{"a":1}},{"type":"tool_use","id":"call_1","name":"g","input":{}}],"stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":40,"cache_creation_input_tokens":0,"cache_read_input_tokens":60,"output_tokens":7}}"#]].assert_eq(&without_ids(&reply(&telling, &choice(script.clone())).to_string()));
    expect![[r#"
        event: message_start
        data: {"type":"message_start","message":{"id":"msg_ID","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}

        event: ping
        data: {"type":"ping"}

        event: content_block_start
        data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"r1:6d3b74ff:0fd7f5859fbfa1635f0f20ba38084ec095deb4dc0fb4a886c59e3e0712da2749:Why"}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":0}

        event: content_block_start
        data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"So"}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"."}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":1}

        event: content_block_start
        data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"call_0","name":"f","input":{}}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":2}

        event: content_block_start
        data: {"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"call_1","name":"g","input":{}}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{}"}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":3}

        event: message_delta
        data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":40,"cache_creation_input_tokens":0,"cache_read_input_tokens":60,"output_tokens":7}}

        event: message_stop
        data: {"type":"message_stop"}

    "#]].assert_eq(&streamed(Events::new(telling), script));
}

#[test]
fn a_call_that_was_cut_short_is_not_told() {
    let mut script = vec![says("So"), Said::Call(Call { index: 0, id: "call_0".into(), name: "rm".into() })];
    script.extend([Said::Arguments(0, "{\"path\":\"/".into()), ends(Stop::Length, 0)]);
    expect![[r#"{"id":"msg_ID","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"So"}],"stop_reason":"max_tokens","stop_sequence":null,"usage":{"input_tokens":40,"cache_creation_input_tokens":0,"cache_read_input_tokens":60,"output_tokens":7}}"#]].assert_eq(&without_ids(&reply(&telling(), &choice(script.clone())).to_string()));
    expect![[r#"
        event: message_start
        data: {"type":"message_start","message":{"id":"msg_ID","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}

        event: ping
        data: {"type":"ping"}

        event: content_block_start
        data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"So"}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":0}

        event: message_delta
        data: {"type":"message_delta","delta":{"stop_reason":"max_tokens","stop_sequence":null},"usage":{"input_tokens":40,"cache_creation_input_tokens":0,"cache_read_input_tokens":60,"output_tokens":7}}

        event: message_stop
        data: {"type":"message_stop"}

    "#]].assert_eq(&streamed(Events::new(telling()), script));
}

#[test]
fn the_end_says_why() {
    let reason = |stop| reply(&telling(), &choice(vec![says("x"), ends(stop, 0)]))["stop_reason"].clone();
    assert_eq!(reason(Stop::EndOfTurn), "end_turn");
    assert_eq!(reason(Stop::ContextFull), "max_tokens");
    assert_eq!(reason(Stop::StopString(0)), "stop_sequence");
    let malformed = vec![says("x"), ends_malformed()];
    assert_eq!(reply(&telling(), &choice(malformed.clone()))["finish_detail"], "malformed_tool_call");
    let told = r#""delta":{"stop_reason":"end_turn","stop_sequence":null,"finish_detail":"malformed_tool_call"}"#;
    assert!(streamed(Events::new(telling()), malformed).contains(told));
    let failed = vec![says("x"), Said::Failed(Refusal::ending())];
    expect![[r#"
        event: message_start
        data: {"type":"message_start","message":{"id":"msg_ID","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}

        event: ping
        data: {"type":"ping"}

        event: content_block_start
        data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}

        event: error
        data: {"type":"error","error":{"type":"overloaded_error","message":"the server is shutting down; try again"}}

    "#]].assert_eq(&streamed(Events::new(telling()), failed));
}
