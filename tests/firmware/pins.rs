//! A firmware that acts on requests: on every kind of core it writes the calls that this machine
//! writes, and does what was asked.

use std::fs;
use std::ops::ControlFlow;

use pocketlm::host::{GenerateOptions, Generated, Llm, LlmSession, Sampling, SessionOptions};
use pocketlm::import::grammar::Tools;
use pocketlm::import::{self, PackOptions};
use pocketlm::model::DType;
use pocketlm::text::ToolForm;

use crate::board::{AARCH64, Board, M0, M4F, RV32IMAFC};
use crate::common::{pins_prompt, shared};

/// The requests of the program, and what it does about each.
const ACTIONS: [(&str, &[&str]); 4] = [
    (
        "please turn on pin 5 and make the led purple",
        &["GPIO 5 is high", "led_color color purple"],
    ),
    (
        "what's the temperature?",
        &["read_sensor sensor temperature"],
    ),
    (
        "remind me about the tea in 4 minutes",
        &["timer label tea minutes 4"],
    ),
    // There is no such pin, and the grammar allows no call that names it.
    ("switch pin 99 on", &["cannot reason out of range"]),
];

fn acts(board: &Board) {
    let Some(folder) = shared("models/pins") else {
        return;
    };
    if !board.is_here("calls of tools") {
        return;
    }
    let list = fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/chips/app/tools.json"
    ));
    let tools = Tools::parse(&serde_json::from_slice(&list.unwrap()).unwrap()).unwrap();
    let grammar = tools.grammar(ToolForm::FunctionGemma, true, &|_| true);
    let grammar = grammar.unwrap();
    let checkpoint = import::open(&folder).unwrap();
    let options = PackOptions {
        dtype: Some(DType::Q4),
        ..PackOptions::default()
    };
    let image = tempfile::Builder::new().suffix(".plm").tempfile().unwrap();
    let bytes = import::pack_to_memory(&*checkpoint, &options, &mut |_, _| ()).unwrap();
    fs::write(image.path(), &*bytes).unwrap();
    let elf = board.build_with(Some(image.path()), "pins", "s", "f32,q4,grammar");
    let elf = elf.unwrap_or_else(|error| panic!("{error}"));
    let printed = String::from_utf8(board.run_built(&elf, &[])).unwrap();

    let options = SessionOptions {
        context: Some(192),
        sampling: Sampling::GREEDY,
        ..SessionOptions::default()
    };
    let mut session = Llm::open(image.path()).unwrap().session(&options).unwrap();
    let options = GenerateOptions {
        grammar: Some(grammar),
        keep_special: true,
        ..GenerateOptions::default()
    };
    let mut lines = printed.lines();
    for (request, actions) in ACTIONS {
        assert_eq!(lines.next(), Some(&*format!("> {request}")), "{printed}");
        let here = answer(&mut session, request, &options);
        let start = format!("{} ({} tokens, ", here.text, here.tokens);
        let passes = lines.next().and_then(|line| line.strip_prefix(&start));
        let passes = passes.and_then(|passes| passes.strip_suffix(" passes)"));
        let passes: usize = passes.expect(&printed).parse().unwrap();
        // Tokens that the grammar forces are computed together.
        assert!(passes < here.tokens, "{printed}");
        for action in actions {
            assert_eq!(lines.next(), Some(*action), "{printed}");
        }
    }
    assert_eq!(lines.next(), None, "{printed}");
}

/// What this machine writes for a request, with the prompt of the program.
fn answer(session: &mut LlmSession, request: &str, options: &GenerateOptions) -> Generated {
    let ids = pins_prompt(session.llm().tokenizer(), request);
    session
        .complete(&ids, options, |_| ControlFlow::Continue(()))
        .unwrap()
}

#[test]
fn a_request_becomes_an_action_on_a_cortex_m0() {
    acts(&M0);
}

#[test]
fn a_request_becomes_an_action_on_a_cortex_m4f() {
    acts(&M4F);
}

#[test]
fn a_request_becomes_an_action_on_rv32imafc() {
    acts(&RV32IMAFC);
}

#[test]
fn a_request_becomes_an_action_on_aarch64() {
    acts(&AARCH64);
}
