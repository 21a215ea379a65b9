//! A conversation: lines go in, answers and notes come out. Knows no keyboard, so tests can talk to it.

use std::{fs, io::Write, path::Path};

use engine::Stop;
use models::{ChatOptions, Effort, Event, Message};

use crate::{
    error::Error,
    interrupt::Work,
    prompt,
    speaker::{Ask, Speaker, show},
    terminal::Screen,
    thinking::{self, effort_named},
};

pub(crate) const HELP: &str = "\
/help         this
/status       model, context, settings
/think        reason before answering; /think low, high or max says how hard
/nothink      answer at once
/read FILE    ask what a text file says
/ctx N        make room for N tokens; the conversation goes on
/clear        forget the conversation
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

/// All that was said, and how the next answer is to be.
pub(crate) struct Conversation<'a, W> {
    speaker: &'a mut dyn Speaker,
    screen: Screen<W>,
    /// Where notes go, line by line.
    note: &'a mut dyn FnMut(&str),
    opening: Vec<Message>,
    messages: Vec<Message>,
    options: ChatOptions,
}

impl<'a, W: Write> Conversation<'a, W> {
    /// Begins after `opening`, which is never forgotten.
    pub(crate) fn new(
        speaker: &'a mut dyn Speaker,
        screen: Screen<W>,
        note: &'a mut dyn FnMut(&str),
        opening: Vec<Message>,
        options: ChatOptions,
    ) -> Conversation<'a, W> {
        Conversation { speaker, screen, note, messages: opening.clone(), opening, options }
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
                self.messages = self.opening.clone();
                self.tell("the conversation is forgotten");
            }
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

    /// Puts a question, and keeps it with the answer if there was one.
    fn ask(&mut self, text: String) -> Result<Next, Error> {
        self.messages.push(Message::user(text));
        let (mut reasoning, mut answer) = (String::new(), String::new());
        let ask = Ask::Turn(&self.messages, &self.options);
        let reply = show(self.speaker, ask, &mut self.screen, |event| match event {
            Event::Thinking(text) => reasoning.push_str(text),
            Event::Text(text) => answer.push_str(text),
        });
        let kept = reply.is_ok() && !answer.is_empty();
        if kept {
            let message = Message::assistant(answer);
            self.messages.push(if reasoning.is_empty() { message } else { message.with_reasoning(reasoning) });
        } else {
            self.messages.pop();
        }
        match reply {
            Ok(reply) => {
                self.tell_stop(reply.stop, kept);
                self.tell(&reply.speed());
            }
            Err(e @ Error::Closed) => return Err(e),
            Err(e) => self.tell_error(&e),
        }
        Ok(Next::Line)
    }

    fn tell_stop(&mut self, stop: Stop, kept: bool) {
        match stop {
            Stop::Cancelled if kept => self.tell("stopped; what was said is kept"),
            Stop::Cancelled => self.tell("stopped before an answer; the question is forgotten"),
            Stop::ContextFull => self.tell("the context is full: /ctx N makes more room, /clear forgets"),
            Stop::Length if kept => self.tell("the answer reached the length of --tokens"),
            Stop::Length => self.tell("no answer within the length of --tokens; the question is forgotten"),
            Stop::EndOfTurn | Stop::StopString(_) if kept => {}
            Stop::EndOfTurn | Stop::StopString(_) => {
                self.tell("the model had nothing to say; the question is forgotten")
            }
        }
    }

    fn status(&mut self) {
        let said = self.messages.len() - self.opening.len();
        let thinking = match (self.options.thinking, self.options.effort) {
            (false, _) => "off",
            (true, None) => "on",
            (true, Some(effort)) => effort.name(),
        };
        let lines = self.speaker.status();
        lines.iter().for_each(|line| self.tell(line));
        self.tell(&format!("thinking  {thinking}"));
        self.tell(&format!("messages  {said}"));
    }

    /// Reason from now on, or do not.
    fn think(&mut self, thinking: bool, effort: Option<Effort>) {
        let granted = self.speaker.chat().and_then(|chat| thinking::grant(chat, Some(thinking), effort));
        match granted {
            Ok(options) => {
                self.options = options;
                self.tell(&match effort {
                    Some(effort) => format!("the model reasons before it answers, effort {}", effort.name()),
                    None if thinking => "the model reasons before it answers".into(),
                    None => "answers come at once".into(),
                });
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
        "quit" | "exit" => bare(Line::Quit),
        "power" => Line::Wrong("/power is not in this version: it always computes at full speed".into()),
        "steer" => Line::Wrong("/steer is not in this version: activations are not steered yet".into()),
        _ => Line::Wrong(format!("unknown command /{name}; /help lists them")),
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
    use models::{Chat, Template};

    use super::*;
    use crate::{
        speaker::{Pace, Reply},
        terminal::Reasoning,
    };

    /// Says what it was asked, in words that show the whole conversation.
    struct Script {
        chat: Template,
        n_ctx: usize,
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
            let pace = Pace { n, seconds: 1.0 };
            Ok(Reply { stop, reused: n - 1, prefill: pace, decode: pace, streamed: None })
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
    }

    /// Types `lines`; shows what came to the screen, what was noted and what the model heard.
    fn check(answers: &[(&'static str, &'static str)], lines: &[&str], expect: Expect) {
        let source = "{{ messages[0].content }}{% if enable_thinking %}<think>{% endif %}";
        let chat = Template::new(source, "", "", []).unwrap();
        let mut script = Script { chat, n_ctx: 8, answers: answers.to_vec(), heard: Vec::new() };
        let (mut out, mut notes) = (Vec::new(), String::new());
        let mut note = |line: &str| notes += &format!("* {line}\n");
        let screen = Screen::new(&mut out, true, Reasoning::Tagged);
        let options = ChatOptions { thinking: true, ..ChatOptions::default() };
        let opening = vec![Message::system("Be brief.")];
        let mut conversation = Conversation::new(&mut script, screen, &mut note, opening, options);
        let ended = lines.iter().any(|line| conversation.line(line).unwrap() == Next::Quit);
        let ended = if ended { "bye\n" } else { "" };
        let heard = script.heard.join("\n");
        expect.assert_eq(&format!("{}--\n{notes}--\n{heard}\n{ended}", String::from_utf8(out).unwrap()));
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
    }
}
