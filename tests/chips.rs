//! The programs in `examples/chips`: they fit their chips, and the RP2040's answers as this machine
//! does. What needs the network is run by `.ci/run chips`.
#![cfg(all(feature = "std", feature = "grammar"))]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSection, SectionFlags, SectionKind, elf};
use pocketlm::Error;
use pocketlm::generate::Generation;
use pocketlm::grammar::{Constraint, Grammar, Vocabulary};
use pocketlm::import::grammar::Tools;
use pocketlm::model::{Kv, Model};
use pocketlm::run::{Arena, Digest, Plan, Session, Solo};
use pocketlm::sample::Sampler;
use pocketlm::text::ToolForm;

use crate::common::pins_prompt;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/chips");
const IMAGE: &[u8] = pocketlm::include_image!("../examples/chips/app/pins.plm");
const GRAMMAR: &[u8] = include_bytes!("../examples/chips/app/pins.plg");
const TOOLS: &[u8] = include_bytes!("../examples/chips/app/tools.json");
const PLAN: Plan = Plan::of(IMAGE).context(128).kv(Kv::Q8);

const REQUEST: &str = "pin 5 on";

/// A line of the README's table: the folder of a chip, and how much its program takes of how much
/// flash and RAM, in bytes.
struct Chip {
    name: String,
    target: String,
    flash: [u64; 2],
    ram: [u64; 2],
}

fn chips() -> Vec<Chip> {
    let readme = fs::read_to_string(format!("{FOLDER}/README.md")).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.strip_suffix('`')?.to_string();
        let target = cells.nth(1)?.trim_matches('`').to_string();
        let mut amount = || {
            let (used, all) = cells.next()?.split_once(" of ")?;
            let number = |text: &str| text.replace(',', "").parse::<u64>();
            Some([number(used).ok()?, number(all).ok()?])
        };
        Some(Chip {
            name,
            target,
            flash: amount()?,
            ram: amount()?,
        })
    };
    readme.lines().filter_map(row).collect()
}

/// Builds the program of a chip, with the settings of its folder.
fn build(chip: &Chip) -> PathBuf {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--locked"])
        .current_dir(Path::new(FOLDER).join(&chip.name))
        .env_remove("CARGO_TARGET_DIR")
        .status()
        .unwrap();
    assert!(status.success(), "{}", chip.name);
    let target = Path::new(FOLDER).join("target").join(&chip.target);
    target.join("release").join(&chip.name)
}

/// How many bytes of flash and RAM a program takes, the stack left out.
fn size(program: &Path) -> [u64; 2] {
    let bytes = fs::read(program).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let mut size = [0, 0];
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else {
            continue;
        };
        // The linker scripts of the ESP32 chips keep addresses and the stack free with sections.
        let name = section.name().unwrap();
        let is_room = name == ".stack" || name.ends_with("_dummy") || name.ends_with("_gap");
        if sh_flags & u64::from(elf::SHF_ALLOC) == 0 || is_room {
            continue;
        }
        let is_zeroed = section.kind() == SectionKind::UninitializedData;
        let is_writable = sh_flags & u64::from(elf::SHF_WRITE) != 0;
        let is_code_in_ram = name == ".trap" || name.starts_with(".rwtext");
        size[0] += if is_zeroed { 0 } else { section.size() };
        let is_in_ram = is_zeroed || is_writable || is_code_in_ram;
        size[1] += if is_in_ram { section.size() } else { 0 };
    }
    size
}

/// The request and its answer as the program writes them, without the time.
fn expected() -> Result<String, Error> {
    let model = Model::open(IMAGE)?;
    let tokenizer = model.tokenizer()?;
    let grammar = Grammar::open(GRAMMAR)?;
    let vocabulary = Vocabulary::new(&tokenizer);
    let mut arena = Box::new(Arena::<{ PLAN.bytes() }>::new());
    let mut session = Session::new(&model, &PLAN, &mut arena, &Solo)?;
    let mut digest = Digest::new();
    let mut look = |logits: &mut [f32]| {
        digest.update(logits);
        Ok(())
    };
    let mut sampler = Sampler::greedy();
    let prompt = pins_prompt(&tokenizer, REQUEST);
    let mut generation = Generation::new(&mut session, &mut sampler, &tokenizer, &prompt)
        .grammar(Constraint::new(&grammar, &vocabulary))
        .filter(&mut look)
        .keep_special();
    let mut text = String::new();
    while generation.next(|chunk| text += chunk)?.is_none() {}
    let tokens = generation.token_count();
    let digest = digest.value();
    Ok(format!(
        "> {REQUEST}\n{text}\n{tokens} tokens, digest {digest:016x}\n"
    ))
}

#[test]
#[ignore = "needs the network: .ci/run chips"]
fn programs_fit_their_chips() {
    let chips = chips();
    assert_eq!(chips.len(), 7, "rows of the table in {FOLDER}/README.md");
    for chip in &chips {
        let found = size(&build(chip));
        println!("{}: {found:?} bytes of flash and RAM", chip.name);
        for (found, [stated, all]) in found.into_iter().zip([chip.flash, chip.ram]) {
            assert!(stated < all, "{}", chip.name);
            let slack = stated / 50;
            assert!(
                found <= stated && found + slack >= stated,
                "{}: {found} bytes, and the README says {stated}",
                chip.name
            );
        }
    }
}

#[test]
fn the_grammar_is_that_of_the_tools() {
    let tools = Tools::parse(&serde_json::from_slice(TOOLS).unwrap()).unwrap();
    let grammar = tools.grammar(ToolForm::FunctionGemma, true, &|_| true);
    assert!(
        grammar.unwrap() == GRAMMAR,
        "pins.plg is out of date; the head of {FOLDER}/app/src/lib.rs says how to make it"
    );
}

/// The unmodified program, in the emulator rp2040js.
#[test]
#[ignore = "needs the network: .ci/run chips"]
fn the_rp2040_answers_as_this_machine_does() {
    let chips = chips();
    let chip = chips.iter().find(|chip| chip.name == "rp2040").unwrap();
    let program = build(chip);
    let output = Command::new("node")
        .arg(format!("{FOLDER}/rp2040js/run.mjs"))
        .arg(program)
        .arg(REQUEST)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let printed = String::from_utf8(output.stdout).unwrap().replace('\r', "");
    println!("{printed}");

    // The time is the emulator's. The digest is of all logits.
    let (tokens, rest) = printed.split_once(" tokens, ").unwrap();
    let (time, digest) = rest.split_once(" ms, ").unwrap();
    let milliseconds: u64 = time.parse().unwrap();
    let printed = format!("{tokens} tokens, {digest}");
    let expected = expected().unwrap();
    assert!(printed.starts_with(&expected), "{printed}\n{expected}");
    // What was asked for has happened.
    assert!(printed.contains("\npin 5 is high\n"), "{printed}");
    assert!(printed.contains("\nhigh 5\n"), "{printed}");
    // Another task ran every 250 ms while the model computed.
    let toggles = printed
        .lines()
        .find_map(|line| line.strip_prefix("toggles "));
    let toggles: u64 = toggles.unwrap().parse().unwrap();
    assert!(toggles * 250 > milliseconds * 9 / 10, "{printed}");
}
