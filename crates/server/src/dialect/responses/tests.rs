//! Requests of Codex and of SDKs, and streams on paper.

use engine::{SamplerOptions, Stop};
use expect_test::{Expect, expect};

use super::*;
use crate::{
    dialect::{
        content::show,
        script::{calls, choice, ends, says, streamed, thinks, without_ids},
    },
    said::{Call, Said},
};

fn check(request: Value, expect: Expect) {
    let read = Fields::of(&request, FIELDS).and_then(|fields| {
        sampling(&fields, &SamplerOptions::default(), None)?;
        let (conversation, telling) = read_fields(&fields, "m", &sealer())?;
        let Telling { summary, sealed, .. } = telling;
        let more = format!("n_max {:?}, summary {summary}, sealed {sealed}\n", n_max(&fields));
        Ok(show(&conversation) + &more)
    });
    expect.assert_eq(&read.unwrap_or_else(|refusal| refusal.message));
}

fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new([0; 32]))
}

fn telling() -> Telling {
    let function = Origin { shown: "f".into(), name: "f".into(), namespace: None, custom: false };
    let origins = vec![
        Origin { shown: "mcp__x__g".into(), name: "g".into(), namespace: Some("mcp__x".into()), custom: false },
        Origin { shown: "apply_patch".into(), name: "apply_patch".into(), custom: true, ..function.clone() },
        function,
    ];
    let head = Map::from_iter([("id".to_owned(), json!("resp_1"))]);
    Telling { head, origins, summary: false, sealed: false, sealer: sealer() }
}

#[test]
fn what_codex_sends_is_understood() {
    let message = |role: &str, kind: &str, text: &str| json!({"type": "message", "role": role, "content": [{"type": kind, "text": text}]});
    check(
        json!({
            "model": "deepseek-v4-flash",
            "instructions": "You are Codex.",
            "input": [
                message("developer", "input_text", "<permissions>"),
                message("developer", "input_text", "<apps>"),
                message("user", "input_text", "<environment_context>"),
                message("user", "input_text", "List files."),
                {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "I list."}],
                 "content": null, "encrypted_content": sealer().seal("I list.")},
                message("assistant", "output_text", "Now."),
                {"type": "function_call", "id": "fc_1", "name": "exec", "namespace": "shell", "arguments": "{\"cmd\": \"ls\"}", "call_id": "call_1"},
                {"type": "custom_tool_call", "status": "completed", "call_id": "call_2", "name": "apply_patch", "input": "*** Begin"},
                {"type": "function_call_output", "call_id": "call_1", "output": "a.txt"},
                {"type": "custom_tool_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "done"}]},
            ],
            "tools": [
                {"type": "function", "name": "update_plan", "description": "Plans.", "strict": false, "parameters": {"type": "object"}},
                {"type": "namespace", "name": "shell", "description": "", "tools": [
                    {"type": "function", "name": "exec", "strict": false, "parameters": {"type": "object"}}]},
                {"type": "custom", "name": "apply_patch", "description": "Patches.",
                 "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"}},
                {"type": "web_search", "external_web_access": false},
            ],
            "tool_choice": "auto",
            "parallel_tool_calls": false,
            "reasoning": {"effort": "medium", "summary": "auto"},
            "store": false,
            "stream": true,
            "include": ["reasoning.encrypted_content"],
            "prompt_cache_key": "x",
            "text": {"verbosity": "low"},
            "client_metadata": {"x": "y"},
        }),
        expect![[r#"
            system "You are Codex.\n\n<permissions>\n\n<apps>"
            user "<environment_context>\n\nList files."
            assistant thinks "I list."
            assistant "Now."
            assistant calls call_1 shell__exec {"cmd": "ls"}
            assistant calls call_2 apply_patch {"input":"*** Begin"}
            tool call_1 "a.txt"
            tool call_2 "done"
            tool {"name":"update_plan","description":"Plans.","parameters":{"type":"object"}}
            tool {"name":"shell__exec","parameters":{"type":"object"}}
            tool {"name":"apply_patch","description":"Patches.\n\nThe input must follow this grammar:\nstart: x","parameters":{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}}
            call Auto, one true, thinking None, effort Some(High), end Answer
            n_max None, summary true, sealed true
        "#]],
    );
}

