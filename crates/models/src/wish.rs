//! What is asked about reasoning, held against what the model's template makes of it.
//!
//! A template that does not know a wish ignores it. So a wish that changes no prompt is refused: it would have been
//! ignored in silence.

use crate::chat::{Chat, ChatError, ChatOptions, Effort, Message};

/// Why a wish is not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// To think, with a model that cannot.
    #[error("this model does not reason: its chat template has no place for it")]
    CannotThink,
    /// Not to, with one that always does.
    #[error("this model always reasons: its chat template has no way to ask for an answer at once")]
    AlwaysThinks,
    /// To think so hard, with one that has no such notion.
    #[error("this model cannot be told how hard to reason: its chat template does not ask")]
    NoEffort,
    /// Nothing can be asked of it.
    #[error(transparent)]
    Chat(#[from] ChatError),
}

/// The ways to say how hard.
pub const EFFORTS: [Effort; 3] = [Effort::Low, Effort::High, Effort::Max];

/// The effort that is called `name`.
pub fn effort_named(name: &str) -> Option<Effort> {
    EFFORTS.into_iter().find(|effort| effort.name() == name)
}

/// The options that grant a wish; without one (`None`), a model that can reason does.
///
/// # Errors
/// What the model cannot do, or is wrong with its template.
pub fn grant(chat: &dyn Chat, wanted: Option<bool>, effort: Option<Effort>) -> Result<ChatOptions, WishError> {
    let thinking = wanted.unwrap_or(chat.can_think());
    let options = ChatOptions { thinking, effort, ..ChatOptions::default() };
    if thinking && !chat.can_think() {
        return Err(WishError::CannotThink);
    }
    if wanted == Some(false) && chat.can_think() && !differ(chat, [(true, None), (false, None)])? {
        return Err(WishError::AlwaysThinks);
    }
    // One of the words may well mean what happens anyway.
    let words = [None].into_iter().chain(EFFORTS.map(Some));
    if effort.is_some() && !differ(chat, words.map(|effort| (true, effort)))? {
        return Err(WishError::NoEffort);
    }
    Ok(options)
}

/// Whether a question is put in different ways under these settings.
fn differ(chat: &dyn Chat, settings: impl IntoIterator<Item = (bool, Option<Effort>)>) -> Result<bool, ChatError> {
    let question = [Message::user("Why?")];
    let prompt =
        |(thinking, effort)| chat.render(&question, &ChatOptions { thinking, effort, ..ChatOptions::default() });
    let prompts = settings.into_iter().map(prompt).collect::<Result<Vec<_>, _>>()?;
    Ok(prompts.windows(2).any(|pair| pair[0] != pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Template,
        deepseek_v4::{DeepSeekV4, Release},
    };

    fn check(template: &str, wanted: Option<bool>, effort: Option<Effort>, expect: Result<bool, &str>) {
        let chat = Template::new(template, "", "", []).unwrap();
        let granted = grant(&chat, wanted, effort).map(|o| o.thinking).map_err(|e| e.to_string());
        match (granted, expect) {
            (Ok(thinking), Ok(expected)) => assert_eq!(thinking, expected, "{template}"),
            (Err(e), Err(expected)) => assert!(e.contains(expected), "{e}"),
            (granted, _) => panic!("{granted:?} for {template}"),
        }
    }

    #[test]
    fn a_wish_that_changes_no_prompt_is_refused() {
        const NEVER: &str = "{{ messages[0].content }}";
        const ALWAYS: &str = "{{ messages[0].content }}<think>";
        const MAY: &str = "{{ messages[0].content }}{% if enable_thinking %}<think>{% endif %}";
        const HOW: &str = "<think>{{ reasoning_effort }}";
        check(NEVER, None, None, Ok(false));
        check(NEVER, Some(false), None, Ok(false));
        check(NEVER, Some(true), None, Err("does not reason"));
        check(ALWAYS, None, None, Ok(true));
        check(ALWAYS, Some(false), None, Err("always reasons"));
        check(MAY, Some(false), None, Ok(false));
        check(MAY, Some(true), Some(Effort::Max), Err("how hard"));
        check(HOW, Some(true), Some(Effort::Low), Ok(true));
    }

    #[test]
    fn deepseek_v4_takes_every_wish() {
        for release in [Release::April, Release::July] {
            let chat = DeepSeekV4 { release };
            for effort in EFFORTS {
                assert!(grant(&chat, Some(true), Some(effort)).is_ok());
            }
            assert!(grant(&chat, Some(false), None).is_ok());
        }
    }
}
