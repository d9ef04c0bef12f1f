//! How long schemas take to compile.

use cpu_time::ThreadTime;
use pocketlm::import::grammar::{Whitespace, from_json_schema};
use serde_json::{Map, Value, json};

pub fn compile(schemas: &[(String, Value)]) {
    let mut times: Vec<(f64, &str)> = Vec::new();
    for (name, schema) in schemas {
        if let (time, Some(_)) = time(schema) {
            times.push((time, name));
        }
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (worst, name) = times[times.len() - 1];
    println!(
        "{} schemas, ms: median {:.2}, worst {worst:.2} ({name})",
        times.len(),
        times[times.len() / 2].0
    );
    for count in [1_000, 5_000, 50_000] {
        for (what, schema) in [
            ("required", properties(count, true, json!(false))),
            (
                "that may be left out",
                properties(count, false, json!(false)),
            ),
            (
                "with other names",
                properties(count, false, json!({ "type": "string" })),
            ),
        ] {
            report(&format!("{count} properties {what}"), &schema);
        }
    }
    for length in [100, 10_000, 60_000] {
        report(
            &format!("maxLength {length}"),
            &json!({ "type": "string", "maxLength": length }),
        );
        let schema = json!({ "type": "string", "pattern": "^[a-z]+$", "maxLength": length });
        report(&format!("maxLength {length} and a pattern"), &schema);
    }
    let values: Vec<String> = (0..50_000).map(|index| format!("value {index}")).collect();
    report("50000 values", &json!({ "enum": values }));
}

fn report(what: &str, schema: &Value) {
    match time(schema) {
        (time, Some(bytes)) => println!("{what}: {time:.1} ms, {bytes} bytes"),
        (time, None) => println!("{what}: refused after {time:.1} ms"),
    }
}

/// Milliseconds, and the bytes of the grammar if there is one.
fn time(schema: &Value) -> (f64, Option<usize>) {
    let start = ThreadTime::now();
    let bytes = from_json_schema(schema, Whitespace::Compact);
    (
        start.elapsed().as_secs_f64() * 1e3,
        bytes.ok().map(|bytes| bytes.len()),
    )
}

fn properties(count: usize, required: bool, others: Value) -> Value {
    let names: Vec<String> = (0..count)
        .map(|index| format!("property {index}"))
        .collect();
    let properties: Map<String, Value> = names
        .iter()
        .map(|name| (name.clone(), json!({ "type": "integer" })))
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": if required { json!(names) } else { json!([]) },
        "additionalProperties": others,
    })
}
