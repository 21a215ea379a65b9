//! Generation by models that say what is written.

mod loops;

use expect_test::{Expect, expect};
use grammar::{Source, Vocabulary};
use models::{ChatError, Events, Hold, Message, NotKept, Part, Section, Syntax};
use tokenizer::{Model, SpecialIds, Vocab};

use super::*;
use crate::{SamplerOptions, reader::ends};

const PIECES: [&str; 6] = ["▁Hi", "▁you", "lo", "\n", "ST", "OP"];
const MARKS: [&str; 4] = ["</s>", "<|end|>", "<think>", "</think>"];

/// Every byte, [`PIECES`], [`MARKS`] and a word of padding.
fn tokenizer() -> Tokenizer {
    let bytes = (0..256).map(|b| format!("<0x{b:02X}>"));
    let tokens: Vec<String> = bytes.chain(PIECES.into_iter().chain(MARKS).chain(["pad"]).map(String::from)).collect();
    let vocab = Vocab {
        model: Model::Llama,
        pre: None,
        scores: vec![0.0; tokens.len()],
        types: [vec![6; 256], vec![1; 6], vec![3, 3, 4, 4, 5]].concat(),
        tokens,
        merges: vec![],
        special: SpecialIds { eos: Some(262), ..SpecialIds::default() },
        add_bos: Some(false),
        add_space_prefix: Some(true),
        chat_template: None,
    };
    Tokenizer::from_vocab(vocab).unwrap()
}

/// The ids of words of the vocabulary; of their bytes where there is no such word.
fn ids(words: &[&str]) -> Vec<TokenId> {
    let known = |word: &&str| PIECES.iter().chain(&MARKS).position(|known| known == word);
    let ids = words.iter().map(|word| match known(word) {
        Some(i) => vec![256 + i as TokenId],
        None => word.bytes().map(TokenId::from).collect(),
    });
    ids.collect::<Vec<_>>().concat()
}

/// A session whose model says what is written, whatever it is told.
struct Scripted {
    tokens: Vec<TokenId>,
    n_ctx: usize,
    script: std::vec::IntoIter<TokenId>,
    logits: Vec<f32>,
}

impl Scripted {
    /// After the prompt `"Hi"`, with room for `n_ctx` tokens.
    fn new(n_ctx: usize, script: Vec<TokenId>) -> Scripted {
        let mut scripted = Scripted { tokens: ids(&[]), n_ctx, script: script.into_iter(), logits: vec![] };
        scripted.push(256).unwrap();
        scripted
    }
}

impl Timeline for Scripted {
    fn push(&mut self, id: TokenId) -> Result<(), Error> {
        assert!(self.tokens.len() < self.n_ctx);
        self.tokens.push(id);
        self.logits = vec![0.0; 270];
        // Padding is likelier than anything, and must not be taken. At the end, nothing is a number.
        self.logits[266..].fill(9.0);
        match self.script.next() {
            Some(id) => self.logits[id as usize] = 5.0,
            None => self.logits.fill(f32::NAN),
        }
        Ok(())
    }

    fn logits(&self) -> &[f32] {
        &self.logits
    }

    fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    fn rewind(&mut self, _n_keep: usize, _given_up: &dyn Fn() -> bool) -> Result<bool, Error> {
        panic!("what is written is not said twice")
    }
}

/// Reasoning between the marks; `<|end|>` and `END` end a turn.
struct TwoMarks;

impl Chat for TwoMarks {
    fn render(&self, _: &[Message], _: &ChatOptions) -> Result<Vec<Part>, ChatError> {
        Ok(vec![])
    }

    fn stream(&self, _: &ChatOptions) -> Box<dyn Events> {
        Box::new(TwoMarksReader { section: Section::Opening(MARKS[2]) })
    }

    fn can_think(&self) -> bool {
        true
    }

    fn can_call(&self) -> bool {
        false
    }

    fn syntax(&self, _: &ChatOptions, _: Hold<'_>) -> Result<Syntax, NotKept> {
        Ok(Syntax::default())
    }

