//! One question, one answer: the answer to stdout, all else to stderr.

use engine::Stop;
use models::Message;

use crate::{
    args::ChatArgs,
    dialogue::{Dialogue, Wishes},
    error::Error,
    sessions::{Held, Saved},
    speaker::{Ask, Local, Reply, Speaker, show},
    terminal::{self, Screen},
};

/// Answers `prompt` with the model and the settings of `args`.
pub(crate) fn run(args: &ChatArgs, prompt: &str) -> Result<(), Error> {
    let held = args.kept.held(&args.model.cache)?;
    let mut model = Local::open(args)?;
    let mut screen = Screen::stdout(args.thinking.show_thinking);
    let (reply, saved) = if args.prompt.raw {
        (show(&mut model, Ask::Raw(prompt), &mut screen, |_| ())?, Ok(()))
    } else {
        let mut dialogue = begin(args, held, &mut model, &mut terminal::note)?;
        let (reply, kept) = dialogue.ask(&mut model, &mut screen, prompt.into())?;
        if !kept && reply.stop == Stop::EndOfTurn {
            terminal::note(
                "the model ended without an answer; --show-thinking shows what it thought, --nothink has it answer at once",
            );
        }
        (reply, keep(&dialogue, &model, kept))
    };
    terminal::note(&reply.speed());
    model.finish()?;
    conclude(&reply).and(saved)
}

/// The conversation that `args` ask for: a new one, or one that is gone on with.
///
/// # Errors
/// What the model cannot do.
pub(crate) fn begin(
    args: &ChatArgs,
    held: Option<(Held, Option<Saved>)>,
    speaker: &mut dyn Speaker,
    note: &mut dyn FnMut(&str),
) -> Result<Dialogue, Error> {
    let opening: Vec<_> = args.prompt.system.iter().filter(|text| !text.is_empty()).map(Message::system).collect();
    let options = args.thinking.granted(speaker.chat()?)?;
    let wishes = Wishes {
        opening: args.prompt.system.is_some().then(|| opening.clone()),
        options: args.thinking.says().then(|| options.clone()),
    };
    let mut dialogue = Dialogue::new(opening, options);
    if let Some((held, saved)) = held {
        dialogue.resume(held, saved, wishes, speaker, note);
    }
    Ok(dialogue)
}

/// Saves a conversation that has a name, or tells that there is nothing new to save.
fn keep(dialogue: &Dialogue, speaker: &dyn Speaker, kept: bool) -> Result<(), Error> {
    match &dialogue.held {
        Some(held) if !kept => {
            terminal::note(&format!("session {}: there was no answer, so nothing is added", held.name))
        }
        _ => dialogue.save(speaker)?,
    }
    Ok(())
}

/// What the answer's end means for the program's.
fn conclude(reply: &Reply) -> Result<(), Error> {
    match reply.stop {
        Stop::Cancelled => return Err(Error::Interrupted),
        Stop::ContextFull => terminal::note("the context is full, the answer may be unfinished; --ctx makes more room"),
        Stop::Repeats => terminal::note(terminal::REPEATS),
        Stop::Length => terminal::note("the answer reached the length of --tokens and may be unfinished"),
        Stop::EndOfTurn | Stop::StopString(_) => {}
    }
    Ok(())
}