#[test]
fn what_the_sdks_send_is_understood() {
    check(
        json!({"model": "m", "input": "Hi", "max_output_tokens": 9}),
        expect![[r#"
            user "Hi"
            call Auto, one false, thinking None, effort None, end Answer
            n_max Some(9), summary false, sealed false
        "#]],
    );
    check(
        json!({"input": [{"role": "user", "content": "Hi"},
                         {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}], "encrypted_content": "gAAAA"}],
               "tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "function", "name": "f"},
               "reasoning": {"effort": "none"}, "text": {"format": {"type": "text"}}}),
        expect![[r#"
            user "Hi"
            assistant thinks "a"
            assistant ""
            tool {"name":"f","parameters":{"type":"object","properties":{}}}
            call Must(Some("f")), one false, thinking Some(false), effort None, end Answer
            n_max None, summary false, sealed false
        "#]],
    );
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let with = |name: &str, value: Value| {
        let mut request = json!({"input": "Hi"});
        request[name] = value;
        request
    };
    check(
        with("previous_response_id", json!("resp_1")),
        expect!["previous_response_id: can only be null: nothing is stored; replay the full input"],
    );
    check(
        with("conversation", json!({"id": "x"})),
        expect!["conversation: can only be null: nothing is stored; replay the full input"],
    );
    check(with("store", json!(true)), expect!["store: can only be false: nothing is stored for later requests"]);
    check(
        with("tools", json!([{"type": "code_interpreter"}])),
        expect!["tools[0]: tools of type code_interpreter cannot be called from here"],
    );
    check(
        with("tools", json!([{"type": "namespace", "name": "a\">\n", "tools": []}])),
        expect!["tools[0].name: must be a name of 1 to 128 letters, digits and _ - . : /"],
    );
    check(with("tool_choice", json!("required")), expect!["tool_choice: there are no tools to call"]);
    check(
        with("text", json!({"format": {"type": "grammar"}})),
        expect!["text.format.type: must be one of text, json_object, json_schema"],
    );
    check(
        with("input", json!([{"type": "item_reference", "id": "x"}])),
        expect!["input[0]: items of type item_reference cannot be read here"],
    );
    check(with("input", json!([])), expect!["input: is empty"]);
    check(with("top_logprobs", json!(21)), expect!["top_logprobs: must be a whole number from 0 to 20"]);
    check(with("best_effort", json!(1)), expect!["best_effort: there is no such field"]);
}

#[test]
fn an_answer_is_a_stream_of_items() {
    let mut script = vec![Said::Begun, thinks("Wh"), thinks("y"), says("So"), says(".")];
    script.extend(calls(0, "mcp__x__g", &["{\"a\":", "1}"]));
    script.extend(calls(1, "apply_patch", &["{\"input\":\"***", " Begin\"}"]));
    script.push(ends(Stop::EndOfTurn, 2));
    expect![[r#"{"id":"resp_1","status":"completed","error":null,"incomplete_details":null,"output":[{"id":"rs_ID","type":"reasoning","summary":[],"content":[{"type":"reasoning_text","text":"Why"}]},{"id":"msg_ID","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"So.","annotations":[],"logprobs":[]}]},{"id":"fc_ID","type":"function_call","status":"completed","call_id":"call_0","name":"g","namespace":"mcp__x","arguments":"{\"a\":1}"},{"id":"fc_ID","type":"custom_tool_call","status":"completed","call_id":"call_1","name":"apply_patch","input":"*** Begin"}],"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":60},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":107}}"#]].assert_eq(&without_ids(&reply(&telling(), &choice(script.clone())).to_string()));
    expect![[r#"
        event: response.created
        data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_1","tools":[],"status":"in_progress","error":null,"incomplete_details":null,"output":[],"usage":null}}

        event: response.in_progress
        data: {"type":"response.in_progress","sequence_number":1,"response":{"id":"resp_1","tools":[],"status":"in_progress","error":null,"incomplete_details":null,"output":[],"usage":null}}

        event: response.output_item.added
        data: {"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"id":"rs_ID","type":"reasoning","summary":[]}}

        event: response.content_part.added
        data: {"type":"response.content_part.added","sequence_number":3,"content_index":0,"part":{"type":"reasoning_text","text":""},"item_id":"rs_ID","output_index":0}

        event: response.reasoning_text.delta
        data: {"type":"response.reasoning_text.delta","sequence_number":4,"content_index":0,"delta":"Wh","item_id":"rs_ID","output_index":0}

        event: response.reasoning_text.delta
        data: {"type":"response.reasoning_text.delta","sequence_number":5,"content_index":0,"delta":"y","item_id":"rs_ID","output_index":0}

        event: response.reasoning_text.done
        data: {"type":"response.reasoning_text.done","sequence_number":6,"content_index":0,"text":"Why","item_id":"rs_ID","output_index":0}

        event: response.content_part.done
        data: {"type":"response.content_part.done","sequence_number":7,"content_index":0,"part":{"type":"reasoning_text","text":"Why"},"item_id":"rs_ID","output_index":0}

        event: response.output_item.done
        data: {"type":"response.output_item.done","sequence_number":8,"output_index":0,"item":{"id":"rs_ID","type":"reasoning","summary":[],"content":[{"type":"reasoning_text","text":"Why"}]}}

        event: response.output_item.added
        data: {"type":"response.output_item.added","sequence_number":9,"output_index":1,"item":{"id":"msg_ID","type":"message","status":"in_progress","role":"assistant","content":[]}}

        event: response.content_part.added
        data: {"type":"response.content_part.added","sequence_number":10,"content_index":0,"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]},"item_id":"msg_ID","output_index":1}

        event: response.output_text.delta
        data: {"type":"response.output_text.delta","sequence_number":11,"content_index":0,"delta":"So","logprobs":[],"item_id":"msg_ID","output_index":1}

        event: response.output_text.delta
        data: {"type":"response.output_text.delta","sequence_number":12,"content_index":0,"delta":".","logprobs":[],"item_id":"msg_ID","output_index":1}

        event: response.output_text.done
        data: {"type":"response.output_text.done","sequence_number":13,"content_index":0,"text":"So.","logprobs":[],"item_id":"msg_ID","output_index":1}

        event: response.content_part.done
        data: {"type":"response.content_part.done","sequence_number":14,"content_index":0,"part":{"type":"output_text","text":"So.","annotations":[],"logprobs":[]},"item_id":"msg_ID","output_index":1}

        event: response.output_item.done
        data: {"type":"response.output_item.done","sequence_number":15,"output_index":1,"item":{"id":"msg_ID","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"So.","annotations":[],"logprobs":[]}]}}

        event: response.output_item.added
        data: {"type":"response.output_item.added","sequence_number":16,"output_index":2,"item":{"id":"fc_ID","type":"function_call","status":"in_progress","call_id":"call_0","name":"g","namespace":"mcp__x","arguments":""}}

        event: response.function_call_arguments.delta
        data: {"type":"response.function_call_arguments.delta","sequence_number":17,"delta":"{\"a\":","item_id":"fc_ID","output_index":2}

        event: response.function_call_arguments.delta
        data: {"type":"response.function_call_arguments.delta","sequence_number":18,"delta":"1}","item_id":"fc_ID","output_index":2}

        event: response.function_call_arguments.done
        data: {"type":"response.function_call_arguments.done","sequence_number":19,"name":"g","arguments":"{\"a\":1}","item_id":"fc_ID","output_index":2}

        event: response.output_item.done
        data: {"type":"response.output_item.done","sequence_number":20,"output_index":2,"item":{"id":"fc_ID","type":"function_call","status":"completed","call_id":"call_0","name":"g","namespace":"mcp__x","arguments":"{\"a\":1}"}}

        event: response.output_item.added
        data: {"type":"response.output_item.added","sequence_number":21,"output_index":3,"item":{"id":"fc_ID","type":"custom_tool_call","status":"in_progress","call_id":"call_1","name":"apply_patch","input":""}}

        event: response.custom_tool_call_input.delta
        data: {"type":"response.custom_tool_call_input.delta","sequence_number":22,"delta":"*** Begin","item_id":"fc_ID","output_index":3}

        event: response.custom_tool_call_input.done
        data: {"type":"response.custom_tool_call_input.done","sequence_number":23,"input":"*** Begin","item_id":"fc_ID","output_index":3}

        event: response.output_item.done
        data: {"type":"response.output_item.done","sequence_number":24,"output_index":3,"item":{"id":"fc_ID","type":"custom_tool_call","status":"completed","call_id":"call_1","name":"apply_patch","input":"*** Begin"}}

        event: response.completed
        data: {"type":"response.completed","sequence_number":25,"response":{"id":"resp_1","status":"completed","error":null,"incomplete_details":null,"output":[{"id":"rs_ID","type":"reasoning","summary":[],"content":[{"type":"reasoning_text","text":"Why"}]},{"id":"msg_ID","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"So.","annotations":[],"logprobs":[]}]},{"id":"fc_ID","type":"function_call","status":"completed","call_id":"call_0","name":"g","namespace":"mcp__x","arguments":"{\"a\":1}"},{"id":"fc_ID","type":"custom_tool_call","status":"completed","call_id":"call_1","name":"apply_patch","input":"*** Begin"}],"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":60},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":107}}}

    "#]].assert_eq(&streamed(Events::new(telling()), script));
}

#[test]
fn reasoning_is_told_as_asked() {
    let script = vec![thinks("Why"), ends(Stop::EndOfTurn, 0)];
    let telling = Telling { summary: true, sealed: true, ..telling() };
    expect![[r#"{"id":"resp_1","status":"completed","error":null,"incomplete_details":null,"output":[{"id":"rs_ID","type":"reasoning","summary":[{"type":"summary_text","text":"Why"}],"encrypted_content":"r1:6d3b74ff:0fd7f5859fbfa1635f0f20ba38084ec095deb4dc0fb4a886c59e3e0712da2749:Why"}],"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":60},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":107}}"#]].assert_eq(&without_ids(&reply(&telling, &choice(script.clone())).to_string()));
    expect![[r#"
        event: response.created
        data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_1","tools":[],"status":"in_progress","error":null,"incomplete_details":null,"output":[],"usage":null}}

        event: response.in_progress
        data: {"type":"response.in_progress","sequence_number":1,"response":{"id":"resp_1","tools":[],"status":"in_progress","error":null,"incomplete_details":null,"output":[],"usage":null}}

        event: response.output_item.added
        data: {"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"id":"rs_ID","type":"reasoning","summary":[]}}

        event: response.reasoning_summary_part.added
        data: {"type":"response.reasoning_summary_part.added","sequence_number":3,"summary_index":0,"part":{"type":"summary_text","text":""},"item_id":"rs_ID","output_index":0}

        event: response.reasoning_summary_text.delta
        data: {"type":"response.reasoning_summary_text.delta","sequence_number":4,"summary_index":0,"delta":"Why","item_id":"rs_ID","output_index":0}

        event: response.reasoning_summary_text.done
        data: {"type":"response.reasoning_summary_text.done","sequence_number":5,"summary_index":0,"text":"Why","item_id":"rs_ID","output_index":0}

        event: response.reasoning_summary_part.done
        data: {"type":"response.reasoning_summary_part.done","sequence_number":6,"summary_index":0,"part":{"type":"summary_text","text":"Why"},"item_id":"rs_ID","output_index":0}

        event: response.output_item.done
        data: {"type":"response.output_item.done","sequence_number":7,"output_index":0,"item":{"id":"rs_ID","type":"reasoning","summary":[{"type":"summary_text","text":"Why"}],"encrypted_content":"r1:6d3b74ff:0fd7f5859fbfa1635f0f20ba38084ec095deb4dc0fb4a886c59e3e0712da2749:Why"}}

        event: response.completed
        data: {"type":"response.completed","sequence_number":8,"response":{"id":"resp_1","status":"completed","error":null,"incomplete_details":null,"output":[{"id":"rs_ID","type":"reasoning","summary":[{"type":"summary_text","text":"Why"}],"encrypted_content":"r1:6d3b74ff:0fd7f5859fbfa1635f0f20ba38084ec095deb4dc0fb4a886c59e3e0712da2749:Why"}],"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":60},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":107}}}

    "#]].assert_eq(&streamed(Events::new(telling), script));
}

#[test]
fn a_call_that_was_cut_short_is_never_done() {
    let mut script = vec![Said::Call(Call { index: 0, id: "call_0".into(), name: "f".into() })];
    script.extend([Said::Arguments(0, "{\"path\":\"/".into()), ends(Stop::Length, 0)]);
    expect![[r#"
        event: response.created
        data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_1","tools":[],"status":"in_progress","error":null,"incomplete_details":null,"output":[],"usage":null}}

        event: response.in_progress
        data: {"type":"response.in_progress","sequence_number":1,"response":{"id":"resp_1","tools":[],"status":"in_progress","error":null,"incomplete_details":null,"output":[],"usage":null}}

        event: response.output_item.added
        data: {"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"id":"fc_ID","type":"function_call","status":"in_progress","call_id":"call_0","name":"f","arguments":""}}

        event: response.function_call_arguments.delta
        data: {"type":"response.function_call_arguments.delta","sequence_number":3,"delta":"{\"path\":\"/","item_id":"fc_ID","output_index":0}

        event: response.incomplete
        data: {"type":"response.incomplete","sequence_number":4,"response":{"id":"resp_1","status":"incomplete","error":null,"incomplete_details":{"reason":"max_output_tokens"},"output":[],"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":60},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":107}}}

    "#]].assert_eq(&streamed(Events::new(telling()), script));
}

#[test]
fn a_failure_is_the_last_event() {
    let script = vec![says("x"), Said::Failed(Refusal::ending())];
    let stream = streamed(Events::new(telling()), script);
    expect![[r#"
        event: response.failed
        data: {"type":"response.failed","sequence_number":5,"response":{"id":"resp_1","tools":[],"status":"failed","error":{"code":"shutting_down","message":"the server is shutting down; try again"},"incomplete_details":null,"output":[],"usage":null}}"#]].assert_eq(stream.split("\n\n").filter(|event| !event.is_empty()).last().unwrap());
}

#[test]
fn what_comes_behind_a_call_that_broke_off_has_a_place_of_its_own() {
    let call = Call { index: 0, id: "call_0".into(), name: "f".into() };
    let mut script = vec![Said::Call(call), Said::Arguments(0, "{\"a\": 1".into()), says("So.")];
    script.extend(calls(1, "f", &["{}"]));
    script.push(ends(Stop::EndOfTurn, 1));
    let stream = streamed(Events::new(telling()), script);
    let data = stream.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    let added = data.filter(|event| event["type"] == "response.output_item.added");
    assert_eq!(added.map(|event| event["output_index"].clone()).collect::<Vec<_>>(), [0, 1, 2]);
}
