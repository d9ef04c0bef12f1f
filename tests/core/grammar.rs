//! Grammars: what they match, what they refuse, and that masks are exact.

use std::path::PathBuf;

use pocketlm::Error;
use pocketlm::generate::{End, Generation, Progress, PromptLookup};
use pocketlm::grammar::{Constraint, Grammar, Masking, Tree, Vocabulary};
use pocketlm::import::grammar::{Tools, Whitespace, from_gbnf, from_json_schema, from_regex};
use pocketlm::include_image;
use pocketlm::model::Model;
use pocketlm::run::{Arena, Plan, Session, Solo};
use pocketlm::sample::{Choice, Penalties, Recent, Sampler};
use pocketlm::text::{EncodeOptions, Tokenizer, ToolForm};
use serde_json::{Value, json};

use crate::common::random::Numbers;
use crate::common::shared;

const STORY: &[u8] = include_image!("../../src/bin/pocketlm/story/story.plm");
const PLAN: Plan = Plan::of(STORY).context(192).batch(16).logits(16);

fn schemas() -> Vec<Value> {
    let text = include_str!("../data/grammar/schemas.json");
    serde_json::from_str::<Vec<Value>>(text).unwrap()
}

fn texts<'v>(case: &'v Value, key: &str) -> impl Iterator<Item = &'v str> {
    case[key]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
}

