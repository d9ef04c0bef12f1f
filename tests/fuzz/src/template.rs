//! Chat templates.

use pocketlm::chat::Template;
use serde_json::{Map, Value, json};

/// The source of a template, and behind a zero byte what the user says, or variables as JSON.
pub fn template(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let source = text();
    let said = text();
    let Ok(template) = Template::new(&source) else {
        return;
    };
    let variables = match serde_json::from_str(&said) {
        Ok(Value::Object(map)) => map,
        _ => conversation(&said),
    };
    let Ok(rendered) = template.render_with(&variables) else {
        return;
    };
    let special = ["<|im_end|>", "</s>", "<", "é", "a"].map(str::to_owned);
    let pieces = rendered.pieces(&special);
    let whole: String = pieces.iter().map(|(piece, _)| *piece).collect();
    assert_eq!(whole, rendered.text());
}

fn conversation(said: &str) -> Map<String, Value> {
    let variables = json!({
        "messages": [
            {"role": "system", "content": "Be <b>."},
            {"role": "user", "content": said},
            {"role": "assistant", "content": "<think>a</think>é", "tool_calls": [{"name": said}]},
        ],
        "tools": [{"function": {"name": "f", "parameters": {"a": [1, 2.5, null]}}}],
        "n": 3,
        "f": 0.5,
        "none": null,
        "add_generation_prompt": true,
    });
    match variables {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The snippets and the shapes of the tests, each with something said.
pub fn seeds() -> Vec<Vec<u8>> {
    let snippets = include_str!("../../data/templates/snippets.txt");
    let snippets = snippets.lines().filter(|line| !line.starts_with("# "));
    let shapes = [
        include_str!("../../data/templates/shapes/mistral-v3-tools.jinja"),
        include_str!("../../data/templates/shapes/qwen3-thinking.jinja"),
        include_str!("../../data/templates/shapes/functiongemma.jinja"),
    ];
    let said = "\0<|im_end|> \"x\"\n</s>é";
    let sources = snippets.map(|line| line.replace('⏎', "\n").replace('␍', "\r"));
    let sources = sources.chain(shapes.map(str::to_owned));
    sources.map(|source| (source + said).into_bytes()).collect()
}
