//! Numbers of a range, as they are written in JSON.

use std::format;
use std::prelude::rust_2024::*;
use std::string::ToString;
use std::vec;

use super::expr::{Bytes, Id, Source};

/// The most digits before the point and after it where no bound has more: every program reads such
/// a number, and a small model that likes a digit cannot write it without end.
const DIGITS: u32 = 16;
/// The most digits of an exponent: more would be infinite in many programs.
const EXPONENT_DIGITS: u32 = 2;

/// A bound, and whether the bound itself is outside.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bound {
    pub(super) value: Decimal,
    pub(super) excluded: bool,
}

/// A decimal number: its digits before and after the point, without needless zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    pub(super) negative: bool,
    pub(super) whole: String,
    pub(super) fraction: String,
}

impl Decimal {
    /// Of a JSON number. `None` if it has more than 30 digits before or after the point.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(text) => (true, text),
            None => (false, text),
        };
        let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i32 = exponent.parse().ok()?;
        if exponent.abs() > 400 {
            return None;
        }
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all = format!("{whole}{fraction}");
        let point = whole.len() as i32 + exponent;
        let padded = match usize::try_from(-point) {
            Ok(zeros) => format!("{}{all}", "0".repeat(zeros)),
            Err(_) => format!("{all:0<width$}", width = point as usize),
        };
        let (whole, fraction) = padded.split_at(point.max(0) as usize);
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let is_zero = whole.is_empty() && fraction.is_empty();
        if whole.len() > 30 || fraction.len() > 30 {
            return None;
        }
        Some(Decimal {
            negative: negative && !is_zero,
            whole: if whole.is_empty() { "0" } else { whole }.into(),
            fraction: fraction.into(),
        })
    }

    fn is_zero(&self) -> bool {
        self.whole == "0" && self.fraction.is_empty()
    }

    /// As an integer, unless it has a fraction or is too large.
    pub(super) fn integer(&self) -> Option<i128> {
        let value: i128 = self.whole.parse().ok()?;
        self.fraction
            .is_empty()
            .then_some(if self.negative { -value } else { value })
    }

    /// The largest integer that is no larger.
    fn floor(&self) -> Option<i128> {
        let value: i128 = self.whole.parse().ok()?;
        Some(match (self.negative, self.fraction.is_empty()) {
            (false, _) => value,
            (true, true) => -value,
            (true, false) => -value - 1,
        })
    }
}

/// Any number.
pub(super) fn any_number(source: &mut Source) -> Id {
    let minus = source.literal(b"-");
    let minus = source.optional(minus);
    let whole = nonnegative(source, 0, None);
    let point = source.literal(b".");
    let fraction = digits(source, 1, Some(DIGITS));
    let fraction = source.seq(vec![point, fraction]);
    let fraction = source.optional(fraction);
    let e = source.set(Bytes::of(b"eE"));
    let sign = source.set(Bytes::of(b"+-"));
    let sign = source.optional(sign);
    let exponent = digits(source, 1, Some(EXPONENT_DIGITS));
    let exponent = source.seq(vec![e, sign, exponent]);
    let exponent = source.optional(exponent);
    source.seq(vec![minus, whole, fraction, exponent])
}

/// The integers of a range. There is no `-0`, which many programs read as a number that is no
/// integer.
pub(super) fn integers(
    source: &mut Source,
    low: Option<&Bound>,
    high: Option<&Bound>,
) -> Option<Id> {
    let low = match low {
        None => None,
        Some(bound) => {
            let floor = bound.value.floor()?;
            let is_it = bound.value.fraction.is_empty() && !bound.excluded;
            Some(if is_it { floor } else { floor + 1 })
        }
    };
    let high = match high {
        None => None,
        Some(bound) => {
            let floor = bound.value.floor()?;
            let is_outside = bound.value.fraction.is_empty() && bound.excluded;
            Some(if is_outside { floor - 1 } else { floor })
        }
    };
    let minus = source.literal(b"-");
    let mut parts = Vec::new();
    if let (Some(low), Some(high)) = (low, high)
        && low > high
    {
        return Some(source.never());
    }
    if low.is_none_or(|low| low < 0) {
        let least = high.map_or(1, |high| (-high).max(1));
        let below = nonnegative(source, least, low.map(|low| -low));
        parts.push(source.seq(vec![minus, below]));
    }
    if high.is_none_or(|high| high >= 0) {
        parts.push(nonnegative(source, low.unwrap_or(0).max(0), high));
    }
    Some(source.alt(parts))
}