#[test]
fn a_grammar_matches_what_its_schema_says() {
    let mut wrong = Vec::new();
    for case in schemas() {
        let name = case["name"].as_str().unwrap();
        let bytes = match from_json_schema(&case["schema"], Whitespace::Unbounded) {
            Ok(bytes) => bytes,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let grammar = Grammar::open(&bytes).unwrap();
        for text in texts(&case, "valid").filter(|text| !grammar.matches(text.as_bytes())) {
            wrong.push(format!("{name}: {text} is valid"));
        }
        for text in texts(&case, "invalid").filter(|text| grammar.matches(text.as_bytes())) {
            wrong.push(format!("{name}: {text} is invalid"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The cases of JSON-Schema-Test-Suite for the keywords that are supported: `suite.py` makes the
/// file. No invalid value is allowed. What is valid and not allowed is one of [`NARROWER`].
#[test]
fn the_cases_of_the_json_schema_test_suite_hold() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../data/grammar/suite.json")).unwrap();
    let (mut valid, mut narrower, mut invalid, mut refused) = (0, 0, 0, 0);
    let mut wrong = Vec::new();
    let is_narrower = |name: &str, text: &str| {
        let mut cases = NARROWER.iter();
        cases.any(|(case, texts)| *case == name && texts.contains(&text))
    };
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let bytes = match from_json_schema(&case["schema"], Whitespace::Unbounded) {
            Ok(bytes) => bytes,
            Err(error) => {
                println!("refused: {name}: {error}");
                refused += 1;
                continue;
            }
        };
        let grammar = Grammar::open(&bytes).unwrap();
        for text in texts(case, "valid") {
            if grammar.matches(text.as_bytes()) {
                valid += 1;
            } else if is_narrower(name, text) {
                narrower += 1;
            } else {
                wrong.push(format!("{name}: {text} is valid: {}", case["schema"]));
            }
        }
        for text in texts(case, "invalid") {
            invalid += 1;
            if grammar.matches(text.as_bytes()) {
                wrong.push(format!("{name}: {text} is invalid: {}", case["schema"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let listed: usize = NARROWER.iter().map(|(_, texts)| texts.len()).sum();
    assert_eq!(narrower, listed, "a value of NARROWER is allowed");
    // The manual page has these counts.
    assert_eq!((valid, narrower, invalid, refused), (385, 47, 478, 46));
}

/// The valid values of the suite that are not allowed, by case.
const NARROWER: [(&str, &[&str]); 19] = [
    // Members have an order.
    ("allOf: allOf", &[r#"{"foo": "baz", "bar": 2}"#]),
    (
        "allOf: allOf with base schema",
        &[r#"{"foo": "quux", "bar": 2, "baz": null}"#],
    ),
    (
        "const: const with object",
        &[r#"{"baz": "bax", "foo": "bar"}"#],
    ),
    // A constant is written in one way, and an integer without a point.
    (
        "const: const with 0 does not match other zero-like types",
        &["0.0"],
    ),
    ("const: const with 1 does not match true", &["1.0"]),
    (
        "const: const with -2.0 matches integer and float types",
        &["-2"],
    ),
    (
        "const: float and integers are equal up to 64-bit representation limits",
        &["9007199254740992.0"],
    ),
    ("enum: enum with 0 does not match false", &["0.0"]),
    ("enum: enum with [0] does not match [false]", &["[0.0]"]),
    ("enum: enum with 1 does not match true", &["1.0"]),
    ("enum: enum with [1] does not match [true]", &["[1.0]"]),
    ("type: integer type matches integers", &["1.0"]),
    // No second is the 60th.
    (
        "date-time: validation of date-time strings",
        &[
            r#""1998-12-31T23:59:60Z""#,
            r#""1998-12-31T15:59:60.123-08:00""#,
        ],
    ),
    // No quotes, and no addresses in brackets.
    (
        "email: validation of e-mail addresses",
        &[
            r#""\"joe bloggs\"@example.com""#,
            r#""\"joe..bloggs\"@example.com""#,
            r#""\"joe@bloggs\"@example.com""#,
            r#""joe.bloggs@[127.0.0.1]""#,
            r#""joe.bloggs@[IPv6:::1]""#,
        ],
    ),
    // Hosts have short names without two hyphens in a row.
    (
        "hostname: validation of host names",
        &[
            r#""abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk.com""#,
            r#""a--b.com""#,
        ],
    ),
    (
        "hostname: validation of A-label (punycode) host names",
        &[
            r#""xn--9n2bp8q.xn--9t4b11yi5a""#,
            r#""xn--zca29lwxobi7a""#,
            r#""xn--qmbc""#,
            r#""xn--ll-0ea""#,
            r#""xn--wva3je""#,
            r#""xn--4dbc5h""#,
            r#""xn--4dbc8h""#,
            r#""xn--k8j5u""#,
            r#""xn--bck0j""#,
            r#""xn--vek778f""#,
            r#""xn--ngba1o""#,
            r#""xn--0-gyc""#,
            r#""xn--11b2ezcw70k""#,
            r#""xn--11b2ezcs70k""#,
            r#""xn--ngba5hb2804a""#,
        ],
    ),
    // No IPv6 address ends with an IPv4 address.
    (
        "ipv6: validation of IPv6 addresses",
        &[
            r#""1::d6:192.168.0.1""#,
            r#""1:2::192.168.0.1""#,
            r#""::ffff:192.168.0.1""#,
            r#""1000:1000:1000:1000:1000:1000:255.255.255.255""#,
        ],
    ),
    // No second is the 60th.
    (
        "time: validation of time strings",
        &[
            r#""23:59:60Z""#,
            r#""23:59:60+00:00""#,
            r#""01:29:60+01:30""#,
            r#""23:29:60+23:30""#,
            r#""15:59:60-08:00""#,
            r#""00:29:60-23:30""#,
        ],
    ),
    // No addresses in brackets.
    (
        "uri: validation of URIs",
        &[r#""ldap://[2001:db8::7]/c=GB?objectClass?one""#],
    ),
];

#[test]
fn white_space_is_that_of_printers() {
    let schema = json!({"properties": {"a": {"items": {"type": "integer"}}, "b": {}}});
    let bytes = from_json_schema(&schema, Whitespace::Printed).unwrap();
    let grammar = Grammar::open(&bytes).unwrap();
    let value = json!({"a": [1, 2, 3], "b": {"c": [[], {}, 1.5]}});
    for text in [
        value.to_string(),
        serde_json::to_string_pretty(&value).unwrap(),
    ] {
        assert!(grammar.matches(text.as_bytes()), "{text}");
    }
    for text in ["{  }", "{\n\n}", "{\"a\":  [1]}", " {}", "{} "] {
        assert!(!grammar.matches(text.as_bytes()), "{text:?}");
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name_and_place() {
    for (schema, expected) in [
        (
            json!({"type": "object", "patternProperties": {}}),
            "the schema: the keyword \"patternProperties\"",
        ),
        (
            json!({"properties": {"a": {"not": {}}}}),
            "/properties/a: the keyword \"not\"",
        ),
        (json!({"items": {"if": {}}}), "/items: the keyword \"if\""),
        (
            json!({"type": "string", "format": "color"}),
            "the format \"color\"",
        ),
        (json!({"uniqueItems": true}), "uniqueItems"),
        (json!({"$ref": "other.json"}), "other.json"),
        (json!({"$ref": "#/$defs/none"}), "names nothing"),
        (json!({"type": "thing"}), "the type \"thing\""),
        (json!({"pattern": "(?=a)"}), "look-around"),
        (
            json!({"pattern": "a\\bc"}),
            "at the ends of the pattern only",
        ),
        (
            json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
            "oneOf",
        ),
        (json!({"type": "number", "multipleOf": 0.01}), "multipleOf"),
        (json!({"type": "string", "minLength": 70000}), "65,534"),
        (
            json!({"properties": {"a": true, "b": true}, "minProperties": 1}),
            "minProperties",
        ),
        (json!(false), "allows no text"),
        (json!({"enum": []}), "allows no text"),
        (json!({"$ref": "#"}), "begins with itself"),
    ] {
        let refusal = from_json_schema(&schema, Whitespace::Unbounded)
            .unwrap_err()
            .to_string();
        assert!(refusal.contains(expected), "{schema}: {refusal}");
    }
}

#[test]
fn expressions_match_whole_texts() {
    for (expression, valid, invalid) in [
        ("yes|no", vec!["yes", "no"], vec!["y", "yesno", ""]),
        ("a*", vec!["", "a", "aaaa"], vec!["b"]),
        ("(ab){2,3}", vec!["abab", "ababab"], vec!["ab", "abababab"]),
        (
            "[a-z]{1,40}[0-9]",
            vec!["a1", "abcdefgh9"],
            vec!["1", "a", "a12"],
        ),
        ("[a-z]{1,40}z", vec!["az", "zz", "zzz"], vec!["z", "a"]),
        ("(a|b)*abb", vec!["abb", "aabb", "babb"], vec!["ab", "abba"]),
        (
            "(a{2,20}b){3,10}",
            vec!["aabaabaab", "aaabaabaaaab"],
            vec!["aabaab", "abaabaab"],
        ),
        (".", vec!["x", "é", "😀"], vec!["", "\n", "xy"]),
        ("\\d+(\\.\\d+)?", vec!["12", "1.5"], vec!["1.", ".5"]),
        ("(?i)abc", vec!["abc", "ABC", "aBc"], vec!["ab"]),
        ("^a$", vec!["a"], vec!["aa"]),
    ] {
        let bytes = from_regex(expression).unwrap();
        let grammar = Grammar::open(&bytes).unwrap();
        for text in valid {
            assert!(grammar.matches(text.as_bytes()), "{expression}: {text}");
        }
        for text in invalid {
            assert!(!grammar.matches(text.as_bytes()), "{expression}: {text}");
        }
    }
    for wrong in ["(", "a{3,2}", "[z-a]", "\\"] {
        from_regex(wrong).unwrap_err();
    }
}

#[test]
fn the_grammar_of_the_web_package_is_that_of_its_schema() {
    let schema = include_str!("../../examples/web/tests/person.schema.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    let bytes = from_json_schema(&schema, Whitespace::Printed).unwrap();
    assert_eq!(bytes, include_bytes!("../../examples/web/tests/person.plg"));
}

#[test]
fn gbnf_files_are_read() {
    let arithmetic = r#"
# sums and products
root ::= expr "\n"
expr ::= term (("+" | "-") term)*
term ::= factor (("*" | "/") factor)*
factor ::= number | "(" ws expr ws ")"
number ::= [0-9]+ ("." [0-9]{1,3})?
ws ::= [ \t]*
"#;
    let bytes = from_gbnf(arithmetic).unwrap();
    let grammar = Grammar::open(&bytes).unwrap();
    for valid in ["1\n", "1+2*3\n", "(1+2)*3.25\n", "( ( 1 ) )\n"] {
        assert!(grammar.matches(valid.as_bytes()), "{valid}");
    }
    for invalid in ["1", "1+\n", "(1\n", "1.2345\n"] {
        assert!(!grammar.matches(invalid.as_bytes()), "{invalid}");
    }
    for (text, expected) in [
        ("root ::= a", "there is no rule a"),
        ("a ::= \"x\"", "there is no rule root"),
        ("root ::= \"x", "line 1: a text has no end"),
        ("root ::= (\"x\"", "line 1: a parenthesis"),
        ("root := \"x\"", "NAME ::="),
        ("root ::= root \"x\" | \"x\"", "begins with itself"),
        ("root ::= \"a\" root", "allows no text"),
    ] {
        let refusal = from_gbnf(text).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{text}: {refusal}");
    }
}

/// Rules that lead to each other in a chain: `rule` writes one, with the name of the next.
fn chain(length: usize, rule: impl Fn(&str) -> String, last: &str) -> String {
    let rules = (0..length).map(|at| format!("r{at} ::= {}\n", rule(&format!("r{}", at + 1))));
    format!("{}r{length} ::= {last}\n", rules.collect::<String>())
}

#[test]
fn rules_that_share_parts_compile_at_once() {
    let twice = |next: &str| format!("{next} | {next}");
    let text = format!("root ::= r0{{3}}\n{}", chain(70, twice, "\"a\""));
    let bytes = from_gbnf(&text).unwrap();
    let grammar = Grammar::open(&bytes).unwrap();
    assert!(grammar.matches(b"aaa") && !grammar.matches(b"aa"));
}

/// Where a counted text begins, its first letter could also be one of the letters before it.
#[test]
fn a_count_that_begins_like_what_is_before_it_compiles_to_few_states() {
    let bytes = from_gbnf("root ::= [a-z]+ \"abcdefg\"{2,3}").unwrap();
    assert!(bytes.len() < 1000, "{} bytes", bytes.len());
    let grammar = Grammar::open(&bytes).unwrap();
    let texts = [
        "aabcdefgabcdefg",
        "abcdefgabcdefgabcdefg",
        "xabcabcdefgabcdefg",
    ];
    for text in texts {
        assert!(grammar.matches(text.as_bytes()), "{text}");
    }
    for text in ["abcdefgabcdefg", "xabcdefg", "xabcdefgabcdefgx"] {
        assert!(!grammar.matches(text.as_bytes()), "{text}");
    }
}

#[test]
fn a_rule_may_repeat_itself() {
    let bytes = from_gbnf("root ::= \"(\" root{3} \")\" | \"a\"").unwrap();
    let grammar = Grammar::open(&bytes).unwrap();
    for text in ["a", "(aaa)", "(a(aaa)(aa(aaa)))"] {
        assert!(grammar.matches(text.as_bytes()), "{text}");
    }
    for text in ["(aa)", "(aaaa)", "(a(aa)a)"] {
        assert!(!grammar.matches(text.as_bytes()), "{text}");
    }
    for text in [
        "root ::= root{3} \"a\" | \"b\"",
        "root ::= root{30,70} | \"b\"",
    ] {
        let refusal = from_gbnf(text).unwrap_err().to_string();
        assert!(refusal.contains("begins with itself"), "{refusal}");
    }
}

#[test]
fn a_grammar_that_takes_too_much_work_is_refused() {
    // The last rule leads back to the first one, so rules are called and not put in place.
    let may_end = |next: &str| format!("{next} \"x\" | \"\"");
    let rules = chain(450, may_end, "\"a\" | \"(\" root \")\"");
    let text = format!("root ::= r0{{3}}\n{rules}");
    let refusal = from_gbnf(&text).unwrap_err().to_string();
    assert!(refusal.contains("takes too many states"), "{refusal}");
}

#[test]
fn rules_that_lead_to_each_other_too_deep_are_refused() {
    let inside = |next: &str| format!("\"a\" {next}");
    let in_place = |length| format!("root ::= r0\n{}", chain(length, inside, "\"b\""));
    let called = |length| {
        let first = |next: &str| format!("{next} \"x\" | \"y\"");
        format!("root ::= r0\n{}", chain(length, first, "\"(\" r0 \")\""))
    };
    from_gbnf(&in_place(150)).unwrap();
    for (text, expected) in [
        (in_place(1500), "parts deep in other rules"),
        (called(1500), "begins with a rule that begins with a rule"),
    ] {
        let refusal = from_gbnf(&text).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[test]
fn nothing_is_allowed_that_cannot_be_closed() {
    let bytes = from_json_schema(&json!({}), Whitespace::Compact).unwrap();
    let grammar = Grammar::open(&bytes).unwrap();
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let deepest = (1..100)
        .rev()
        .find(|depth| grammar.matches(nested(*depth).as_bytes()));
    assert_eq!(deepest, Some(grammar.depth() + 1));
}

#[test]
fn a_large_schema_becomes_a_grammar_of_the_same_order() {
    for length in [100, 10_000, 60_000] {
        let schema = json!({"type": "string", "minLength": 1, "maxLength": length});
        let bytes = from_json_schema(&schema, Whitespace::Unbounded).unwrap();
        assert!(bytes.len() < 250, "{length}: {}", bytes.len());
    }
    let mut sizes = Vec::new();
    for (count, required) in [(1_000, true), (4_000, true), (1_000, false), (4_000, false)] {
        let names: Vec<String> = (0..count).map(|index| format!("property{index}")).collect();
        let properties: serde_json::Map<String, Value> = names
            .iter()
            .map(|name| (name.clone(), json!({"type": "integer"})))
            .collect();
        let schema = json!({
            "type": "object",
            "properties": properties,
            "required": if required { json!(names) } else { json!([]) },
            "additionalProperties": false,
        });
        let bytes = from_json_schema(&schema, Whitespace::Compact).unwrap();
        Grammar::open(&bytes).unwrap();
        sizes.push(bytes.len());
    }
    assert!(
        sizes[1] < 5 * sizes[0] && sizes[3] < 6 * sizes[2],
        "{sizes:?}"
    );
}

/// Tokenizer sections to test with: small ones of every kind, and those of real models. What is
/// missing is named; with `POCKETLM_MODELS` set, it is an error.
fn sections() -> Vec<(String, Vec<u8>)> {
    let mut paths: Vec<String> = ["bytes", "flags", "metaspace", "normalized"]
        .map(|name| format!("tests/data/tokenizers/{name}.json"))
        .into();
    if let Some(folder) = shared("models/pins") {
        paths.push(folder.display().to_string());
    }
    let section = |path: String| {
        let section = pocketlm::import::tokenizer::from_path(&path).unwrap();
        (path, section)
    };
    let mut sections: Vec<_> = paths.into_iter().map(section).collect();
    let given = std::env::var_os("POCKETLM_MODELS").map(PathBuf::from);
    let home = || std::env::home_dir().unwrap_or_default();
    let models = given
        .clone()
        .unwrap_or_else(|| home().join(".cache/pocketlm/models"));
    for name in [
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "gemma-3-270m-q4_k_m.gguf",
    ] {
        let path = models.join(name);
        if path.exists() {
            let section = pocketlm::import::gguf::tokenizer(&path).unwrap();
            sections.push((name.into(), section));
        } else {
            let missing = format!("{} is missing", path.display());
            assert!(given.is_none(), "{missing}, and POCKETLM_MODELS is set");
            eprintln!("not checked: {missing}");
        }
    }
    sections
}

/// A walk over tokens that a constraint allows, at most `steps`; calls `look` at each place.
fn walk(
    constraint: &mut Constraint<'_>,
    vocab_size: u32,
    numbers: &mut Numbers,
    steps: usize,
    mut look: impl FnMut(&Constraint<'_>, &[u32], &mut Numbers),
) {
    for _ in 0..steps {
        let allowed: Vec<u32> = (0..vocab_size)
            .filter(|id| constraint.allows(*id))
            .collect();
        look(constraint, &allowed, numbers);
        if allowed.is_empty() {
            return;
        }
        let id = numbers.pick(&allowed);
        assert!(constraint.accept(id));
    }
}

#[test]
fn a_mask_forbids_what_is_not_allowed_and_nothing_else() {
    let mut numbers = Numbers::new(1);
    for (name, section) in sections() {
        let tokenizer = Tokenizer::open(&section).unwrap();
        let vocabulary = Vocabulary::new(&tokenizer);
        let tree = Tree::new(&tokenizer);
        let with_tree = Vocabulary::with_tree(&tokenizer, &tree);
        let rows = tokenizer.vocab_size() + 3;
        let steps = if rows > 10_000 { 4 } else { 12 };
        for case in schemas() {
            if rows > 10_000 && !numbers.one_in(6) {
                continue;
            }
            let bytes = from_json_schema(&case["schema"], Whitespace::Unbounded).unwrap();
            let grammar = Grammar::open(&bytes).unwrap();
            let mut constraint = Constraint::new(&grammar, &vocabulary);
            walk(
                &mut constraint,
                rows,
                &mut numbers,
                steps,
                |constraint, allowed, numbers| {
                    let mut expected = vec![f32::NEG_INFINITY; rows as usize];
                    allowed
                        .iter()
                        .for_each(|id| expected[*id as usize] = *id as f32);
                    let logits: Vec<f32> = (0..rows).map(|id| id as f32).collect();
                    let mut masked = logits.clone();
                    constraint.mask(&mut masked);
                    assert!(
                        masked == expected,
                        "{name}, {}: {constraint:?}",
                        case["name"]
                    );
                    let budget = numbers.within(1..=rows / 8);
                    let (mut masked, mut masking) = (logits.clone(), Masking::new());
                    while !constraint.mask_step(&mut masking, &mut masked, budget) {}
                    assert!(masked == expected, "{name}, {}: in slices", case["name"]);
                    let mut same = Constraint::new(&grammar, &with_tree);
                    same.restore(&constraint.to_bytes()).unwrap();
                    let mut masked = logits;
                    same.mask(&mut masked);
                    assert!(masked == expected, "{name}, {}: by the tree", case["name"]);
                },
            );
        }
    }
}

/// The token that a sampler chooses in steps of the budgets that `budget` gives.
fn chosen(
    sampler: &mut Sampler<'_>,
    constraint: &Constraint<'_>,
    logits: &mut [f32],
    mut budget: impl FnMut() -> u32,
) -> Result<u32, Error> {
    let mut choice = Choice::new();
    loop {
        let step = sampler.step_constrained(&mut choice, constraint, logits, budget())?;
        if let Some(id) = step {
            return Ok(id);
        }
    }
}

#[test]
fn a_choice_is_that_of_the_masked_logits() {
    let mut numbers = Numbers::new(2);
    for (name, section) in sections().into_iter().take(5) {
        let tokenizer = Tokenizer::open(&section).unwrap();
        let vocabulary = Vocabulary::new(&tokenizer);
        let rows = tokenizer.vocab_size();
        for case in schemas() {
            let bytes = from_json_schema(&case["schema"], Whitespace::Compact).unwrap();
            let grammar = Grammar::open(&bytes).unwrap();
            let mut constraint = Constraint::new(&grammar, &vocabulary);
            walk(
                &mut constraint,
                rows,
                &mut numbers,
                6,
                |constraint, allowed, numbers| {
                    let logits: Vec<f32> = (0..rows).map(|_| 8.0 * numbers.float()).collect();
                    let mut masked = vec![f32::NEG_INFINITY; rows as usize];
                    allowed
                        .iter()
                        .for_each(|id| masked[*id as usize] = logits[*id as usize]);
                    let seed = u64::from(numbers.bits());
                    let infinite = [(numbers.within(0..=rows - 1), f32::INFINITY)];
                    let samplers: [&dyn Fn() -> Sampler<'static>; 4] = [
                        &Sampler::greedy,
                        &|| Sampler::new(seed).temperature(1.5),
                        &|| Sampler::new(seed).top_k(5).top_p(0.9).min_p(0.01),
                        &|| Sampler::new(seed).top_k(2),
                    ];
                    for sampler in samplers {
                        let (mut sampler, mut reference) = (sampler(), sampler());
                        let expected = reference.sample(&mut masked.clone());
                        let logits = &mut logits.clone();
                        let budget = || numbers.within(1..=100);
                        let found = chosen(&mut sampler, constraint, logits, budget);
                        assert_eq!(found, expected, "{name}, {}", case["name"]);
                    }
                    // A token that the bias forces, whether the grammar allows it or not, with
                    // several calls a pass.
                    let (mut window, mut other_window) = ([Recent::EMPTY; 8], [Recent::EMPTY; 8]);
                    let forced = |window| {
                        Sampler::greedy()
                            .logit_bias(&infinite)
                            .penalties(Penalties::over(window).repeat(1.3))
                    };
                    let mut reference = forced(&mut window);
                    let mut sampler = forced(&mut other_window);
                    for temperature in [0.0, 1.0] {
                        reference.set_temperature(temperature);
                        sampler.set_temperature(temperature);
                        let expected = reference.sample(&mut masked.clone());
                        let logits = &mut logits.clone();
                        let budget = || numbers.within(1..=1 + rows / 16);
                        let found = chosen(&mut sampler, constraint, logits, budget);
                        assert_eq!(found, expected, "{name}, {}: forced by bias", case["name"]);
                        // Without the bias, the next draw shows the generator and the window.
                        reference.set_logit_bias(&[]);
                        sampler.set_logit_bias(&[]);
                    }
                },
            );
        }
    }
}

#[test]
fn a_place_is_kept_and_restored() {
    let mut numbers = Numbers::new(3);
    let (_, section) = sections().swap_remove(0);
    let tokenizer = Tokenizer::open(&section).unwrap();
    let vocabulary = Vocabulary::new(&tokenizer);
    for case in schemas() {
        let bytes = from_json_schema(&case["schema"], Whitespace::Compact).unwrap();
        let grammar = Grammar::open(&bytes).unwrap();
        let mut constraint = Constraint::new(&grammar, &vocabulary);
        let rows = tokenizer.vocab_size();
        walk(
            &mut constraint,
            rows,
            &mut numbers,
            10,
            |constraint, allowed, _| {
                let mut other = Constraint::new(&grammar, &vocabulary);
                other.restore(&constraint.to_bytes()).unwrap();
                let theirs: Vec<u32> = (0..rows).filter(|id| other.allows(*id)).collect();
                assert_eq!(theirs, allowed);
            },
        );
        let refused = constraint.restore(&[0xFF; pocketlm::grammar::PLACE_BYTES]);
        assert_eq!(refused, Err(Error::GrammarDamaged));
    }
}

/// The text that the story model writes under a grammar, and how many passes it took.
fn written(bytes: &[u8], sampler: &mut Sampler, how: usize) -> (String, End, usize) {
    let model = Model::open(STORY).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let vocabulary = Vocabulary::new(&tokenizer);
    let mut arena = Arena::<{ PLAN.bytes() }>::new();
    let mut session = Session::new(&model, &PLAN, &mut arena, &Solo).unwrap();
    let prompt = "Once upon a time";
    let (mut ids, mut scratch) = ([0; 32], [0; 256]);
    let count = tokenizer
        .encode(prompt, EncodeOptions::default(), &mut scratch, &mut ids)
        .unwrap();
    let grammar = Grammar::open(bytes).unwrap();
    let constraint = Constraint::new(&grammar, &vocabulary);
    let mut text = String::new();
    let mut generation = Generation::new(&mut session, sampler, &tokenizer, &ids[..count])
        .limit(150)
        .grammar(constraint);
    let mut lookup = PromptLookup::new();
    let mut drafts = [0; 16];
    let mut passes = 0;
    let end = loop {
        let mut write = |chunk: &str| text.push_str(chunk);
        passes += 1;
        let end = match how {
            0 => generation.next(&mut write).unwrap(),
            1 => generation
                .next_drafted(&mut lookup, &mut drafts, &mut write)
                .unwrap(),
            budget => match generation.step(budget as u32, &mut write).unwrap() {
                Progress::Ended(end) => Some(end),
                Progress::Pending | Progress::Token => None,
            },
        };
        if let Some(end) = end {
            break end;
        }
    };
    (text, end, passes)
}

#[test]
fn a_text_obeys_its_grammar_however_it_is_asked_for() {
    let schema = json!({
        "type": "object",
        "properties": {
            "the name of the hero": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "what the hero likes most": {"enum": ["apples", "dogs", "the sea"]},
        },
        "required": ["the name of the hero", "age", "what the hero likes most"],
        "additionalProperties": false,
    });
    let bytes = from_json_schema(&schema, Whitespace::Compact).unwrap();
    let grammar = Grammar::open(&bytes).unwrap();
    for seed in 0..8 {
        let sampler = || match seed {
            0 => Sampler::greedy(),
            _ => Sampler::new(seed).temperature(1.5),
        };
        let (text, end, passes) = written(&bytes, &mut sampler(), 0);
        assert_eq!(end, End::Complete, "{text}");
        assert!(grammar.matches(text.as_bytes()), "{text}");
        serde_json::from_str::<Value>(&text).unwrap();
        for how in [1, 2, 50, 100_000] {
            let (same, same_end, drafted) = written(&bytes, &mut sampler(), how);
            assert_eq!((&same, same_end), (&text, end), "{how}");
            if how == 1 {
                eprintln!(
                    "seed {seed}: {passes} passes one by one, {drafted} with forced runs: {text}"
                );
                assert!(seed > 0 || drafted * 2 < passes, "{drafted} of {passes}");
            }
        }
    }
}

#[test]
fn a_damaged_grammar_is_refused_and_a_forged_one_is_safe() {
    let (_, section) = sections().swap_remove(0);
    let tokenizer = Tokenizer::open(&section).unwrap();
    let vocabulary = Vocabulary::new(&tokenizer);
    let tree = Tree::new(&tokenizer);
    let with_tree = Vocabulary::with_tree(&tokenizer, &tree);
    let schema =
        json!({"properties": {"a": {"$ref": "#"}, "b": {"type": "string", "maxLength": 30}}});
    let bytes = from_json_schema(&schema, Whitespace::Unbounded).unwrap();
    for length in 0..bytes.len() {
        Grammar::open(&bytes[..length]).unwrap_err();
    }
    Grammar::open(&[&bytes[..], &[0]].concat()).unwrap_err();
    let mut opened = 0;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            Grammar::open(&damaged).unwrap_err();
            // With a right checksum it is refused, or safe.
            let sum = crc32fast::hash(&[&damaged[..8], &damaged[12..]].concat());
            damaged[8..12].copy_from_slice(&sum.to_le_bytes());
            let Ok(grammar) = Grammar::open(&damaged) else {
                continue;
            };
            opened += 1;
            let mut constraint = Constraint::new(&grammar, &vocabulary);
            for id in 0..tokenizer.vocab_size() {
                constraint.accept(id);
                _ = (constraint.is_complete(), constraint.is_at_end());
            }
            let mut masked = vec![0.0; tokenizer.vocab_size() as usize];
            let mut masked_by_tree = masked.clone();
            constraint.mask(&mut masked);
            let mut by_tree = Constraint::new(&grammar, &with_tree);
            by_tree.restore(&constraint.to_bytes()).unwrap();
            by_tree.mask(&mut masked_by_tree);
            assert!(masked == masked_by_tree, "bit {bit} of byte {at}");
            constraint.forced(&mut [0; 4]);
        }
    }
    assert!(opened > 100, "{opened}");
}

/// More places than the tree has indices.
#[test]
fn a_tree_masks_seventy_thousand_values_that_begin_unlike() {
    let ranges = [
        '\u{4E00}'..='\u{9FFF}',
        '\u{AC00}'..='\u{D7A3}',
        '\u{20000}'..='\u{2A6DF}',
    ];
    let characters = ranges.into_iter().flatten().enumerate();
    let values: Vec<String> = characters
        .map(|(at, value)| format!("{value}{at}"))
        .collect();
    let bytes = from_json_schema(&json!({ "enum": values }), Whitespace::Compact).unwrap();
    let grammar = Grammar::open(&bytes).unwrap();
    for (name, section) in sections() {
        let tokenizer = Tokenizer::open(&section).unwrap();
        let vocabulary = Vocabulary::new(&tokenizer);
        let tree = Tree::new(&tokenizer);
        let with_tree = Vocabulary::with_tree(&tokenizer, &tree);
        let mut constraint = Constraint::new(&grammar, &vocabulary);
        let quote = tokenizer.token_to_id(b"\"");
        constraint.accept(quote.unwrap_or_default());
        let mut by_tree = Constraint::new(&grammar, &with_tree);
        by_tree.restore(&constraint.to_bytes()).unwrap();
        let mut masked = vec![0.0; tokenizer.vocab_size() as usize];
        let mut masked_by_tree = masked.clone();
        constraint.mask(&mut masked);
        by_tree.mask(&mut masked_by_tree);
        assert!(masked == masked_by_tree, "{name}");
    }
}

/// `open` does not see that an edge leads into the middle of a record, whose bytes there are a go-to
/// out of the code.
#[test]
fn no_text_leads_out_of_the_code_of_a_forged_grammar() {
    let (_, section) = sections().swap_remove(0);
    let tokenizer = Tokenizer::open(&section).unwrap();
    let vocabulary = Vocabulary::new(&tokenizer);
    let branch = [132, 0, 1, 0, 0, b'a', b'a', 10, 0];
    let range_and_end = [130, 128, 191, 131];
    let code = [&branch[..], &range_and_end].concat();
    let head = [&b"PGRM"[..], &[1, 2, 0, 0]].concat();
    let tables = [&[0; 4][..], &[code.len() as u8, 0, 0, 0], &[0; 4], &code].concat();
    let sum = crc32fast::hash(&[&head[..], &tables].concat());
    let bytes = [&head[..], &sum.to_le_bytes(), &tables].concat();
    let grammar = Grammar::open(&bytes).unwrap();
    let mut constraint = Constraint::new(&grammar, &vocabulary);
    constraint.accept(tokenizer.token_to_id(b"a").unwrap());
    let place = constraint.to_bytes();
    constraint.restore(&place).unwrap();
}

/// A line of `eval.tsv` is a request and the calls that are right for it.
#[test]
fn the_grammar_of_the_tools_of_pins_allows_every_right_call() {
    let Some(folder) = shared("models/pins") else {
        return;
    };
    let list = serde_json::from_slice(&std::fs::read(folder.join("tools.json")).unwrap()).unwrap();
    let bytes = Tools::parse(&list).unwrap();
    let bytes = bytes
        .grammar(ToolForm::FunctionGemma, true, &|_| true)
        .unwrap();
    assert!(bytes.len() < 4096, "{}", bytes.len());
    let eval = std::fs::read_to_string(folder.join("eval.tsv")).unwrap();
    let (_, section) = sections()
        .into_iter()
        .find(|(name, _)| name.ends_with("pins"))
        .unwrap();
    let tokenizer = Tokenizer::open(&section).unwrap();
    let vocabulary = Vocabulary::new(&tokenizer);
    let grammar = Grammar::open(&bytes).unwrap();
    let mut scratch = vec![0; tokenizer.scratch_len(1000)];
    for line in eval.lines().skip(1) {
        let expected = line.split('\t').next_back().unwrap();
        let mut ids = [0; 256];
        let options = EncodeOptions {
            add_special_tokens: false,
            ..EncodeOptions::default()
        };
        let count = tokenizer
            .encode(expected, options, &mut scratch, &mut ids)
            .unwrap();
        let mut constraint = Constraint::new(&grammar, &vocabulary);
        let fits = ids[..count].iter().all(|id| constraint.accept(*id));
        assert!(fits && constraint.is_complete(), "{line}");
    }
}