    fn stop_markers(&self) -> Vec<String> {
        vec!["<|end|>".into(), "END".into()]
    }
}

struct TwoMarksReader {
    section: Section,
}

impl Events for TwoMarksReader {
    fn text(&mut self, text: &str) -> Vec<Event> {
        if self.section == Section::Thinking {
            return vec![Event::Thinking(text.into())];
        }
        self.section = Section::Answering;
        vec![Event::Text(text.into())]
    }

    fn marker(&mut self, marker: &str) -> Vec<Event> {
        self.section = if marker == MARKS[2] { Section::Thinking } else { Section::Answering };
        vec![]
    }

    fn section(&self) -> Section {
        self.section
    }

    fn end_of_reasoning(&self, _at_once: bool) -> Vec<Part> {
        vec![Part::Marker(MARKS[3].into()), Part::Text("\n".into())]
    }

    fn finish(&mut self) -> Vec<Event> {
        vec![Event::Text("·".into())]
    }
}

struct Run<'a> {
    n_max: usize,
    n_ctx: usize,
    chat: bool,
    stop: &'a [&'a str],
    /// A regular expression.
    grammar: Option<&'a str>,
    /// Of the reasoning, too.
    raw: bool,
    /// Whether the model was asked to think.
    thinking: bool,
    bias: &'a [(TokenId, f32)],
    n_reasoning_max: Option<usize>,
    /// Break off at this event.
    cancel_at: usize,
}

const RAW: Run<'static> = Run {
    n_max: 100,
    n_ctx: 100,
    chat: false,
    stop: &[],
    grammar: None,
    raw: false,
    thinking: true,
    bias: &[],
    n_reasoning_max: None,
    cancel_at: usize::MAX,
};
const CHAT: Run<'static> = Run { chat: true, ..RAW };

