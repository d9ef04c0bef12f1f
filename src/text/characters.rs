//! Walking through the characters of a text.

use core::str::Chars;

/// The characters of a text: [`str::chars`], but where flash is scarce compiled once, not in each
/// loop over it.
pub(crate) struct Characters<'t>(Chars<'t>);

pub(crate) fn characters(text: &str) -> Characters<'_> {
    Characters(text.chars())
}

impl Iterator for Characters<'_> {
    type Item = char;

    #[cfg_attr(target_os = "none", inline(never))]
    fn next(&mut self) -> Option<char> {
        self.0.next()
    }
}

/// The length in bytes of the longest start of `text` that is made of characters `of`.
pub(crate) fn run_length(text: &str, mut of: impl FnMut(char) -> bool) -> usize {
    let mut length = 0;
    for character in characters(text) {
        if !of(character) {
            break;
        }
        length += character.len_utf8();
    }
    length
}

/// The last character of a text.
pub(crate) fn last(text: &str) -> Option<char> {
    // A character is its first byte and those after it that only go on.
    let length = 1 + text
        .bytes()
        .rev()
        .take_while(|byte| byte & 0xC0 == 0x80)
        .count();
    characters(text.get(text.len().checked_sub(length)?..)?).next()
}
