//! One question, one answer: the answer to stdout, all else to stderr.

use engine::Stop;
use models::Message;

use crate::{
    args::ChatArgs,
    error::Error,
    speaker::{Ask, Local, Reply, Speaker, show},
    terminal::{self, Screen},
    thinking,
};

/// Answers `prompt` with the model and the settings of `args`.
pub(crate) fn run(args: &ChatArgs, prompt: &str) -> Result<(), Error> {
    let sampling = args.sampling.options()?;
    let mut model = Local::open(&args.model, args.prompt.ctx, args.prompt.tokens, sampling)?;
    let mut screen = Screen::stdout(args.thinking.show_thinking);
    let reply = if args.prompt.raw {
        show(&mut model, Ask::Raw(prompt), &mut screen, |_| ())?
    } else {
        let options = thinking::grant(model.chat()?, args.thinking.wanted(), args.thinking.effort())?;
        let messages = [opening(args), vec![Message::user(prompt)]].concat();
        show(&mut model, Ask::Turn(&messages, &options), &mut screen, |_| ())?
    };
    terminal::note(&reply.speed());
    model.finish()?;
    conclude(&reply)
}

/// What the answer's end means for the program's.
fn conclude(reply: &Reply) -> Result<(), Error> {
    match reply.stop {
        Stop::Cancelled => return Err(Error::Interrupted),
        Stop::ContextFull => terminal::note("the context is full, the answer may be unfinished; --ctx makes more room"),
        Stop::Length => terminal::note("the answer reached the length of --tokens and may be unfinished"),
        Stop::EndOfTurn | Stop::StopString(_) => {}
    }
    Ok(())
}

/// The messages before the first question.
pub(crate) fn opening(args: &ChatArgs) -> Vec<Message> {
    let system = args.prompt.system.iter().filter(|text| !text.is_empty());
    system.map(Message::system).collect()
}
