//! Every public type of the core can be logged by defmt: its `Format` is derived where it is
//! defined, or written out in `log.rs` or `defmt_format.rs`. That they compile is for

//! `cargo clippy --features defmt`.

use std::fs;
use std::path::Path;

#[test]
fn every_public_type_of_the_core_has_a_defmt_format() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let written_out = ["src/log.rs", "kernels/src/defmt_format.rs"]
        .map(|file| fs::read_to_string(root.join(file)).unwrap())
        .concat();
    let mut files = vec![root.join("src/error.rs")];
    let mut folders = ["src/model", "src/run", "src/text", "kernels/src"]
        .map(|folder| root.join(folder))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path)
            } else {
                files.push(path)
            }
        }
    }

    let mut types = 0;
    let mut missing = Vec::new();
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        let mut attributes = String::new();
        for line in source.lines() {
            let declared = ["pub struct ", "pub enum "]
                .iter()
                .find_map(|keyword| line.strip_prefix(keyword));
            let Some(declared) = declared else {
                // The attributes of a type are the lines before it.
                if line.starts_with("#[") || line.starts_with("//") {
                    attributes.push_str(line);
                } else {
                    attributes.clear();
                }
                continue;
            };
            let name = declared
                .split(|c: char| !c.is_alphanumeric())
                .next()
                .unwrap();
            let by_hand = ["", "<"].iter().any(|end| {
                let after = |path: &str| {
                    written_out.contains(&format!(
                        "{path}{name}{}",
                        if end.is_empty() { " {" } else { end }
                    ))
                };
                after("Format for ") || after("Format for crate::run::")
            });
            types += 1;
            if !by_hand
                && !attributes.contains("derive(defmt::Format)")
                && !attributes.contains("doc(hidden)")
            {
                missing.push(format!("{}: {name}", file.display()));
            }
        }
    }
    assert!(types > 30, "only {types} types were found");
    assert!(missing.is_empty(), "no defmt::Format: {missing:#?}");
}
