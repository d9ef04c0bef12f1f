use super::*;
#[test]
fn sweep() {
    let Some(folder) = shared("goldens/tokenizers") else { return };
    for family in FAMILIES {
        let path = folder.join(family).join("tokenizer.json");
        let ours = open(&path);
        let theirs = tokenizers::Tokenizer::from_file(&path).unwrap();
        let mut bad = vec![];
        for c in '\0'..=char::MAX {
            if !(c as u32).is_multiple_of(1) { continue }
            let text = format!("a{c}b1{c}2 {c} .{c}\u{301}e{c}");
            let want = theirs.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
            if want != encode(&ours, &text, PARSED) { bad.push(c as u32) }
        }
        let mut ranges: Vec<(u32,u32)> = vec![];
        for b in &bad { match ranges.last_mut() { Some((_, l)) if *l + 1 == *b => *l = *b, _ => ranges.push((*b, *b)) } }
        eprintln!("{family}: {} differ: {:X?}", bad.len(), ranges);
    }
}
