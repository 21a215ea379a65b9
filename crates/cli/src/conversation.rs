//! A conversation: lines go in, answers and notes come out. Knows no keyboard, so tests can talk to it.

mod named;

use std::{fs, io::Write, path::Path};

use engine::Stop;
use models::{Effort, effort_named, grant};

use crate::{
    dialogue::Dialogue,
    error::Error,
    interrupt::Work,
    prompt,
    sessions::{SessionName, Sessions},
    speaker::Speaker,
    terminal::{self, Screen},
};

pub(crate) const HELP: &str = "\
/help         this
/status       model, context, settings
/think        reason before answering; /think low, high or max says how hard
/nothink      answer at once
/read FILE    ask what a text file says
/ctx N        make room for N tokens; the conversation goes on
/clear        forget the conversation
/save NAME    keep the conversation under a name from now on
/list         the conversations that have one
/switch NAME  go on with another
/del NAME     delete one
/quit         leave, as does Ctrl+D

A backslash at the end of a line continues on the next; a pasted block is one message.
A message that begins with a slash: put a space in front. Ctrl+C stops an answer.
";

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Say(&'a str),
    Help,
    Status,
    Think(Option<Effort>),
    NoThink,
    Read(&'a str),
    Ctx(usize),
    Clear,
    Save(SessionName),
    List,
    Switch(SessionName),
    Delete(SessionName),
    Quit,
    /// Cannot be done, and why.
    Wrong(String),
}

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Line,
    Quit,
}

/// A dialogue, line by line.
pub(crate) struct Conversation<'a, W> {
    speaker: &'a mut dyn Speaker,
    screen: Screen<W>,
    /// Where notes go, line by line.
    note: &'a mut dyn FnMut(&str),
    dialogue: Dialogue,
    /// Where conversations with a name are; `None` if nothing is to be kept, or nobody knows where.
    sessions: Option<Sessions>,
}

