//! Conversations under names: `/save`, `/list`, `/switch`, `/del`.

use std::io::Write;

use super::Conversation;
use crate::{
    dialogue::{Wishes, age},
    error::Error,
    sessions::{Listed, SessionName, Sessions},
};

impl<W: Write> Conversation<'_, W> {
    pub(super) fn save(&mut self, name: SessionName) {
        self.try_or_tell(|this, sessions| this.try_save(sessions, &name));
    }

    pub(super) fn list(&mut self) {
        self.try_or_tell(|this, sessions| {
            let all = sessions.list()?;
            this.tell(&table(&all, this.name()));
            Ok(())
        });
    }

    pub(super) fn switch(&mut self, name: SessionName) {
        self.try_or_tell(|this, sessions| this.try_switch(sessions, &name));
    }

    pub(super) fn delete(&mut self, name: SessionName) {
        self.try_or_tell(|this, sessions| this.try_delete(sessions, &name));
    }

    fn try_or_tell(&mut self, act: impl FnOnce(&mut Self, &Sessions) -> Result<(), Error>) {
        let Some(sessions) = self.sessions.clone() else {
            return self.tell("there is no folder to keep conversations in: give one with --kv-disk-dir at the start");
        };
        if let Err(e) = act(self, &sessions) {
            self.tell_error(&e);
        }
    }

    /// The name of this conversation.
    fn name(&self) -> Option<&SessionName> {
        self.dialogue.held.as_ref().map(|held| &held.name)
    }

    fn try_save(&mut self, sessions: &Sessions, name: &SessionName) -> Result<(), Error> {
        if self.name() != Some(name) {
            let held = sessions.hold(name)?;
            if held.is_taken() {
                self.tell(&format!("there is a session {name} already; /switch goes on with it, /del deletes it"));
                return Ok(());
            }
            self.dialogue.held = Some(held);
        }
        self.dialogue.save(self.speaker)?;
        self.tell(&format!("the conversation is kept as {name}"));
        Ok(())
    }

    fn try_switch(&mut self, sessions: &Sessions, name: &SessionName) -> Result<(), Error> {
        if self.name() == Some(name) {
            self.tell(&format!("this is session {name}"));
            return Ok(());
        }
        let held = sessions.hold(name)?;
        let Some(saved) = held.read()? else {
            self.tell(&format!("there is no session {name}; /list names them, /save {name} makes one"));
            return Ok(());
        };
        self.dialogue.save(self.speaker)?;
        if self.name().is_none() && self.dialogue.n_said() > 0 {
            self.tell("the conversation so far had no name, and is forgotten");
        }
        self.dialogue.resume(held, Some(saved), Wishes::default(), self.speaker, self.note);
        Ok(())
    }

    fn try_delete(&mut self, sessions: &Sessions, name: &SessionName) -> Result<(), Error> {
        let is_this = self.name() == Some(name);
        let held = if is_this { self.dialogue.held.take() } else { None };
        let is_gone = held.map_or_else(|| sessions.hold(name), Ok)?.remove()?;
        self.tell(&match (is_gone, is_this) {
            (_, true) => format!("session {name} is deleted; the conversation goes on without a name"),
            (true, false) => format!("session {name} is deleted"),
            (false, false) => format!("there is no session {name}; /list names them"),
        });
        Ok(())
    }
}

