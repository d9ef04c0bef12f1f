//! The formats of JSON Schema, as regular expressions of whole texts.

macro_rules! date {
    () => {
        concat!(
            "[0-9]{4}-(",
            "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])",
            "|(0[469]|11)-(0[1-9]|[12][0-9]|30)",
            "|02-(0[1-9]|1[0-9]|2[0-8]))",
            // Leap years.
            "|([0-9]{2}(0[48]|[2468][048]|[13579][26])",
            "|([02468][048]|[13579][26])00)-02-29"
        )
    };
}

macro_rules! time {
    () => {
        concat!(
            r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?",
            "([zZ]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
        )
    };
}

/// Hours, minutes and seconds of a duration.
macro_rules! span_of_time {
    () => {
        "T[0-9]+(H([0-9]+M([0-9]+S)?)?|M([0-9]+S)?|S)"
    };
}

/// RFC 3339, appendix A: larger units first, none left out between two.
const DURATION: &str = concat!(
    "P([0-9]+W|[0-9]+(Y([0-9]+M([0-9]+D)?)?|M([0-9]+D)?|D)(",
    span_of_time!(),
    ")?|",
    span_of_time!(),
    ")"
);

/// A character before the at sign.
macro_rules! mail {
    () => {
        "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]"
    };
}

macro_rules! label {
    () => {
        "[a-zA-Z0-9](-?[a-zA-Z0-9]){0,15}"
    };
}

macro_rules! host {
    () => {
        concat!(label!(), r"(\.", label!(), "){0,6}")
    };
}

/// A number up to 255.
macro_rules! byte {
    () => {
        "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
    };
}

macro_rules! hex {
    () => {
        "[0-9a-fA-F]{1,4}"
    };
}

/// `$before` groups more than one before the gap, and at most `$after` more than one after it.
macro_rules! with_gap {
    ($before:literal, $after:literal) => {
        concat!(
            "|",
            hex!(),
            "(:",
            hex!(),
            "){",
            $before,
            "}::(",
            hex!(),
            ":){0,",
            $after,
            "}",
            hex!()
        )
    };
}

/// All groups, or a gap of two colons in place of some.
const IPV6: &str = concat!(
    "(",
    hex!(),
    ":){7}",
    hex!(),
    "|::(",
    hex!(),
    ":){0,6}",
    hex!(),
    "|",
    hex!(),
    "::(",
    hex!(),
    ":){0,5}",
    hex!(),
    with_gap!(1, 4),
    with_gap!(2, 3),
    with_gap!(3, 2),
    with_gap!(4, 1),
    "|",
    hex!(),
    "(:",
    hex!(),
    "){5}::",
    hex!(),
    "|(",
    hex!(),
    "(:",
    hex!(),
    "){0,6})?::"
);

/// Characters of a name in a URI; `$more` are others that may come there.
macro_rules! uri_characters {
    ($more:literal) => {
        concat!("([a-zA-Z0-9._~!$&'()*+,;=", $more, "-]|%[0-9a-fA-F]{2})")
    };
}

/// Further segments of a path.
macro_rules! segments {
    () => {
        concat!("(/", uri_characters!(":@"), "*)*")
    };
}

/// A query or a fragment.
macro_rules! after_path {
    () => {
        "([a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2}|[/?])*"
    };
}

/// RFC 3986, without addresses of IP version 6.
const URI: &str = concat!(
    "[a-zA-Z][a-zA-Z0-9+.-]*:(",
    // User, host and port.
    "//(",
    uri_characters!(":"),
    "*@)?",
    uri_characters!(""),
    "*(:[0-9]*)?",
    segments!(),
    "|/(",
    uri_characters!(":@"),
    "+",
    segments!(),
    ")?",
    "|",
    uri_characters!(":@"),
    "+",
    segments!(),
    r"|)(\?",
    after_path!(),
    ")?(#",
    after_path!(),
    ")?"
);

/// The pattern of a format.
pub(super) fn format_pattern(name: &str) -> Option<&'static str> {
    Some(match name {
        "date" => date!(),
        "time" => time!(),
        "date-time" => concat!("(", date!(), ")[tT]", time!()),
        "duration" => DURATION,
        "uuid" => r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
        // Names as long as every program takes them: 63 characters before the at sign, 31 in a
        // label.
        "email" => concat!(mail!(), r"(\.?", mail!(), "){0,31}@", host!()),
        "hostname" => host!(),
        "ipv4" => concat!(byte!(), r"(\.", byte!(), "){3}"),
        "ipv6" => IPV6,
        "uri" => URI,
        _ => return None,
    })
}
