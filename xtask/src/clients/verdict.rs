//! What a client's run must have come to, told from its output and from what went over the wire.

use serde_json::{Map, Value};

use super::{
    http::Message,
    proxy::Exchange,
    script::{Asked, FOUND, PLAIN, REASONING},
};

/// Two turns of a conversation: one whose answer makes a call, and the one that tells the call's result.
#[derive(Clone, Debug)]
pub(crate) struct Loop {
    pub(crate) first: Exchange,
    pub(crate) second: Exchange,
}

/// Tokens, as the server counted them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) n_prompt: u64,
    pub(crate) n_cached: u64,
    pub(crate) n_answer: u64,
}

/// That nothing the client asked was refused.
pub(crate) fn nothing_was_refused(exchanges: &[Exchange]) -> Result<(), String> {
    let is_asked = |exchange: &&Exchange| exchange.request.start.starts_with("POST");
    match exchanges.iter().filter(is_asked).find(|exchange| exchange.reply.status() != 200) {
        Some(Exchange { request, reply }) => {
            Err(format!("{} was answered with {}: {}", request.path(), reply.status(), reply.text()))
        }
        None if exchanges.is_empty() => Err("it asked nothing".into()),
        None => Ok(()),
    }
}

/// That the client shows what the model said last.
pub(crate) fn answer_is_shown(output: &str, secret: Option<&str>) -> Result<(), String> {
    let said = secret.map_or_else(|| PLAIN.to_owned(), |secret| format!("{FOUND}{secret}."));
    if output.contains(&said) { Ok(()) } else { Err(format!("its output lacks `{said}`")) }
}

/// The turns in which a file's secret word was asked for and told.
///
/// # Errors
/// There are none.
pub(crate) fn tool_loop(exchanges: &[Exchange], secret: &str) -> Result<Loop, String> {
    let result = |exchange: &Exchange| {
        let asked = Asked::read(exchange.request.path(), &exchange.request.json()?)?;
        asked.results.into_iter().find(|(_, text)| text.contains(secret)).map(|(id, _)| (id, exchange.clone()))
    };
    let (id, second) = exchanges.iter().find_map(result).ok_or("the result of the call was never sent")?;
    let made = |exchange: &&Exchange| exchange.reply.text().contains(&id);
    let first = exchanges.iter().find(made).ok_or_else(|| format!("a result of {id} was sent, which nobody called"))?;
    Ok(Loop { first: first.clone(), second })
}

impl Loop {
    /// Whether the client has sent back what the model thought.
    pub(crate) fn tells_reasoning(&self) -> bool {
        let mut body = self.second.request.json().unwrap_or_default();
        body["structured_outputs"] = Value::Null; // what the proxy adds is not the client's
        body.to_string().contains(REASONING)
    }

    /// That all of the first turn was known in the second. Returns how many tokens that were, of how many.
    ///
    /// # Errors
    /// It was not.
    pub(crate) fn is_known(&self) -> Result<(u64, u64), String> {
        let first = usage(&self.first).ok_or("the first turn says nothing of its tokens")?;
        let second = usage(&self.second).ok_or("the second turn says nothing of its tokens")?;
        // The last token of an answer is computed with what comes behind it.
        let n_known = first.n_prompt + first.n_answer - 1;
        match second.n_cached >= n_known {
            true => Ok((second.n_cached, second.n_prompt)),
            false => Err(format!(
                "{} tokens of the next turn were known, but the first had {} and its answer {}",
                second.n_cached, first.n_prompt, first.n_answer
            )),
        }
    }
}

/// What an answer says of its tokens.
pub(crate) fn usage(exchange: &Exchange) -> Option<Usage> {
    let told = told(&exchange.reply)?;
    let n = |names: &[&str]| names.iter().find_map(|name| told.get(*name)?.as_u64());
    let details = |names: &[&str]| names.iter().find_map(|name| told.get(*name)?.get("cached_tokens")?.as_u64());
    let (n_asked, n_answer) = (n(&["prompt_tokens", "input_tokens"])?, n(&["completion_tokens", "output_tokens"])?);
    Some(match n(&["cache_read_input_tokens"]) {
        Some(n_cached) => Usage { n_prompt: n_asked + n_cached, n_cached, n_answer },
        None => {
            let n_cached = details(&["prompt_tokens_details", "input_tokens_details"])?;
            Usage { n_prompt: n_asked, n_cached, n_answer }
        }
    })
}

/// The fields of usage in a reply, or in the events of one, of which the last hold.
fn told(reply: &Message) -> Option<Map<String, Value>> {
    let text = reply.text();
    let whole = reply.json();
    let events = text.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok());
    let mut told: Option<Map<String, Value>> = None;
    for value in whole.into_iter().chain(events) {
        for usage in [&value["usage"], &value["response"]["usage"], &value["message"]["usage"]] {
            if let Value::Object(usage) = usage {
                told.get_or_insert_default().extend(usage.clone());
            }
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn exchange(path: &str, request: &Value, reply: &str) -> Exchange {
        let reply = Message { start: "HTTP/1.1 200 OK".into(), body: reply.into(), ..Message::default() };
        Exchange { request: Message::post(path, request), reply }
    }

    #[test]
    fn all_interfaces_tell_tokens() {
        let expected = Some(Usage { n_prompt: 9, n_cached: 4, n_answer: 2 });
        let chat = r#"{"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}"#;
        assert_eq!(usage(&exchange("/v1/chat/completions", &json!({}), chat)), expected);
        let events = "data: {\"response\":{\"usage\":null}}\n\ndata: {\"response\":{\"usage\":{\"input_tokens\":9,\
                      \"output_tokens\":2,\"input_tokens_details\":{\"cached_tokens\":4}}}}\n\n";
        assert_eq!(usage(&exchange("/v1/responses", &json!({}), events)), expected);
        let events = "data: {\"message\":{\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":4,\
                      \"output_tokens\":0}}}\n\ndata: {\"usage\":{\"output_tokens\":2}}\n\n";
        assert_eq!(usage(&exchange("/v1/messages", &json!({}), events)), expected);
    }

    #[test]
    fn a_loop_is_a_call_and_its_result() {
        let told = json!({"messages": [{"role": "tool", "tool_call_id": "call_1", "content": "word-1"}]});
        let reply = |n: u64| {
            format!(
                r#"{{"id":"call_1","usage":{{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{{"cached_tokens":{n}}}}}}}"#
            )
        };
        let first = exchange("/v1/chat/completions", &json!({"messages": []}), &reply(0));
        let second = |n| exchange("/v1/chat/completions", &told, &reply(n));
        assert!(tool_loop(std::slice::from_ref(&first), "word-1").is_err());
        let found = tool_loop(&[first.clone(), second(9)], "word-1").unwrap();
        assert_eq!(found.first.request.json().unwrap(), json!({"messages": []}));
        assert!(found.is_known().is_err());
        assert_eq!(Loop { first, second: second(10) }.is_known(), Ok((10, 9)));
    }
}
