//! The kinds of characters that a [`Tree`](super::Tree) distinguishes, a bit each.

pub(super) const LOWER: u8 = 1;
pub(super) const UPPER: u8 = 2;
pub(super) const DIGIT: u8 = 4;
pub(super) const SPACE: u8 = 8;
/// Other printable ASCII that JSON does not escape.
pub(super) const PRINTED: u8 = 16;
/// Quote, backslash and control characters.
pub(super) const ESCAPED: u8 = 32;
/// Characters that are not ASCII.
pub(super) const WIDE: u8 = 64;
/// Not a kind: the token is not UTF-8, or the node is within a character. The walk reads its bytes.
pub(super) const BROKEN: u8 = 128;

/// How many kinds there are.
pub(super) const COUNT: usize = 7;

/// The values of a byte, from the first to the last.
type Bytes = (u8, u8);

const TAIL: Bytes = (0x80, 0xBF);

/// What characters of a kind look like: each form has the values of its bytes, one after the other.
const FORMS: [&[&[Bytes]]; COUNT] = [
    &[&[(b'a', b'z')]],
    &[&[(b'A', b'Z')]],
    &[&[(b'0', b'9')]],
    &[&[(b' ', b' ')]],
    &[
        &[(b'!', b'!')],
        &[(b'#', b'/')],
        &[(b':', b'@')],
        &[(b'[', b'[')],
        &[(b']', b'`')],
        &[(b'{', b'~')],
    ],
    &[
        &[(0, 0x1F)],
        &[(b'"', b'"')],
        &[(b'\\', b'\\')],
        &[(0x7F, 0x7F)],
    ],
    &[
        &[(0xC2, 0xDF), TAIL],
        &[(0xE0, 0xE0), (0xA0, 0xBF), TAIL],
        &[(0xE1, 0xEC), TAIL, TAIL],
        &[(0xED, 0xED), (0x80, 0x9F), TAIL],
        &[(0xEE, 0xEF), TAIL, TAIL],
        &[(0xF0, 0xF0), (0x90, 0xBF), TAIL, TAIL],
        &[(0xF1, 0xF3), TAIL, TAIL, TAIL],
        &[(0xF4, 0xF4), (0x80, 0x8F), TAIL, TAIL],
    ],
];

/// The forms of the characters of the kind with this bit.
pub(super) fn forms(bit: usize) -> &'static [&'static [Bytes]] {
    FORMS[bit]
}

/// The kinds of all characters of a token, and how many characters it has.
pub(super) fn of_token(piece: &[u8]) -> (u8, u8) {
    match core::str::from_utf8(piece) {
        Ok(text) => {
            let kinds = piece.iter().fold(0, |all, byte| all | of_byte(*byte));
            (kinds, text.chars().count() as u8)
        }
        Err(_) => (BROKEN, 0),
    }
}

/// The kind of the character that a byte of UTF-8 belongs to.
pub(super) fn of_byte(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' => LOWER,
        b'A'..=b'Z' => UPPER,
        b'0'..=b'9' => DIGIT,
        b' ' => SPACE,
        0..=0x1F | b'"' | b'\\' | 0x7F => ESCAPED,
        0x80.. => WIDE,
        _ => PRINTED,
    }
}

/// Whether a byte of UTF-8 is the first one of a character.
pub(super) fn begins_character(byte: u8) -> bool {
    !(TAIL.0..=TAIL.1).contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_those_of_all_characters() {
        for character in '\0'..=char::MAX {
            let mut bytes = [0; 4];
            let bytes = character.encode_utf8(&mut bytes).as_bytes();
            let fits = |form: &&[Bytes]| {
                let fits = |(byte, range): (&u8, &Bytes)| (range.0..=range.1).contains(byte);
                form.len() == bytes.len() && bytes.iter().zip(*form).all(fits)
            };
            let kinds = (0..COUNT).filter(|bit| forms(*bit).iter().any(fits));
            let kinds = kinds.fold(0, |all, bit| all | 1 << bit);
            assert_eq!(kinds, of_token(bytes).0, "{character:?}");
        }
    }
}