/// The integers from `low`, at least 0, to `high`.
fn nonnegative(source: &mut Source, low: i128, high: Option<i128>) -> Id {
    let length = low.to_string().len();
    let mut parts = Vec::new();
    let longest = high.map_or(length, |high| high.to_string().len());
    for length in length..=longest {
        // Of this length.
        let least = 10i128.pow(length as u32 - 1);
        let least = if length == 1 { 0 } else { least };
        let most = 10i128.pow(length as u32) - 1;
        let (from, to) = (low.max(least), high.map_or(most, |high| high.min(most)));
        if from <= to {
            let (from, to) = (from.to_string(), to.to_string());
            parts.push(between(source, from.as_bytes(), to.as_bytes()));
        }
    }
    if high.is_none() {
        let first = source.set(Bytes::range(b'1', b'9'));
        let length = length as u32;
        let others = digits(source, length, Some(length.max(DIGITS - 1)));
        parts.push(source.seq(vec![first, others]));
    }
    source.alt(parts)
}

/// Digits as many as `from` and `to` have, from the one to the other.
fn between(source: &mut Source, from: &[u8], to: &[u8]) -> Id {
    let (Some((first, from)), Some((last, to))) = (from.split_first(), to.split_first()) else {
        return source.empty();
    };
    let rest = from.len() as u32;
    let (all_from, all_to) = (
        from.iter().all(|digit| *digit == b'0'),
        to.iter().all(|digit| *digit == b'9'),
    );
    if first == last && !(all_from && all_to) {
        let first = source.literal(&[*first]);
        let others = between(source, from, to);
        return source.seq(vec![first, others]);
    }
    let mut parts = Vec::new();
    let (mut low, mut high) = (*first, *last);
    let nines = vec![b'9'; from.len()];
    let zeros = vec![b'0'; to.len()];
    if !all_from {
        let first = source.literal(&[low]);
        let others = between(source, from, &nines);
        parts.push(source.seq(vec![first, others]));
        low += 1;
    }
    let upper = (!all_to).then(|| {
        let last = source.literal(&[high]);
        let others = between(source, &zeros, to);
        high -= 1;
        source.seq(vec![last, others])
    });
    if low <= high {
        let first = source.set(Bytes::range(low, high));
        let others = digits(source, rest, Some(rest));
        parts.push(source.seq(vec![first, others]));
    }
    parts.extend(upper);
    source.alt(parts)
}

fn digits(source: &mut Source, min: u32, max: Option<u32>) -> Id {
    let digit = source.set(Bytes::range(b'0', b'9'));
    source.repeat(digit, min, max)
}

/// The numbers of a range, without an exponent if there is a bound.
pub(super) fn numbers(
    source: &mut Source,
    low: Option<&Bound>,
    high: Option<&Bound>,
) -> Option<Id> {
    if low.is_none() && high.is_none() {
        return Some(any_number(source));
    }
    let minus = source.literal(b"-");
    let mut parts = Vec::new();
    let zero = || Bound {
        value: Decimal {
            negative: false,
            whole: "0".into(),
            fraction: String::new(),
        },
        excluded: true,
    };
    // Numbers below zero: their sizes are those of a range the other way round.
    let below_zero = low.is_none_or(|low| low.value.negative);
    if below_zero {
        let least = match high {
            Some(high) if high.value.negative => high.clone(),
            _ => zero(),
        };
        let sizes = sizes(source, &least, low)?;
        parts.push(source.seq(vec![minus, sizes]));
    }
    let above = high.is_none_or(|high| !high.value.negative);
    if above {
        let least = match low {
            Some(low) if !low.value.negative => low.clone(),
            _ => Bound {
                excluded: false,
                ..zero()
            },
        };
        let nothing = high.is_some_and(|high| high.value.is_zero() && high.excluded);
        if !nothing {
            let sizes = sizes(source, &least, high)?;
            parts.push(sizes);
        }
    }
    Some(source.alt(parts))
}

/// Numbers from `low` to `high`, whose signs do not count.
fn sizes(source: &mut Source, low: &Bound, high: Option<&Bound>) -> Option<Id> {
    let low_whole: i128 = low.value.whole.parse().ok()?;
    let point = source.literal(b".");
    let some = digits(source, 1, Some(DIGITS));
    let with_any_fraction = |source: &mut Source, whole: Id| {
        let fraction = source.seq(vec![point, some]);
        let fraction = source.optional(fraction);
        source.seq(vec![whole, fraction])
    };
    let whole_of = |source: &mut Source, value: i128| source.literal(value.to_string().as_bytes());
    let mut parts = Vec::new();
    let Some(high) = high else {
        let whole = whole_of(source, low_whole);
        let fraction = fraction(source, Some(low), None, point);
        parts.push(source.seq(vec![whole, fraction]));
        let more = nonnegative(source, low_whole + 1, None);
        parts.push(with_any_fraction(source, more));
        return Some(source.alt(parts));
    };
    let high_whole: i128 = high.value.whole.parse().ok()?;
    if low_whole > high_whole {
        return Some(source.never());
    }
    if low_whole == high_whole {
        let whole = whole_of(source, low_whole);
        let fraction = fraction(source, Some(low), Some(high), point);
        return Some(source.seq(vec![whole, fraction]));
    }
    let whole = whole_of(source, low_whole);
    let lower = fraction(source, Some(low), None, point);
    parts.push(source.seq(vec![whole, lower]));
    if low_whole + 1 < high_whole {
        let middle = nonnegative(source, low_whole + 1, Some(high_whole - 1));
        parts.push(with_any_fraction(source, middle));
    }
    let whole = whole_of(source, high_whole);
    let upper = fraction(source, None, Some(high), point);
    parts.push(source.seq(vec![whole, upper]));
    Some(source.alt(parts))
}

