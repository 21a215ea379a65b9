//! How much reasoning a request allows, in the words of everybody who has a field for it.

use crate::fields::{Field, Fields, Kind, acts, whole};

/// Fields beside those that are inside of others: `thinking`, `reasoning`, `chat_template_kwargs`.
pub(crate) const BUDGETS: [Field; 5] = [
    acts(
        "thinking_budget",
        Kind::Int(-1, i64::MAX),
        "The most tokens of reasoning: behind them its end is written for the model, which then answers. 0 for none, -1 for no bound.",
    ),
    acts("thinking_token_budget", Kind::Int(-1, i64::MAX), "The same, as vLLM has it."),
    acts("thinking_budget_tokens", Kind::Int(-1, i64::MAX), "The same, as llama.cpp has it."),
    acts("reasoning_budget_tokens", Kind::Int(-1, i64::MAX), "The same."),
    acts("reasoning_budget", Kind::Int(-1, i64::MAX), "The same."),
];

/// What such a field inside of another says of it.
pub(crate) const SAME: &str = "The same as thinking_budget.";

/// The most tokens of reasoning, if the request says, in fields that were checked; the first that is there counts.
pub(crate) fn n_reasoning_max(fields: &Fields<'_>) -> Option<usize> {
    let inside = |object, name: &str| whole(fields.any(object)?.get(name)?);
    let n = BUDGETS.iter().find_map(|field| fields.int(field.name));
    let n = n.or_else(|| inside("thinking", "budget_tokens"));
    let n = n.or_else(|| inside("reasoning", "max_tokens"));
    let n = n.or_else(|| inside("chat_template_kwargs", "thinking_budget"));
    n.map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::dialect::chat;

    #[test]
    fn every_spelling_of_a_budget_is_understood() {
        let asked = |request: Value| n_reasoning_max(&Fields::of(&request, chat::FIELDS).unwrap());
        for one in [
            json!({"thinking_budget": 7}),
            json!({"thinking_token_budget": 7.0}),
            json!({"thinking_budget_tokens": 7}),
            json!({"reasoning_budget_tokens": 7}),
            json!({"reasoning_budget": 7}),
            json!({"thinking": {"type": "enabled", "budget_tokens": 7}}),
            json!({"reasoning": {"max_tokens": 7}}),
            json!({"chat_template_kwargs": {"thinking_budget": 7}}),
            json!({"thinking_budget": 7, "reasoning": {"max_tokens": 8}}),
        ] {
            assert_eq!(asked(one.clone()), Some(7), "{one}");
        }
        assert_eq!(asked(json!({"thinking_budget": -1})), Some(usize::MAX));
        assert_eq!(asked(json!({"thinking_budget": null, "reasoning": {"effort": "low"}})), None);
        assert!(Fields::of(&json!({"thinking_budget": -2}), chat::FIELDS).is_err());
    }
}
