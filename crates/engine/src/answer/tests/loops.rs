//! Loops, by a model that goes round in circles.

use std::cell::RefCell;

use super::*;

/// What may follow each word, and how likely.
type Ways = &'static [(&'static str, &'static [(&'static str, f32)])];

/// A session whose model looks at the last word only.
struct Circling {
    tokens: Vec<TokenId>,
    ways: Ways,
    logits: Vec<f32>,
    n_rewound: usize,
}

impl Circling {
    fn new(ways: Ways) -> Circling {
        let mut circling = Circling { tokens: ids(&["▁Hi"]), ways, logits: vec![], n_rewound: 0 };
        circling.look();
        circling
    }

    fn look(&mut self) {
        let last = self.tokens.last().copied();
        let ways = self.ways.iter().find(|(word, _)| ids(&[word]).last().copied() == last);
        self.logits = vec![f32::NEG_INFINITY; 270];
        for (word, logit) in ways.expect("it leads somewhere").1 {
            self.logits[ids(&[word])[0] as usize] = *logit;
        }
    }
}

impl Timeline for Circling {
    fn push(&mut self, id: TokenId) -> Result<(), Error> {
        self.tokens.push(id);
        self.look();
        Ok(())
    }

    fn logits(&self) -> &[f32] {
        &self.logits
    }

    fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    fn n_ctx(&self) -> usize {
        99_999
    }

    fn rewind(&mut self, n_keep: usize, given_up: &dyn Fn() -> bool) -> Result<bool, Error> {
        assert!(n_keep <= self.tokens.len());
        self.tokens.truncate(n_keep);
        self.look();
        self.n_rewound += 1;
        Ok(!given_up())
    }
}

/// One round, and a way out that nothing leads back from.
const ROUND: Ways = &[
    ("▁Hi", &[("lo", 5.0)]),
    ("lo", &[("▁you", 5.0), ("ST", 1.0)]),
    ("▁you", &[("▁Hi", 5.0), ("ST", 1.0)]),
    ("ST", &[("OP", 5.0)]),
    ("OP", &[("</s>", 5.0)]),
];

/// The way out leads back.
const TRAP: Ways = &[
    ("▁Hi", &[("lo", 5.0)]),
    ("lo", &[("▁you", 5.0), ("ST", 1.0)]),
    ("▁you", &[("▁Hi", 5.0)]),
    ("ST", &[("lo", 5.0)]),
];

/// One way only.
const RING: Ways = &[("▁Hi", &[("lo", 5.0)]), ("lo", &[("▁you", 5.0)]), ("▁you", &[("▁Hi", 5.0)])];

struct Told {
    answer: Answer,
    text: String,
    /// Tokens that were told.
    ids: Vec<TokenId>,
    n_rewound: usize,
}

fn run(ways: Ways, sampling: SamplerOptions, more: &AnswerOptions<'_>) -> Told {
    let mut session = Circling::new(ways);
    let (mut text, told) = (String::new(), RefCell::new(Vec::new()));
    let each = |token: crate::Token<'_>| told.borrow_mut().push(token.id);
    let logprobs = Some(Logprobs { n_top: 0, each: &each });
    let options = AnswerOptions { n_max: if more.n_max == 0 { 9000 } else { more.n_max }, logprobs, ..*more };
    let mut on = |event| {
        match event {
            Event::Text(more) => text += &more,
            other => panic!("{other:?}"),
        }
        ControlFlow::Continue(())
    };
    let answer = generate(&tokenizer(), &mut session, &mut Sampler::new(sampling), &options, &mut on).unwrap();
    let (ids, n_rewound) = (told.take(), session.n_rewound);
    assert_eq!(session.tokens[1..1 + answer.n_computed], answer.ids[..answer.n_computed]);
    Told { answer, text, ids, n_rewound }
}

fn decoded(ids: &[TokenId]) -> String {
    let mut decoder = tokenizer().decoder().continuing();
    ids.iter().map(|&id| decoder.push(id)).collect::<String>() + &decoder.finish()
}

#[test]
fn it_goes_back_and_out_of_a_loop() {
    let Told { answer, text, ids, n_rewound } = run(ROUND, SamplerOptions::greedy(), &AnswerOptions::default());
    // Suspected after 256 tokens, certain after 2048.
    assert_eq!((answer.stop, answer.ids.len(), n_rewound), (Stop::EndOfTurn, 258, 1));
    assert_eq!(answer.n_dropped, 2048 - 256);
    assert!(answer.ids.ends_with(&super::ids(&["lo", "ST", "OP"])), "not by the token that led into it");
    assert_eq!(text, decoded(&answer.ids), "nobody hears of what was dropped");
    assert_eq!(ids, answer.ids);
}