/// What may come after the whole part of a bound: nothing, or a point and digits.
fn fraction(source: &mut Source, low: Option<&Bound>, high: Option<&Bound>, point: Id) -> Id {
    let text = |bound: Option<&Bound>| bound.map(|bound| bound.value.fraction.clone());
    let (from, to) = (text(low), text(high));
    let (from_out, to_out) = (
        low.is_some_and(|low| low.excluded),
        high.is_some_and(|high| high.excluded),
    );
    // No fraction is a fraction of zeros.
    let zero_is_low = from.as_ref().is_some_and(String::is_empty);
    let zero_is_high = to.as_ref().is_some_and(String::is_empty);
    let has_none = from
        .as_ref()
        .is_none_or(|from| from.is_empty() && !from_out)
        && !(zero_is_high && to_out)
        && !(zero_is_low && from_out);
    let dfa = digits_between(
        from.as_deref().map(|digits| (digits, from_out)),
        to.as_deref().map(|digits| (digits, to_out)),
    );
    let digits = source.automaton(dfa);
    let with_point = source.seq(vec![point, digits]);
    if has_none {
        return source.optional(with_point);
    }
    with_point
}

/// One or more digits after a point whose value is between two bounds.
fn digits_between(low: Option<(&str, bool)>, high: Option<(&str, bool)>) -> super::expr::Dfa {
    use super::dfa::from_step;
    // How many digits of a bound the text equals so far; `None` if it is beyond it.
    type At = Option<usize>;
    let next = |bound: Option<(&str, bool)>, at: At, digit: u8, below: bool| -> Option<At> {
        let (Some((digits, _)), Some(at)) = (bound, at) else {
            return Some(None);
        };
        let expected = digits.as_bytes().get(at).copied().unwrap_or(b'0');
        match digit.cmp(&expected) {
            core::cmp::Ordering::Equal => Some(Some((at + 1).min(digits.len()))),
            core::cmp::Ordering::Less => below.then_some(None),
            core::cmp::Ordering::Greater => (!below).then_some(None),
        }
    };
    let longest = |bound: Option<(&str, bool)>| bound.map_or(0, |bound| bound.0.len() as u32 + 1);
    let most = DIGITS.max(longest(low)).max(longest(high));
    let start: (At, At, u32) = (low.map(|_| 0), high.map(|_| 0), 0);
    from_step(
        start,
        |(low_at, high_at, count), byte| {
            if !byte.is_ascii_digit() || *count == most {
                return None;
            }
            Some((
                next(low, *low_at, byte, false)?,
                next(high, *high_at, byte, true)?,
                count + 1,
            ))
        },
        |(low_at, high_at, count)| {
            // The digits that are missing are zeros.
            let low_fits = match (low, low_at) {
                (Some((digits, out)), Some(at)) => *at == digits.len() && !out,
                _ => true,
            };
            let high_fits = match (high, high_at) {
                (Some((digits, out)), Some(at)) => *at < digits.len() || !out,
                _ => true,
            };
            *count > 0 && low_fits && high_fits
        },
    )
}

/// Integers, with or without a sign, that `divisor` divides.
pub(super) fn multiples(divisor: u32) -> super::expr::Dfa {
    use super::dfa::from_step;
    #[derive(Clone, PartialEq, Eq, Hash)]
    enum At {
        Start,
        Sign,
        Rest(u32),
    }
    from_step(
        At::Start,
        |at, byte| match (at, byte) {
            (At::Start, b'-') => Some(At::Sign),
            (at, b'0'..=b'9') => {
                let before = match at {
                    At::Rest(rest) => *rest,
                    At::Start | At::Sign => 0,
                };
                let value = u64::from(before) * 10 + u64::from(byte - b'0');
                Some(At::Rest((value % u64::from(divisor)) as u32))
            }
            _ => None,
        },
        |at| *at == At::Rest(0),
    )
}