impl<'a, W: Write> Conversation<'a, W> {
    /// Goes on with `dialogue`.
    pub(crate) fn new(
        speaker: &'a mut dyn Speaker,
        screen: Screen<W>,
        note: &'a mut dyn FnMut(&str),
        dialogue: Dialogue,
        sessions: Option<Sessions>,
    ) -> Conversation<'a, W> {
        Conversation { speaker, screen, note, dialogue, sessions }
    }

    /// Does what a line asks for.
    ///
    /// # Errors
    /// Only what ends the conversation: nobody reads it any more. All else is told, and the conversation goes on.
    pub(crate) fn line(&mut self, line: &str) -> Result<Next, Error> {
        match parse(line) {
            Line::Nothing => {}
            Line::Say(text) => return self.ask(text.into()),
            Line::Help => self.tell(HELP.trim_end()),
            Line::Status => self.status(),
            Line::Think(effort) => self.think(true, effort),
            Line::NoThink => self.think(false, None),
            Line::Read(path) => return self.read(path),
            Line::Ctx(n) => self.resize(n),
            Line::Clear => {
                self.dialogue.clear(self.speaker);
                self.tell("the conversation is forgotten");
                self.keep();
            }
            Line::Save(name) => self.save(name),
            Line::List => self.list(),
            Line::Switch(name) => self.switch(name),
            Line::Delete(name) => self.delete(name),
            Line::Quit => return Ok(Next::Quit),
            Line::Wrong(why) => self.tell(&why),
        }
        Ok(Next::Line)
    }

    fn tell(&mut self, text: &str) {
        text.lines().for_each(|line| (self.note)(line));
    }

    fn tell_error(&mut self, error: &Error) {
        self.tell(&error.report_in_chat());
    }

    fn ask(&mut self, text: String) -> Result<Next, Error> {
        match self.dialogue.ask(self.speaker, &mut self.screen, text) {
            Ok((reply, kept)) => {
                self.tell_stop(reply.stop, kept);
                self.tell(&reply.speed());
                if kept {
                    self.keep();
                }
            }
            Err(e @ Error::Closed) => return Err(e),
            Err(e) => self.tell_error(&e),
        }
        Ok(Next::Line)
    }

    /// Saves the conversation, if it has a name.
    fn keep(&mut self) {
        if let Err(e) = self.dialogue.save(self.speaker) {
            self.tell_error(&e);
        }
    }

    fn tell_stop(&mut self, stop: Stop, kept: bool) {
        match stop {
            Stop::Cancelled if kept => self.tell("stopped; what was said is kept"),
            Stop::Cancelled => self.tell("stopped before an answer; the question is forgotten"),
            Stop::ContextFull => self.tell("the context is full: /ctx N makes more room, /clear forgets"),
            Stop::Repeats => self.tell(terminal::REPEATS),
            Stop::Length if kept => self.tell("the answer reached the length of --tokens"),
            Stop::Length => self.tell("no answer within the length of --tokens; the question is forgotten"),
            Stop::EndOfTurn | Stop::StopString(_) if kept => {}
            Stop::EndOfTurn | Stop::StopString(_) => {
                self.tell("the model had nothing to say; the question is forgotten")
            }
        }
    }

    fn status(&mut self) {
        let thinking = match (self.dialogue.options.thinking, self.dialogue.options.effort) {
            (false, _) => "off",
            (true, None) => "on",
            (true, Some(effort)) => effort.name(),
        };
        let lines = self.speaker.status();
        lines.iter().for_each(|line| self.tell(line));
        self.tell(&format!("thinking  {thinking}"));
        self.tell(&format!("messages  {}", self.dialogue.n_said()));
        if let Some(held) = &self.dialogue.held {
            let line = format!("session   {}, {}", held.name, held.path().display());
            self.tell(&line);
        }
    }

    /// Reason from now on, or do not.
    fn think(&mut self, thinking: bool, effort: Option<Effort>) {
        let granted = self.speaker.chat().and_then(|chat| Ok(grant(chat, Some(thinking), effort)?));
        match granted {
            Ok(options) => {
                self.dialogue.options = options;
                self.tell(&match effort {
                    Some(effort) => format!("the model reasons before it answers, effort {}", effort.name()),
                    None if thinking => "the model reasons before it answers".into(),
                    None => "answers come at once".into(),
                });
                self.keep();
            }
            Err(e) => self.tell(&e.to_string()),
        }
    }

    fn read(&mut self, path: &str) -> Result<Next, Error> {
        let work = Work::begin();
        let text = read_regular(Path::new(path));
        let stopped = work.interrupted();
        drop(work);
        match text {
            _ if stopped => self.tell("stopped; the file is not asked"),
            Ok(text) if text.trim().is_empty() => self.tell(&format!("{path} is empty")),
            Ok(text) => return self.ask(text),
            Err(e) => self.tell_error(&e),
        }
        Ok(Next::Line)
    }

    fn resize(&mut self, n_ctx: usize) {
        match self.speaker.resize(n_ctx) {
            Ok(()) => self.tell(&format!("room for {n_ctx} tokens")),
            Err(e) => self.tell_error(&e),
        }
    }
}

/// All of a text file. A pipe or a device may keep the conversation waiting for ever.
fn read_regular(path: &Path) -> Result<String, Error> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(Error::NotAFile { path: path.into() }),
        Ok(_) => prompt::read_file(path),
        Err(source) => Err(Error::Read { path: path.into(), source }),
    }
}

/// A line that begins with a slash and a word is a command; one that begins with a path is not.
fn parse(line: &str) -> Line<'_> {
    if line.trim().is_empty() {
        return Line::Nothing;
    }
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let is_command = |name: &str| name.chars().all(|c| c.is_ascii_alphabetic() || c == '-');
    match word.strip_prefix('/').filter(|name| is_command(name)) {
        Some(name) => command(name, rest.trim()),
        None => Line::Say(line.trim()),
    }
}