/// Greedy generation: the events, `Thinking` in brackets, why it ended, and how many tokens there were.
fn check(run: &Run<'_>, script: &[&str], expect: Expect) {
    let mut session = Scripted::new(run.n_ctx, ids(script));
    let mut heard = Vec::new();
    let mut on = |event| {
        heard.push(match event {
            Event::Thinking(text) => format!("[{text}]"),
            Event::Text(text) => text,
            call => panic!("{call:?}"),
        });
        if heard.len() > run.cancel_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let stop: Vec<String> = run.stop.iter().map(|s| (*s).to_owned()).collect();
    let tokenizer = tokenizer();
    let compile = |pattern| {
        let ends = ends(&tokenizer, Some(&TwoMarks)).0;
        Vocabulary::new(&tokenizer, &ends).unwrap().compile(Source::Regex(pattern)).unwrap()
    };
    let grammar = run.grammar.map(compile);
    let chat_options = ChatOptions { thinking: run.thinking, ..ChatOptions::default() };
    let chat = run.chat.then_some((&TwoMarks as &dyn Chat, &chat_options));
    let options = AnswerOptions {
        n_max: run.n_max,
        chat,
        stop: &stop,
        grammar: grammar.as_ref(),
        grammar_is_raw: run.raw,
        logit_bias: run.bias,
        n_reasoning_max: run.n_reasoning_max,
        ..AnswerOptions::default()
    };
    let mut sampler = Sampler::new(SamplerOptions::greedy());
    let ended = generate(&tokenizer, &mut session, &mut sampler, &options, &mut on);
    let ended = match ended {
        Ok(answer) => {
            let computed = &session.tokens[1..];
            assert_eq!(computed, &answer.ids[..answer.n_computed]);
            assert!(computed.len() + 1 >= answer.ids.len(), "only the last one may be missing");
            let cut = if answer.reasoning_cut { format!(", cut at {}", answer.n_reasoning) } else { String::new() };
            format!("{:?}, {} tokens, {} computed{cut}", answer.stop, answer.ids.len(), answer.n_computed)
        }
        Err(error) => error.to_string(),
    };
    expect.assert_eq(&format!("{}; {ended}", heard.join("|")));
}

#[test]
fn it_can_be_given_up_where_it_says_nothing() {
    let tokenizer = tokenizer();
    let mut scripted = Scripted::new(99, vec![265; 50]); // a mark that raw text does not show
    let n_asked = std::cell::Cell::new(0);
    let given_up = || {
        n_asked.set(n_asked.get() + 1);
        n_asked.get() == 3
    };
    let options = AnswerOptions { n_max: 50, given_up: Some(&given_up), ..AnswerOptions::default() };
    let mut sampler = Sampler::new(SamplerOptions::greedy());
    let on = &mut |_| ControlFlow::Continue(());
    let answer = generate(&tokenizer, &mut scripted, &mut sampler, &options, on).unwrap();
    assert_eq!((answer.ids.len(), answer.stop), (3, Stop::Cancelled));
}

#[test]
fn the_end_of_the_turn_is_not_shown() {
    check(&RAW, &["▁you", "lo", "</s>"], expect![" you|lo; EndOfTurn, 2 tokens, 2 computed"]);
    check(&RAW, &["</s>"], expect!["; EndOfTurn, 0 tokens, 0 computed"]);
    check(&CHAT, &["▁you", "<|end|>"], expect![" you|·; EndOfTurn, 1 tokens, 1 computed"]);
    // The vocabulary knows this one by its spelling.
    check(&RAW, &["▁you", "<|end|>", "lo", "</s>"], expect![" you; EndOfTurn, 1 tokens, 1 computed"]);
    check(&CHAT, &["lo", "E", "ND"], expect!["lo; EndOfTurn, 4 tokens, 3 computed"]);
}

#[test]
fn it_ends_when_told_and_when_there_is_no_room() {
    check(&Run { n_max: 2, ..RAW }, &["lo", "lo", "lo"], expect!["lo|lo; Length, 2 tokens, 1 computed"]);
    check(&Run { n_max: 0, ..RAW }, &["lo"], expect!["; Length, 0 tokens, 0 computed"]);
    check(&Run { n_ctx: 3, ..RAW }, &["lo", "lo", "lo", "lo"], expect!["lo|lo|lo; ContextFull, 3 tokens, 2 computed"]);
    check(&Run { n_ctx: 1, ..RAW }, &["lo", "lo"], expect!["lo; ContextFull, 1 tokens, 0 computed"]);
    check(&Run { cancel_at: 1, ..RAW }, &["lo", "ST", "OP", "lo"], expect!["lo|ST; Cancelled, 2 tokens, 1 computed"]);
}

#[test]
fn no_choice_is_an_error() {
    check(&RAW, &["lo"], expect!["lo; the model computes no numbers at position 2"]);
}

#[test]
fn text_comes_in_whole_characters() {
    check(&RAW, &["日", "é", "</s>"], expect!["日|é; EndOfTurn, 5 tokens, 5 computed"]);
    // A character cut off by the end, and by a mark.
    check(&Run { n_max: 2, ..RAW }, &["日"], expect!["�; Length, 2 tokens, 1 computed"]);
    let cut = tokenizer();
    let mut session = Scripted::new(9, vec![0xE6, 264, 0xA5, 262]);
    let (mut heard, options) = (Vec::new(), ChatOptions::default());
    let options = AnswerOptions { n_max: 9, chat: Some((&TwoMarks, &options)), ..AnswerOptions::default() };
    let mut sampler = Sampler::new(SamplerOptions::greedy());
    let mut on = |event| {
        heard.push(event);
        ControlFlow::Continue(())
    };
    generate(&cut, &mut session, &mut sampler, &options, &mut on).unwrap();
    expect![[r#"[Text("�"), Thinking("�"), Text("·")]"#]].assert_eq(&format!("{heard:?}"));
}

#[test]
fn marks_are_for_the_reader_and_spelled_ones_are_text() {
    check(
        &CHAT,
        &["<think>", "lo", "</think>", "▁you", "</s>"],
        expect!["[lo]|you|·; EndOfTurn, 4 tokens, 4 computed"],
    );
    check(&CHAT, &["<", "think", ">", "lo", "</s>"], expect!["<|t|h|i|n|k|>|lo|·; EndOfTurn, 8 tokens, 8 computed"]);
    check(&RAW, &["<think>", "lo", "</s>"], expect!["<think>|lo; EndOfTurn, 2 tokens, 2 computed"]);
}

#[test]
fn stop_strings_are_found_across_tokens_and_never_shown() {
    let stop = Run { stop: &["\n\n", "STOP"], ..RAW };
    check(&stop, &["lo", "ST", "OP", "lo"], expect!["lo; StopString(1), 3 tokens, 2 computed"]);
    check(
        &stop,
        &["lo", "ST", "lo", "\n", "</s>"],
        expect![[r#"
        lo|STlo|
        ; EndOfTurn, 4 tokens, 4 computed"#]],
    );
    check(&stop, &["lo", "\n", "\n"], expect!["lo; StopString(0), 3 tokens, 2 computed"]);
    check(&Run { n_max: 2, ..stop }, &["lo", "ST", "lo"], expect!["lo|ST; Length, 2 tokens, 1 computed"]);
}

#[test]
fn stop_strings_are_not_looked_for_in_reasoning() {
    let stop = Run { stop: &["STOP"], ..CHAT };
    check(
        &stop,
        &["<think>", "ST", "OP", "</think>", "lo", "ST", "OP"],
        expect!["[ST]|[OP]|lo; StopString(0), 7 tokens, 6 computed"],
    );
    check(
        &stop,
        &["ST", "<think>", "lo", "</think>", "OP", "</s>"],
        expect!["ST|[lo]|OP|·; EndOfTurn, 5 tokens, 5 computed"],
    );
}

#[test]
fn a_grammar_holds_whatever_the_model_would_rather_say() {
    let held = Run { grammar: Some("\\{(lo)+\\}"), ..RAW };
    // Where the model wants what may not come, the first of all that may; and nothing follows what is complete.
    check(&held, &["▁you", "{", "lo", "lo", "lo", "}"], expect!["{|l|o|lo|lo|}; EndOfTurn, 6 tokens, 5 computed"]);
    check(&held, &["{", "lo", "}", "lo"], expect!["{|lo|}; EndOfTurn, 3 tokens, 2 computed"]);
    // The end may come exactly where the grammar's does.
    let open = Run { grammar: Some("(lo)*"), ..RAW };
    check(&open, &["</s>", "lo"], expect!["; EndOfTurn, 0 tokens, 0 computed"]);
    check(&open, &["lo", "lo", "</s>"], expect!["lo|lo; EndOfTurn, 2 tokens, 2 computed"]);
    check(
        &held,
        &["</s>", "</s>", "</s>", "</s>", "</s>", "}"],
        expect!["{|l|o|l|o|}; EndOfTurn, 6 tokens, 5 computed"],
    );
    // Marks are no text.
    check(
        &Run { grammar: Some("(?s).*"), ..RAW },
        &["lo", "<think>", "</s>"],
        expect!["lo|\0; EndOfTurn, 2 tokens, 2 computed"],
    );
    check(&Run { grammar: Some(""), ..RAW }, &["lo"], expect!["; EndOfTurn, 0 tokens, 0 computed"]);
}

#[test]
fn a_grammar_ends_for_other_reasons_too() {
    let held = Run { grammar: Some("(lo|ST|OP)+x"), ..RAW };
    check(&Run { n_max: 2, ..held }, &["lo", "lo", "lo"], expect!["lo|lo; Length, 2 tokens, 1 computed"]);
    check(&Run { n_ctx: 3, ..held }, &["lo", "lo", "lo", "lo"], expect!["lo|lo|lo; ContextFull, 3 tokens, 2 computed"]);
    check(
        &Run { stop: &["STOP"], ..held },
        &["lo", "ST", "OP", "lo"],
        expect!["lo; StopString(0), 3 tokens, 2 computed"],
    );

    check(&held, &["lo"], expect!["lo; the model computes no numbers at position 2"]);
    // Complete with the last token that there may be.
    check(&Run { n_max: 2, ..held }, &["lo", "x"], expect!["lo|x; EndOfTurn, 2 tokens, 1 computed"]);
}

#[test]
fn a_raw_grammar_holds_where_reasoning_would_begin() {
    let held = Run { grammar: Some("(lo)+x"), raw: true, ..CHAT };
    check(&held, &["<think>", "▁you", "lo", "x"], expect!["l|o|lo|x|·; EndOfTurn, 4 tokens, 3 computed"]);
}

#[test]
fn a_grammar_begins_where_reasoning_ends() {
    let held = Run { grammar: Some("(lo)+x"), ..CHAT };
    let script = ["<think>", "▁you", "\n", "</think>", "▁you", "lo", "x", "lo"];
    check(
        &held,
        &script,
        expect![[r#"
        [you]|[
        ]|l|o|x|·; EndOfTurn, 7 tokens, 6 computed"#]],
    );
    // Who thinks does not end the turn by it, for then there would be no answer.
    check(
        &held,
        &["<think>", "ST", "</s>", "<|end|>", "</think>", "lo", "x"],
        expect!["[ST]|[\0]|[\0]|lo|x|·; EndOfTurn, 7 tokens, 6 computed"],
    );
    // Who was not asked to think does not begin to, and who has begun to answer does not either.
    check(&Run { thinking: false, ..held }, &script, expect!["l|o|l|o|l|o|x|·; EndOfTurn, 7 tokens, 6 computed"]);
    check(&held, &["lo", "<think>", "lo", "x"], expect!["lo|l|o|x|·; EndOfTurn, 4 tokens, 3 computed"]);
}

#[test]
fn reasoning_ends_behind_as_many_tokens_as_it_may_take() {
    let bound = |n| Run { n_reasoning_max: Some(n), ..CHAT };
    let script = ["<think>", "lo", "lo", "lo", "lo", "lo", "lo", "lo", "▁you", "</s>"];
    // The mark that begins it is not counted, nor is what ends it: a mark and, in a vocabulary with a space prefix but without that
    // space, four bytes. The script goes on beneath them.
    check(
        &bound(2),
        &script,
        expect![[r#"
        [lo]|[lo]|▁|
        | you|·; EndOfTurn, 9 tokens, 9 computed, cut at 3"#]],
    );
    check(
        &bound(0),
        &script,
        expect![[r#"
        ▁|
        |lo|lo| you|·; EndOfTurn, 9 tokens, 9 computed, cut at 0"#]],
    );
    check(&bound(9), &script, expect!["[lo]|[lo]|[lo]|[lo]|[lo]|[lo]|[lo]|[ you]|·; EndOfTurn, 9 tokens, 9 computed"]);
    check(&Run { n_max: 2, ..bound(2) }, &script, expect!["[lo]|·; Length, 2 tokens, 1 computed"]);
    check(&Run { n_max: 4, ..bound(2) }, &script, expect!["[lo]|[lo]|·; Length, 4 tokens, 3 computed, cut at 3"]);
    check(&Run { n_ctx: 4, ..bound(2) }, &script, expect!["[lo]|[lo]|·; ContextFull, 4 tokens, 3 computed, cut at 3"]);
    // Nothing to end: it has not begun, it is over, there are no marks.
    check(&bound(0), &["lo", "</s>"], expect!["lo|·; EndOfTurn, 1 tokens, 1 computed"]);
    check(
        &bound(2),
        &["<think>", "lo", "</think>", "ST", "</s>"],
        expect!["[lo]|ST|·; EndOfTurn, 4 tokens, 4 computed"],
    );
    check(
        &Run { chat: false, ..bound(1) },
        &["<think>", "lo", "lo", "</s>"],
        expect!["<think>|lo|lo; EndOfTurn, 3 tokens, 3 computed"],
    );
}

#[test]
fn reasoning_does_not_end_within_a_character() {
    let bound = Run { n_reasoning_max: Some(2), ..CHAT };
    check(
        &bound,
        &["<think>", "lo", "日", "lo", "lo", "lo", "lo", "lo", "ST", "</s>"],
        expect![[r#"
        [lo]|[日]|▁|
        |ST|·; EndOfTurn, 11 tokens, 11 computed, cut at 5"#]],
    );
    // Bytes that never become one do not keep it from ending.
    let bytes = [vec![264], vec![0xE6; 40]].concat();
    let mut session = Scripted::new(99, bytes);
    let (options, tokenizer) = (ChatOptions::default(), tokenizer());
    let options =
        AnswerOptions { n_max: 40, n_reasoning_max: Some(2), chat: Some((&TwoMarks, &options)), ..Default::default() };
    let mut sampler = Sampler::new(SamplerOptions::greedy());
    let on = &mut |_| ControlFlow::Continue(());
    let answer = generate(&tokenizer, &mut session, &mut sampler, &options, on).unwrap();
    assert_eq!(answer.ids.iter().position(|&id| id == 265), Some(1 + 2 + 16));
}

#[test]
fn a_grammar_begins_behind_an_end_that_was_forced() {
    let held = Run { grammar: Some("(lo)+x"), n_reasoning_max: Some(1), ..CHAT };
    check(
        &held,
        &["<think>", "ST", "ST", "▁you", "▁you", "▁you", "▁you", "▁you", "lo", "x"],
        expect![[r#"
        [ST]|▁|
        |l|o|x|·; EndOfTurn, 10 tokens, 9 computed, cut at 2"#]],
    );
}

#[test]
fn a_bias_is_added_and_what_it_leaves_must_be_something() {
    let lo = ids(&["lo"])[0];
    let you = ids(&["▁you"])[0];
    check(
        &Run { bias: &[(lo, 6.0)], n_max: 2, ..RAW },
        &["▁you", "</s>"],
        expect!["lo|lo; Length, 2 tokens, 1 computed"],
    );
    check(
        &Run { bias: &[(you, -100.0), (lo, 1.0)], n_max: 1, ..RAW },
        &["▁you"],
        expect!["lo; Length, 1 tokens, 0 computed"],
    );
    let x = TokenId::from(b'x');
    check(
        &Run { grammar: Some("x"), bias: &[(x, -100.0)], ..RAW },
        &["lo"],
        expect!["; no token is allowed at position 1"],
    );
    let all: Vec<(TokenId, f32)> = (0..266).map(|id| (id, -100.0)).collect();
    check(&Run { bias: &all, ..RAW }, &["lo"], expect!["; no token is allowed at position 1"]);
}

#[test]
fn each_token_is_told_with_its_probability_before_its_text() {
    let tokenizer = tokenizer();
    let mut session = Scripted::new(9, ids(&["▁you", "日", "</s>"]));
    let heard = std::cell::RefCell::new(Vec::new());
    let each = |token: crate::Token<'_>| {
        let top: Vec<TokenId> = token.top.iter().map(|top| top.0).collect();
        heard.borrow_mut().push(format!("{} {:.2} {top:?}", token.id, token.logprob));
    };
    let logprobs = Some(Logprobs { n_top: 2, each: &each });
    let options = AnswerOptions { n_max: 9, logprobs, ..AnswerOptions::default() };
    let mut on = |event| {
        heard.borrow_mut().push(format!("{event:?}"));
        ControlFlow::Continue(())
    };
    let mut sampler = Sampler::new(SamplerOptions::greedy());
    let answer = generate(&tokenizer, &mut session, &mut sampler, &options, &mut on).unwrap();
    assert_eq!(answer.ids.len(), 4);
    expect![[r#"
        257 -1.02 [257, 0]
        Text(" you")
        230 -1.02 [230, 0]
        151 -1.02 [151, 0]
        165 -1.02 [165, 0]
        Text("日")"#]]
    .assert_eq(&heard.take().join("\n"));
}