#[test]
fn who_falls_into_it_again_goes_back_sooner_and_not_for_ever() {
    let told = run(TRAP, SamplerOptions { seed: 3, ..SamplerOptions::greedy() }, &AnswerOptions::default());
    assert_eq!((told.answer.stop, told.answer.ids.len()), (Stop::Repeats, 256));
    assert_eq!((told.text, told.ids), (decoded(&told.answer.ids), told.answer.ids.clone()));
    // Both ways at that place are known to lead there, so there is no third time.
    assert_eq!(told.n_rewound, 2);
    let again = told.answer.n_dropped - (2048 - 256);
    assert!((256..256 + 64).contains(&again), "{again}");
}

#[test]
fn where_there_is_no_other_way_it_ends() {
    let told = run(RING, SamplerOptions::greedy(), &AnswerOptions::default());
    assert_eq!((told.answer.stop, told.answer.ids.len(), told.answer.n_dropped), (Stop::Repeats, 256, 2048 - 256));
    assert_eq!(told.text, decoded(&told.answer.ids));
    let free = SamplerOptions { may_repeat: true, ..SamplerOptions::greedy() };
    let told = run(RING, free, &AnswerOptions { n_max: 5000, ..AnswerOptions::default() });
    assert_eq!((told.answer.stop, told.answer.ids.len(), told.n_rewound), (Stop::Length, 5000, 0));
}

#[test]
fn one_seed_gives_one_answer() {
    let ids = |seed| {
        let sampling = SamplerOptions { seed, temperature: 0.6, min_p: 0.0, ..SamplerOptions::default() };
        run(TRAP, sampling, &AnswerOptions::default()).answer
    };
    assert_eq!(ids(7).ids, ids(7).ids);
    assert_eq!(ids(7).n_dropped, ids(7).n_dropped);
}

#[test]
fn what_was_held_back_is_told_where_the_answer_ends() {
    let told = run(RING, SamplerOptions::greedy(), &AnswerOptions { n_max: 700, ..AnswerOptions::default() });
    assert_eq!((told.answer.stop, told.answer.ids.len(), told.answer.n_dropped), (Stop::Length, 700, 0));
    assert_eq!((told.text, told.ids), (decoded(&told.answer.ids), told.answer.ids.clone()));
    // Nobody wants it any longer: it is what was heard.
    let n_asked = std::cell::Cell::new(0);
    let given_up = || {
        n_asked.set(n_asked.get() + 1);
        n_asked.get() == 500
    };
    let options = AnswerOptions { given_up: Some(&given_up), ..AnswerOptions::default() };
    let told = run(RING, SamplerOptions::greedy(), &options);
    assert_eq!((told.answer.stop, told.answer.ids.len()), (Stop::Cancelled, 256));
    assert_eq!(told.text, decoded(&told.answer.ids));
}

#[test]
fn a_grammar_goes_back_too() {
    let vocabulary = Vocabulary::new(&tokenizer(), &[262]).unwrap();
    // Until a T, "lo" may come again; "OP" may not come first.
    let grammar = vocabulary.compile(Source::Regex("(lo you Hi)*lo( you)?STOP")).unwrap();
    let options = AnswerOptions { grammar: Some(&grammar), ..AnswerOptions::default() };
    let told = run(ROUND, SamplerOptions::greedy(), &options);
    assert_eq!((told.answer.stop, told.answer.ids.len()), (Stop::EndOfTurn, 258));
    let rounds = told.text.strip_suffix("loSTOP").map(|text| text.trim_start_matches("lo you Hi"));
    assert_eq!(rounds, Some(""), "{}", told.text);
    assert_eq!(told.text, decoded(&told.answer.ids));
}

#[test]
fn what_a_grammar_wants_is_no_loop() {
    let vocabulary = Vocabulary::new(&tokenizer(), &[262]).unwrap();
    let grammar = vocabulary.compile(Source::Regex("(lo you Hi){900}")).unwrap();
    let options = AnswerOptions { grammar: Some(&grammar), ..AnswerOptions::default() };
    let told = run(ROUND, SamplerOptions::greedy(), &options);
    assert_eq!((told.answer.stop, told.answer.ids.len()), (Stop::EndOfTurn, 2700));
}