fn command<'a>(name: &str, rest: &'a str) -> Line<'a> {
    let bare = |line| if rest.is_empty() { line } else { Line::Wrong(format!("/{name} takes nothing behind it")) };
    match name {
        "help" => bare(Line::Help),
        "status" => bare(Line::Status),
        "think" => think(rest),
        "think-max" => bare(Line::Think(Some(Effort::Max))),
        "nothink" => bare(Line::NoThink),
        "read" if rest.is_empty() => Line::Wrong("/read FILE: which file?".into()),
        "read" => Line::Read(rest),
        "ctx" => match rest.parse() {
            Ok(n) if n > 0 => Line::Ctx(n),
            _ => Line::Wrong("/ctx N: N is a number of tokens, such as 8192".into()),
        },
        "clear" => bare(Line::Clear),
        "save" => named(name, rest, Line::Save),
        "list" => bare(Line::List),
        "switch" => named(name, rest, Line::Switch),
        "del" => named(name, rest, Line::Delete),
        "quit" | "exit" => bare(Line::Quit),
        "power" => Line::Wrong("/power is not in this version: it always computes at full speed".into()),
        "steer" => Line::Wrong("/steer is not in this version: activations are not steered yet".into()),
        _ => Line::Wrong(format!("unknown command /{name}; /help lists them")),
    }
}

fn named<'a>(command: &str, name: &str, line: fn(SessionName) -> Line<'a>) -> Line<'a> {
    match name.parse() {
        Ok(name) => line(name),
        Err(why) => Line::Wrong(format!("/{command} NAME: {why}")),
    }
}

