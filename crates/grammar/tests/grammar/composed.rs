//! Grammars that are made of others.

use crate::{DEEPSEEK, babble};
use grammar::Source;

#[test]
fn trial() {
    let dsml = DEEPSEEK.tokenizer.id_of("｜DSML｜").unwrap();
    let lark = format!(
        r#"start: @answer | "\n\n<" block
block: <[{dsml}]> "tool_calls>\n" calls
calls: "<" call more
more: ("<" call)* "</" <[{dsml}]> "tool_calls>"
call: <[{dsml}]> "invoke name=\"" (c_0)
c_0: "w\">\n" p_0_0 p_0_1? "</" <[{dsml}]> "invoke>\n"
p_0_0: "<" <[{dsml}]> "parameter name=\"" "n" "\" string=\"false\">" @t0 "</" <[{dsml}]> "parameter>\n"
p_0_1: "<" <[{dsml}]> "parameter name=\"" "city" "\" string=\"true\">" TEXT_END <[{dsml}]> "parameter>\n"
TEXT_END: /(?s:.{{0,8}})<\//
"#
    );
    let parts = [
        ("answer", Source::JsonSchema(r#"{"enum": ["a", 1]}"#)),
        ("t0", Source::JsonSchema(r#"{"type":"integer","maximum":20,"minimum":1}"#)),
    ];
    let grammar = DEEPSEEK.compile(Source::Composed(&lark, &parts));
    for seed in 0..20 {
        println!("{:?}", babble(&DEEPSEEK, &grammar, seed, 300));
    }
    let lark = lark.replace(
        "start: @answer | \"\\n\\n<\" block",
        "start: TEXT | BEFORE block\nTEXT: /(?s:.{0,9})/\nBEFORE: /(?s:.{0,9})\\n\\n</",
    );
    let grammar = DEEPSEEK.compile(Source::Composed(&lark, &parts));
    for seed in 0..20 {
        println!("{:?}", babble(&DEEPSEEK, &grammar, seed, 300));
    }
}
