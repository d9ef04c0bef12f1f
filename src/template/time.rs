//! Python's `datetime.strftime` in the C locale.

use std::prelude::rust_2024::*;

use jiff::ZonedDateTime;

const DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The widest field that a format may ask for.
const WIDEST: usize = 1000;

/// The local time.
pub(super) fn now(format: &str) -> String {
    strftime(format, &ZonedDateTime::now())
}

/// A directive's value, and how it is filled up to which width.
struct Field {
    text: String,
    fill: char,
    width: usize,
}

/// `time` without its zone in `format`. Flags, widths and unknown directives are glibc's.
fn strftime(format: &str, time: &ZonedDateTime) -> String {
    let mut text = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let flags = rest[1..].find(|c| !"_-0^#".contains(c));
        let flags = flags.map_or(rest.len(), |len| 1 + len);
        let digits = rest[flags..].find(|c: char| !c.is_ascii_digit());
        let digits = digits.map_or(rest.len(), |len| flags + len);
        let letter = rest[digits..]
            .strip_prefix(['E', 'O'])
            .unwrap_or(&rest[digits..]);
        let Some(directive) = letter.chars().next() else {
            break;
        };
        let end = rest.len() - letter.len() + directive.len_utf8();
        // `%f` is Python's own and knows no flags.
        let known = directive != 'f' || rest[..end].len() == 2;
        let Some(mut field) = field(directive, time).filter(|_| known) else {
            text.push_str(&if rest[..flags].contains('^') {
                rest[..end].to_uppercase()
            } else {
                rest[..end].to_owned()
            });
            rest = &rest[end..];
            continue;
        };
        for flag in rest[1..flags].chars() {
            match flag {
                '_' => field.fill = ' ',
                '0' => field.fill = '0',
                '-' => (field.width, field.fill) = (0, ' '),
                '#' if matches!(directive, 'p' | 'Z') => field.text = field.text.to_lowercase(),
                '#' if !matches!(directive, 'a' | 'A' | 'b' | 'B' | 'h') => {}
                // `%P` is always in lower case.
                _ if directive == 'P' => {}
                _ => field.text = field.text.to_uppercase(),
            }
        }
        if let Ok(width) = rest[flags..digits].parse::<usize>() {
            field.width = width.min(WIDEST);
        }
        let missing = field.width.saturating_sub(field.text.len());
        text.extend(std::iter::repeat_n(field.fill, missing));
        text.push_str(&field.text);
        rest = &rest[end..];
    }
    text + rest
}

/// The value of a directive without flags; `None` for one that does not exist.
fn field(directive: char, time: &ZonedDateTime) -> Option<Field> {
    let field = clock(directive, time).or_else(|| calendar(directive, time));
    field.or_else(|| {
        Some(match directive {
            'c' => word(&strftime("%a %b %e %H:%M:%S %Y", time)),
            'n' => word("\n"),
            's' => number(time.timestamp().as_second(), 0),
            't' => word("\t"),
            // `datetime.now()` has no zone.
            'z' | 'Z' => word(""),
            '%' => word("%"),
            _ => return None,
        })
    })
}

/// The directives about the time of the day.
fn clock(directive: char, time: &ZonedDateTime) -> Option<Field> {
    let hour = i64::from(time.hour());
    let hour_12 = (hour + 11) % 12 + 1;
    let half = if hour < 12 { "AM" } else { "PM" };
    Some(match directive {
        // Of Python's own: always six digits.
        'f' => word(&format!("{:06}", time.subsec_nanosecond() / 1000)),
        'H' => number(hour, 2),
        'I' => number(hour_12, 2),
        'k' => spaced(hour),
        'l' => spaced(hour_12),
        'M' => number(time.minute().into(), 2),
        'p' => word(half),
        'P' => word(&half.to_lowercase()),
        'r' => word(&strftime("%I:%M:%S %p", time)),
        'R' => word(&strftime("%H:%M", time)),
        'S' => number(time.second().into(), 2),
        'T' | 'X' => word(&strftime("%H:%M:%S", time)),
        _ => return None,
    })
}

/// The directives about the day and the year.
fn calendar(directive: char, time: &ZonedDateTime) -> Option<Field> {
    let weekday = i64::from(time.weekday().to_monday_zero_offset());
    let day = DAYS[weekday as usize % 7];
    let month = MONTHS[(time.month() as usize + 11) % 12];
    let year_day = i64::from(time.day_of_year()) - 1;
    let year = i64::from(time.year());
    let week = time.iso_week_date();
    Some(match directive {
        'a' => word(&day[..3]),
        'A' => word(day),
        'b' | 'h' => word(&month[..3]),
        'B' => word(month),
        'C' => number(year.div_euclid(100), 2),
        'd' => number(time.day().into(), 2),
        'D' | 'x' => word(&strftime("%m/%d/%y", time)),
        'e' => spaced(time.day().into()),
        'F' => word(&strftime("%Y-%m-%d", time)),
        'g' => number(i64::from(week.year()).rem_euclid(100), 2),
        'G' => number(week.year().into(), 0),
        'j' => number(year_day + 1, 3),
        'm' => number(time.month().into(), 2),
        'u' => number(weekday + 1, 1),
        'U' => number((year_day + 7 - (weekday + 1) % 7) / 7, 2),
        'V' => number(week.week().into(), 2),
        'w' => number((weekday + 1) % 7, 1),
        'W' => number((year_day + 7 - weekday) / 7, 2),
        'y' => number(year.rem_euclid(100), 2),
        'Y' => number(year, 0),
        _ => return None,
    })
}

/// A number with zeros before it.
fn number(value: i64, width: usize) -> Field {
    Field {
        text: value.to_string(),
        fill: '0',
        width,
    }
}

/// A number of two digits, or of one with a space before it.
fn spaced(value: i64) -> Field {
    Field {
        text: value.to_string(),
        fill: ' ',
        width: 2,
    }
}

/// A text that is not padded.
fn word(text: &str) -> Field {
    Field {
        text: text.to_owned(),
        fill: ' ',
        width: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value as Json;

    #[test]
    fn every_directive_gives_what_python_gives() {
        let file = include_str!("../../tests/data/templates/strftime.json");
        let file: Json = serde_json::from_str(file).unwrap();
        let mut compared = 0;
        let mut differences = Vec::new();
        for moment in file.as_array().unwrap() {
            let timestamp: jiff::Timestamp = moment["utc"].as_str().unwrap().parse().unwrap();
            let time = ZonedDateTime::new(timestamp, jiff::tz::TimeZone::UTC);
            for (format, expected) in moment["texts"].as_object().unwrap() {
                let text = strftime(format, &time);
                if text != expected.as_str().unwrap() {
                    differences.push(format!("{format:?} {text:?} {expected}"));
                }
                compared += 1;
            }
        }
        assert!(compared > 100, "{compared}");
        assert!(differences.is_empty(), "{differences:#?}");
    }
}