fn think<'a>(how: &str) -> Line<'a> {
    match effort_named(how) {
        None if how.is_empty() => Line::Think(None),
        None => Line::Wrong("/think takes low, high, max or nothing".into()),
        effort => Line::Think(effort),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use expect_test::{Expect, expect};
    use models::{Chat, ChatOptions, Event, Message, Template};
    use tokenizer::TokenId;

    use super::*;
    use crate::{
        sessions::ModelId,
        speaker::{Ask, Pace, Reply},
        terminal::Reasoning,
    };

    /// Says what it was asked, in words that show the whole conversation.
    pub(super) struct Script {
        chat: Template,
        name: &'static str,
        n_ctx: usize,
        /// A token per message.
        tokens: Vec<TokenId>,
        /// Reasoning and answers, in turn; an answer that ends in `^C` is interrupted there.
        answers: Vec<(&'static str, &'static str)>,
        heard: Vec<String>,
    }

    impl Speaker for Script {
        fn answer(&mut self, ask: Ask<'_>, on: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<Reply, Error> {
            let Ask::Turn(messages, options) = ask else { unreachable!("a conversation has turns") };
            self.heard
                .push(messages.iter().map(|m| format!("{:?}: {}", m.role, m.text)).collect::<Vec<_>>().join(" | "));
            let n = messages.len();
            if n > self.n_ctx {
                return Err(Error::PromptTooLong { n, n_ctx: self.n_ctx });
            }
            let (reasoning, answer) = self.answers.remove(0);
            if options.thinking && !reasoning.is_empty() {
                let _ = on(Event::Thinking(reasoning.into()));
            }
            let said = answer.strip_suffix("^C");
            if !said.unwrap_or(answer).is_empty() {
                let _ = on(Event::Text(said.unwrap_or(answer).into()));
            }
            let stop = if said.is_some() { Stop::Cancelled } else { Stop::EndOfTurn };
            self.tokens = (0..=n as TokenId).collect();
            let pace = Pace { n, seconds: 1.0 };
            Ok(Reply {
                stop,
                reused: n - 1,
                prefill: pace,
                decode: pace,
                reasoning_cut: false,
                n_dropped: 0,
                streamed: None,
            })
        }

        fn chat(&self) -> Result<&dyn Chat, Error> {
            Ok(&self.chat)
        }

        fn resize(&mut self, n_ctx: usize) -> Result<(), Error> {
            self.n_ctx = n_ctx;
            Ok(())
        }

        fn status(&self) -> Vec<String> {
            vec![format!("context   {} tokens", self.n_ctx)]
        }

        fn model(&self) -> ModelId {
            ModelId { name: self.name.into(), family: "script".into(), file_bytes: 1 }
        }

        fn tokens(&self) -> &[TokenId] {
            &self.tokens
        }

        fn recall(&mut self, tokens: Vec<TokenId>) {
            self.tokens = tokens;
        }
    }

    impl Script {
        pub(super) fn new(name: &'static str, answers: &[(&'static str, &'static str)]) -> Script {
            let source = "{{ messages[0].content }}{% if enable_thinking %}<think>{% endif %}";
            let chat = Template::new(source, "", "", []).unwrap();
            Script { chat, name, n_ctx: 8, tokens: Vec::new(), answers: answers.to_vec(), heard: Vec::new() }
        }
    }

    /// What a conversation begins with.
    pub(super) fn dialogue() -> Dialogue {
        Dialogue::new(vec![Message::system("Be brief.")], ChatOptions { thinking: true, ..ChatOptions::default() })
    }

    /// Types `lines`; shows what came to the screen, what was noted and what the model heard.
    fn check(answers: &[(&'static str, &'static str)], lines: &[&str], expect: Expect) {
        expect.assert_eq(&talk(Script::new("script", answers), None, lines));
    }

    pub(super) fn talk(mut script: Script, sessions: Option<Sessions>, lines: &[&str]) -> String {
        let (mut out, mut notes) = (Vec::new(), String::new());
        let mut note = |line: &str| notes += &format!("* {line}\n");
        let screen = Screen::new(&mut out, true, Reasoning::Tagged);
        let mut conversation = Conversation::new(&mut script, screen, &mut note, dialogue(), sessions);
        let ended = lines.iter().any(|line| conversation.line(line).unwrap() == Next::Quit);
        drop(conversation);
        let ended = if ended { "bye\n" } else { "" };
        let heard = script.heard.join("\n");
        format!("{}--\n{notes}--\n{heard}\n{ended}", String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_conversation_is_kept() {
        check(
            &[("", "Hello."), ("hm", "Two.")],
            &["Hi", "1+1?", "/status", "/quit"],
            expect![[r#"
            Hello.
            <think>
            hm
            </think>

            Two.
            --
            * prefill 2 tokens 2.0 t/s (1 known), decode 2 tokens 2.0 t/s
            * prefill 4 tokens 4.0 t/s (3 known), decode 4 tokens 4.0 t/s
            * context   8 tokens
            * thinking  on
            * messages  4
            --
            System: Be brief. | User: Hi
            System: Be brief. | User: Hi | Assistant: Hello. | User: 1+1?
            bye
        "#]],
        );
    }

    #[test]
    fn an_interrupted_answer_is_kept_and_one_that_never_began_is_not() {
        check(
            &[("", "One, t^C"), ("hm", "^C"), ("", "Yes.")],
            &["Count", "More", "Well?"],
            expect![[r#"
            One, t
            <think>
            hm
            </think>

            Yes.
            --
            * stopped; what was said is kept
            * prefill 2 tokens 2.0 t/s (1 known), decode 2 tokens 2.0 t/s
            * stopped before an answer; the question is forgotten
            * prefill 4 tokens 4.0 t/s (3 known), decode 4 tokens 4.0 t/s
            * prefill 4 tokens 4.0 t/s (3 known), decode 4 tokens 4.0 t/s
            --
            System: Be brief. | User: Count
            System: Be brief. | User: Count | Assistant: One, t | User: More
            System: Be brief. | User: Count | Assistant: One, t | User: Well?
        "#]],
        );
    }

    #[test]
    fn a_prompt_that_does_not_fit_is_told_and_forgotten() {
        check(
            &[("", "Now.")],
            &["/ctx 1", "Hi", "/ctx 9", "Hi"],
            expect![[r#"
            Now.
            --
            * room for 1 tokens
            * error: the prompt has 2 tokens, but the context holds 1, the answer included
            * help: make room with /ctx, at least 3, or ask for less
            * room for 9 tokens
            * prefill 2 tokens 2.0 t/s (1 known), decode 2 tokens 2.0 t/s
            --
            System: Be brief. | User: Hi
            System: Be brief. | User: Hi
        "#]],
        );
    }

    #[test]
    fn reasoning_is_switched_as_far_as_the_model_goes() {
        let lines = ["Why?", "/nothink", "Why?", "/status", "/think max", "/think", "/status"];
        check(
            &[("hm", "So."), ("hm", "So.")],
            &lines,
            expect![[r#"
            <think>
            hm
            </think>

            So.
            So.
            --
            * prefill 2 tokens 2.0 t/s (1 known), decode 2 tokens 2.0 t/s
            * answers come at once
            * prefill 4 tokens 4.0 t/s (3 known), decode 4 tokens 4.0 t/s
            * context   8 tokens
            * thinking  off
            * messages  4
            * this model cannot be told how hard to reason: its chat template does not ask
            * the model reasons before it answers
            * context   8 tokens
            * thinking  on
            * messages  4
            --
            System: Be brief. | User: Why?
            System: Be brief. | User: Why? | Assistant: So. | User: Why?
        "#]],
        );
    }

    #[test]
    fn clear_keeps_the_system_prompt() {
        check(
            &[("", "A."), ("", "B.")],
            &["a", "/clear", "b"],
            expect![[r#"
            A.
            B.
            --
            * prefill 2 tokens 2.0 t/s (1 known), decode 2 tokens 2.0 t/s
            * the conversation is forgotten
            * prefill 2 tokens 2.0 t/s (1 known), decode 2 tokens 2.0 t/s
            --
            System: Be brief. | User: a
            System: Be brief. | User: b
        "#]],
        );
    }

    #[test]
    fn reading_a_file_asks_it() {
        let path = std::env::temp_dir().join(format!("ds4-read-{}.txt", std::process::id()));
        std::fs::write(&path, "What is this?\n").unwrap();
        check(
            &[("", "A file.")],
            &[&format!("/read {}", path.display()), "/read /nowhere/at/all", "/read /"],
            expect![[r#"
            A file.
            --
            * prefill 2 tokens 2.0 t/s (1 known), decode 2 tokens 2.0 t/s
            * error: /nowhere/at/all: no such file or directory
            * help: check the path
            * error: /: is no ordinary file
            * help: give a text file
            --
            System: Be brief. | User: What is this?

        "#]],
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn lines_are_commands_only_if_they_look_like_one() {
        let wrong = |line| match parse(line) {
            Line::Wrong(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(parse("/usr/bin/ls lists"), Line::Say("/usr/bin/ls lists"));
        assert_eq!(parse(" /help"), Line::Say("/help"));
        assert_eq!(parse("/think max"), Line::Think(Some(Effort::Max)));
        assert_eq!(parse("/ctx 4096"), Line::Ctx(4096));
        assert_eq!(parse("/read a b.txt"), Line::Read("a b.txt"));
        assert_eq!(parse("  "), Line::Nothing);
        assert_eq!(wrong("/hepl"), "unknown command /hepl; /help lists them");
        assert_eq!(wrong("/ctx 8K5"), "/ctx N: N is a number of tokens, such as 8192");
        assert_eq!(wrong("/quit now"), "/quit takes nothing behind it");
        assert_eq!(parse("/save work"), Line::Save("work".parse().unwrap()));
        for line in ["/save", "/switch a/b", "/del .."] {
            assert!(wrong(line).contains(" NAME: a name is 1 to 64 letters"), "{line}");
        }
    }
}
