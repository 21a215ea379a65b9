//! Which tokens are allowed, one by one.

use grammar::{Error, Source, Vocabulary};
use tokenizer::{Model, SpecialIds, TokenId, TokenType, Tokenizer, Vocab};

use crate::{DEEPSEEK, SMOLLM2, Words};

const PERSON: &str = r#"{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"], "additionalProperties": false}"#;

/// Whether each of these tokens, given by their texts, may follow `text`.
fn check(words: &Words, source: Source<'_>, text: &str, expected: &[(&str, bool)]) {
    let grammar = words.compile(source);
    let mask = words.after(&grammar, text).mask().unwrap();
    for &(token, allowed) in expected {
        let ids = (0..words.tokenizer.n_vocab() as TokenId).filter(|&id| words.tokenizer.text_of(id) == token);
        let found: Vec<bool> = ids.map(|id| mask.contains(id)).collect();
        assert_eq!(found, [allowed], "{token:?} after {text:?}");
    }
}

#[test]
fn tokens_may_cross_from_one_word_into_the_next() {
    let schema = Source::JsonSchema(PERSON);
    check(&DEEPSEEK, schema, "", &[("{", true), ("{\"", true), ("[", false), (" {", false), ("\n", false)]);
    check(&DEEPSEEK, schema, r#"{"name": "A"#, &[("\"", true), ("\",", true), ("\"}", false), ("\",\"", true)]);
    check(&DEEPSEEK, schema, r#"{"name":"A","#, &[("\"", true), (" \"", true), ("}", false)]);
    check(&DEEPSEEK, schema, r#"{"name":"A","age":4"#, &[("}", true), ("2", true), (",", false), ("}\n", false)]);
    let array = Source::JsonSchema(r#"{"type": "array", "items": {"type": "array", "items": {"type": "string"}}}"#);
    check(&DEEPSEEK, array, "", &[("[[", true), ("[\"", false), ("[]", true)]);
    check(&DEEPSEEK, array, r#"[["a"#, &[("\"],", true), ("\"]", true), ("\"}", false)]);
}

#[test]
fn white_space_does_not_go_on() {
    let schema = Source::JsonSchema(PERSON);
    check(&DEEPSEEK, schema, "{", &[(" ", true), ("\n", true), ("\n\n", true), ("\"", true)]);
    check(&DEEPSEEK, schema, "{ ", &[(" ", false), ("\n", false), ("\"", true)]);
    check(&DEEPSEEK, schema, "{\n\n", &[("\n", false), ("  ", true)]);
    // Options of the library in the schema are a stranger's, and mean nothing.
    let loose = PERSON.replacen('{', r#"{"x-guidance": {"whitespace_pattern": "[ ]*", "lenient": true}, "#, 1);
    check(&DEEPSEEK, Source::JsonSchema(&loose), "{ ", &[(" ", false), ("\"", true)]);
}

#[test]
fn control_tokens_are_allowed_where_they_are_named_only() {
    let text = DEEPSEEK.compile(Source::Regex("(?s:.*)"));
    let mask = text.start().mask().unwrap();
    let tokenizer = &DEEPSEEK.tokenizer;
    for id in 0..tokenizer.n_vocab() as TokenId {
        let ordinary = matches!(tokenizer.type_of(id), Some(TokenType::Normal | TokenType::Byte));
        let is_text = ordinary
            && tokenizer.bytes_of(id).first() != Some(&0xFF)
            && std::str::from_utf8(tokenizer.bytes_of(id)).is_ok();
        let ends = tokenizer.eog().contains(&id);
        // What is half a character may be allowed, and is not asked.
        if is_text || !ordinary {
            assert_eq!(mask.contains(id), is_text || ends, "{id}: {:?}", tokenizer.text_of(id));
        }
    }
    let marker = tokenizer.id_of("｜DSML｜").unwrap();
    let lark = format!("start: \"<\" <[{marker}]> \"x>\" <think>");
    let grammar = DEEPSEEK.compile(Source::Lark(&lark));
    let mut constraint = DEEPSEEK.after(&grammar, "<");
    assert!(constraint.mask().unwrap().iter().eq([marker]));
    constraint.accept(marker).unwrap();
    for id in tokenizer.encode("x>", tokenizer::Special::Plain) {
        constraint.accept(id).unwrap();
    }
    let think = tokenizer.id_of("<think>").unwrap();
    assert!(constraint.mask().unwrap().iter().eq([think]));
    assert!(!constraint.may_end());
    constraint.accept(think).unwrap();
    assert!(constraint.must_end());
}

#[test]
fn the_end_is_allowed_when_the_answer_is_complete() {
    let ends = |source, text| {
        let grammar = SMOLLM2.compile(source);
        let mut constraint = SMOLLM2.after(&grammar, text);
        (constraint.may_end(), constraint.must_end())
    };
    assert_eq!(ends(Source::Regex("ab*"), ""), (false, false));
    assert_eq!(ends(Source::Regex("ab*"), "a"), (true, false));
    assert_eq!(ends(Source::Regex("ab?"), "ab"), (true, true));
    assert_eq!(ends(Source::Regex(""), ""), (true, true));
    assert_eq!(ends(Source::JsonSchema(PERSON), r#"{"name":"A","age":4"#), (false, false));
    assert_eq!(ends(Source::JsonSchema(PERSON), r#"{"name":"A","age":4}"#), (true, true));
    assert_eq!(ends(Source::JsonSchema(r#"{"type": "integer"}"#), "12"), (true, false));
}

#[test]
fn answers_of_one_grammar_know_nothing_of_each_other() {
    let grammar = SMOLLM2.compile(Source::Regex("(ab|cd){2}"));
    let mut first = SMOLLM2.after(&grammar, "a");
    let mut second = SMOLLM2.after(&grammar, "cd");
    assert!(!first.mask().unwrap().contains(SMOLLM2.tokenizer.id_of("a").unwrap()));
    assert!(second.mask().unwrap().contains(SMOLLM2.tokenizer.id_of("a").unwrap()));
}

/// Printable characters and the newline, an end, and a word of more bytes than a trie holds.
fn ascii() -> Tokenizer {
    let tokens = (b' '..=b'~').map(|b| char::from(b).to_string().replace(' ', "Ġ"));
    let tokens: Vec<String> = tokens.chain(["Ċ", "</s>", &"a".repeat(2000)].map(String::from)).collect();
    let n = tokens.len();
    let types = [vec![1; n - 2], vec![3, 1]].concat();
    let special = SpecialIds { eos: Some(n as TokenId - 2), ..SpecialIds::default() };
    Tokenizer::from_vocab(Vocab {
        model: Model::Gpt2,
        pre: Some("gpt-2".into()),
        scores: vec![],
        merges: vec![],
        add_bos: Some(false),
        add_space_prefix: None,
        chat_template: None,
        tokens,
        types,
        special,
    })
    .unwrap()
}

#[test]
fn where_no_token_is_left_is_an_error_not_a_loop() {
    let tokenizer = ascii();
    let vocabulary = Vocabulary::new(&tokenizer, tokenizer.eog()).unwrap();
    let grammar = vocabulary.compile(Source::Regex("aé")).unwrap();
    let mut constraint = grammar.start();
    constraint.accept(tokenizer.id_of("a").unwrap()).unwrap();
    assert!(!constraint.may_end() && !constraint.must_end());
    assert_eq!(constraint.mask(), Err(Error::DeadEnd));
    assert!(constraint.mask().is_err() && !constraint.must_end(), "and stays one");
    assert_eq!(vocabulary.compile(Source::Regex("é")).err(), Some(Error::DeadEnd));
    // Without a token that ends turns, the mask has none, and what is complete is.
    let mut open = Vocabulary::new(&tokenizer, &[]).unwrap().compile(Source::Regex("a?")).unwrap().start();
    assert!(open.may_end() && open.mask().unwrap().iter().eq(tokenizer.id_of("a")));
}

#[test]
fn tokens_that_are_not_allowed_are_not_accepted() {
    let grammar = SMOLLM2.compile(Source::Regex("ab"));
    let mut constraint = grammar.start();
    assert!(matches!(constraint.accept(SMOLLM2.tokenizer.id_of("b").unwrap()), Err(Error::Complex(_))));
    let mut constraint = grammar.start();
    assert!(matches!(constraint.accept(TokenId::MAX), Err(Error::Complex(_))));
}
