//! Streams on paper, for tests: a script of what is said becomes frames, or a whole answer.

use std::time::Duration;

use engine::Stop;

use crate::{
    reply::{Choice, Frames, Writer, whole},
    said::{Answers, Call, Detail, Failure, Finish, Heard, Said, Timings, Usage},
};

pub(crate) fn thinks(text: &str) -> Said {
    Said::Thinking(text.into())
}

pub(crate) fn says(text: &str) -> Said {
    Said::Text(text.into())
}

/// A whole call, its arguments in pieces.
pub(crate) fn calls(index: usize, name: &str, arguments: &[&str]) -> Vec<Said> {
    let call = Said::Call(Call { index, id: format!("call_{index}"), name: name.into() });
    let arguments = arguments.iter().map(|json| Said::Arguments(index, (*json).into()));
    [call].into_iter().chain(arguments).chain([Said::Called(index)]).collect()
}

pub(crate) fn ends(stop: Stop, n_calls: usize) -> Said {
    let usage = Usage { n_prompt: 100, n_cached: 60, n_answer: 7, n_reasoning: 3 };
    let timings =
        Timings { prefill: Duration::from_millis(40), decode: Duration::from_millis(70), ..Timings::default() };
    let stop_text = matches!(stop, Stop::StopString(_)).then(|| "###".into());
    Said::End(Finish { stop, stop_text, detail: None, n_dropped: 0, n_calls, usage, timings })
}

/// The end of an answer whose call came to nothing.
pub(crate) fn ends_malformed() -> Said {
    match ends(Stop::EndOfTurn, 0) {
        Said::End(finish) => Said::End(Finish { detail: Some(Detail::MalformedCall), ..finish }),
        said => said,
    }
}

/// The frames of a stream.
pub(crate) fn streamed(mut writer: impl Writer, script: Vec<Said>) -> String {
    let mut out = Frames::new(writer.framing());
    writer.begin(&mut out);
    let failed = matches!(script.last(), Some(Said::Failed(_)));
    script.into_iter().for_each(|said| writer.said(Heard { choice: 0, said }, &mut out));
    if !failed {
        writer.end(&mut out);
    }
    without_ids(std::str::from_utf8(&out.take()).unwrap())
}

/// The answer as a whole.
pub(crate) fn choice(script: Vec<Said>) -> Choice {
    let (to, from) = tokio::sync::mpsc::channel(script.len().max(1));
    script.into_iter().for_each(|said| to.try_send(Heard { choice: 0, said }).unwrap());
    drop(to);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(whole(Answers { from, failure: Failure::default(), n: 1 })).unwrap().remove(0)
}

/// Random ids, which are 32 digits, and times stay out of what is expected.
pub(crate) fn without_ids(text: &str) -> String {
    let mut words = text.split('_').map(str::to_owned).collect::<Vec<_>>();
    for word in &mut words {
        if word.len() >= 32 && word.is_char_boundary(32) && word[..32].bytes().all(|b| b.is_ascii_hexdigit()) {
            word.replace_range(..32, "ID");
        }
    }
    words.join("_")
}