/// A line for each, and a star before `current`.
fn table(all: &[Listed], current: Option<&SessionName>) -> String {
    if all.is_empty() {
        return "no conversation has a name yet; /save NAME gives this one a name".into();
    }
    let width = all.iter().map(|l| l.name.to_string().len()).max().unwrap_or(0).max("session".len());
    let mut out = format!("  {:width$}  messages   tokens  last used\n", "session");
    for Listed { name, saved } in all {
        let star = if Some(name) == current { '*' } else { ' ' };
        let line = match saved {
            Ok(saved) => {
                format!(
                    "{:>8}  {:>7}  {} ago",
                    saved.messages.len() - saved.n_opening(),
                    saved.tokens.len(),
                    age(saved.used_s)
                )
            }
            Err(e) => e.to_string(),
        };
        out += &format!("{star} {:width$}  {line}\n", name.to_string());
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use expect_test::{Expect, expect};

    use super::{
        super::tests::{Script, talk},
        *,
    };

    /// A folder for conversations, in a folder that is removed at the end.
    fn folder() -> (tempfile::TempDir, Sessions) {
        let dir = tempfile::tempdir().unwrap();
        let sessions = Sessions::beside(dir.path());
        (dir, sessions)
    }

    /// What was told and heard when these `lines` were typed to a model that says "A", "B" and so on.
    fn check(model: &'static str, dir: &Path, lines: &[&str], expect: Expect) {
        let answers = [("", "A"), ("hm", "B"), ("", "C"), ("", "D")];
        let told = talk(Script::new(model, &answers), Some(Sessions::beside(dir)), lines);
        let told = told.split_once("--\n").unwrap().1.replace(&*dir.to_string_lossy(), "DIR");
        let told: Vec<_> = told.lines().filter(|line| !line.starts_with("* prefill")).map(seconds).collect();
        expect.assert_eq(&(told.join("\n") + "\n"));
    }

    /// However long a test takes.
    fn seconds(line: &str) -> String {
        match line.split_once(" s ago").and_then(|(before, behind)| Some((before.rsplit_once(' ')?.0, behind))) {
            Some((before, behind)) => format!("{before} N s ago{behind}"),
            None => line.into(),
        }
    }

    #[test]
    fn a_conversation_with_a_name_is_gone_on_with() {
        let (dir, _) = folder();
        check(
            "script",
            dir.path(),
            &["a", "/save work", "b", "/list", "/status", "/clear", "/status"],
            expect![[r#"
                * the conversation is kept as work
                *   session  messages   tokens  last used
                * * work            4        5  N s ago
                * context   8 tokens
                * thinking  on
                * messages  4
                * session   work, DIR/sessions/work.json
                * the conversation is forgotten
                * context   8 tokens
                * thinking  on
                * messages  0
                * session   work, DIR/sessions/work.json
                --
                System: Be brief. | User: a
                System: Be brief. | User: a | Assistant: A | User: b
            "#]],
        );
        check(
            "script",
            dir.path(),
            &["/switch work", "a", "/nothink", "/save work"],
            expect![[r#"
            * session work: 0 messages, 0 tokens, last used N s ago
            * answers come at once
            * the conversation is kept as work
            --
            System: Be brief. | User: a
        "#]],
        );
        check(
            "other",
            dir.path(),
            &["/switch work", "b", "/status"],
            expect![[r#"
            * session work: 2 messages, 3 tokens, last used N s ago
            * it was held with script: other reads it anew
            * context   8 tokens
            * thinking  off
            * messages  4
            * session   work, DIR/sessions/work.json
            --
            System: Be brief. | User: a | Assistant: A | User: b
        "#]],
        );
    }

    #[test]
    fn conversations_are_switched_between_and_deleted() {
        let (dir, _) = folder();
        check(
            "script",
            dir.path(),
            &[
                "/list",
                "/switch x",
                "/del x",
                "a",
                "/save x",
                "/save y",
                "b",
                "/switch x",
                "/save y",
                "c",
                "/switch x",
                "/list",
                "/del y",
                "/del x",
                "/status",
                "/list",
                "d",
            ],
            expect![[r#"
                * no conversation has a name yet; /save NAME gives this one a name
                * there is no session x; /list names them, /save x makes one
                * there is no session x; /list names them
                * the conversation is kept as x
                * the conversation is kept as y
                * session x: 2 messages, 3 tokens, last used N s ago
                * there is a session y already; /switch goes on with it, /del deletes it
                * this is session x
                *   session  messages   tokens  last used
                * * x               4        5  N s ago
                *   y               4        5  N s ago
                * session y is deleted
                * session x is deleted; the conversation goes on without a name
                * context   8 tokens
                * thinking  on
                * messages  4
                * no conversation has a name yet; /save NAME gives this one a name
                --
                System: Be brief. | User: a
                System: Be brief. | User: a | Assistant: A | User: b
                System: Be brief. | User: a | Assistant: A | User: c
                System: Be brief. | User: a | Assistant: A | User: c | Assistant: C | User: d
            "#]],
        );
        assert_eq!(fs::read_dir(dir.path().join("sessions")).unwrap().count(), 0);
    }

    #[test]
    fn an_unnamed_conversation_is_not_lost_in_silence() {
        let (dir, _) = folder();
        check(
            "script",
            dir.path(),
            &["a", "/save x"],
            expect![[r#"
            * the conversation is kept as x
            --
            System: Be brief. | User: a
        "#]],
        );
        check(
            "script",
            dir.path(),
            &["b", "/switch x"],
            expect![[r#"
            * the conversation so far had no name, and is forgotten
            * session x: 2 messages, 3 tokens, last used N s ago
            --
            System: Be brief. | User: b
        "#]],
        );
    }

    #[test]
    fn a_broken_file_and_one_that_is_in_use_stay_as_they_are() {
        let (dir, sessions) = folder();
        let _held = sessions.hold(&"used".parse().unwrap()).unwrap();
        fs::write(dir.path().join("sessions/bad.json"), "{").unwrap();
        check(
            "script",
            dir.path(),
            &["/switch bad", "/save bad", "/save used", "/del used", "/switch used", "/list"],
            expect![[r#"
                * error: DIR/sessions/bad.json: is no session: EOF while parsing an object at line 1 column 1
                * help: docs/formats/session.md says what it should be
                * there is a session bad already; /switch goes on with it, /del deletes it
                * error: session used: another process goes on with it
                * help: end it first, or give another name
                * error: session used: another process goes on with it
                * help: end it first, or give another name
                * error: session used: another process goes on with it
                * help: end it first, or give another name
                *   session  messages   tokens  last used
                *   bad      DIR/sessions/bad.json: is no session: EOF while parsing an object at line 1 column 1
                --

            "#]],
        );
        assert_eq!(fs::read_to_string(dir.path().join("sessions/bad.json")).unwrap(), "{");
    }
}
