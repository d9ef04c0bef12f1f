//! Why the tokens that are allowed here are not those that llguidance allows.

/// What differs at a place.
pub struct Difference<'d> {
    /// The text so far.
    pub text: &'d [u8],
    /// The schema, as JSON.
    pub schema: &'d str,
    /// The tokens that are only allowed here, and there.
    pub here: Vec<&'d [u8]>,
    pub there: Vec<&'d [u8]>,
    /// Whether the text may end.
    pub ends_here: bool,
    pub ends_there: bool,
}

/// Where in JSON a text ends.
#[derive(Debug, PartialEq)]
enum At<'t> {
    /// In a string, after this of it; whether it is the name of a member.
    String { inside: &'t [u8], is_name: bool },
    /// After these characters of a number, if there are any.
    Other { number: &'t [u8] },
}

/// The reason, or `None` if none is known.
pub fn reason(difference: &Difference) -> Option<&'static str> {
    let Difference {
        schema,
        here,
        there,
        ..
    } = difference;
    let has = |format: &str| schema.contains(&format!("\"format\":\"{format}\""));
    let only_there = here.is_empty() && difference.ends_here >= difference.ends_there;
    let ends_only = here.is_empty() && there.is_empty();
    match at(difference.text) {
        At::String { is_name: true, .. } if only_there => {
            let escaped = |piece: &&[u8]| piece.contains(&b'\\');
            let is_escape = difference.text.ends_with(b"\\") || there.iter().any(escaped);
            let in_escape = difference
                .text
                .iter()
                .rev()
                .take(5)
                .any(|byte| *byte == b'\\');
            (is_escape || in_escape)
                .then_some("a name in disguise: no \\u of printable characters here")
        }
        At::String {
            inside,
            is_name: false,
        } if only_there => {
            let is_time = has("time") || has("date-time");
            let colons = inside.iter().filter(|byte| **byte == b':').count();
            let six = |piece: &&[u8]| piece.contains(&b'6');
            if is_time && colons >= 1 && there.iter().all(six) {
                return Some("no second is the 60th here");
            }
            if is_time && !there.is_empty() && has("date-time") && inside.len() < 10 {
                return Some("February has 29 days in leap years only here");
            }
            if has("date") && inside.len() < 11 {
                return Some("February has 29 days in leap years only here");
            }
            if has("email") {
                return Some(
                    "mail addresses: hosts are short names without two hyphens in a row here",
                );
            }
            if has("hostname") {
                return Some("hosts are short names without two hyphens in a row here");
            }
            if has("uri") {
                return Some("URIs have names of hosts, not addresses in brackets here");
            }
            None
        }
        At::Other { number } => of_number(difference, number, only_there, ends_only),
        _ => None,
    }
}

fn of_number(
    difference: &Difference,
    number: &[u8],
    only_there: bool,
    ends_only: bool,
) -> Option<&'static str> {
    let Difference { there, .. } = difference;
    let zero = |piece: &&[u8]| piece.starts_with(b"0") || piece.windows(2).any(|two| two == b"-0");
    if only_there && !there.is_empty() && there.iter().all(zero) {
        return Some("integers have no -0 here");
    }
    if number.len() >= 14 && only_there {
        return Some("numbers have at most 16 digits before and after the point here");
    }
    let has = |byte: &u8| number.contains(byte);
    if (has(&b'e') || has(&b'E')) && only_there {
        return Some("exponents have at most 2 digits here");
    }
    let bounded = ["inimum", "aximum"]
        .iter()
        .any(|bound| difference.schema.contains(bound));
    if !bounded {
        return None;
    }
    // What may follow the number may be in the difference as well.
    let follows = |piece: &&[u8]| !piece.starts_with(b".") && !piece[0].is_ascii_digit();
    let ends_here = there.is_empty() && difference.here.iter().all(follows);
    if has(&b'.') && (ends_only || ends_here) {
        return Some("a number with a bound may end in other digits than the bound here");
    }
    let is_zero = |piece: &&[u8]| piece.iter().all(|byte| *byte == b'0');
    let are_zeros = |pieces: &[&[u8]]| pieces.iter().all(is_zero);
    if has(&b'.') && are_zeros(&difference.here) && are_zeros(there) {
        return Some("a number that equals a bound may end in zeros here");
    }
    None
}

fn at(text: &[u8]) -> At<'_> {
    let (mut start, mut is_escaped, mut is_value) = (None, false, true);
    let mut opens = Vec::new();
    for (place, byte) in text.iter().enumerate() {
        match (start, byte) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some(_), b'\\') => is_escaped = true,
            (Some(_), b'"') => start = None,
            (Some(_), _) => {}
            (None, b'"') => start = Some(place + 1),
            (None, b'{' | b'[') => {
                opens.push(*byte);
                is_value = *byte == b'[';
            }
            (None, b'}' | b']') => _ = opens.pop(),
            (None, b':') => is_value = true,
            (None, b',') => is_value = opens.last() == Some(&b'['),
            (None, _) => {}
        }
    }
    match start {
        Some(start) => At::String {
            inside: &text[start..],
            is_name: !is_value,
        },
        None => {
            let of_number = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
            let length = text.iter().rev().take_while(|byte| of_number(byte)).count();
            At::Other {
                number: &text[text.len() - length..],
            }
        }
    }
}
