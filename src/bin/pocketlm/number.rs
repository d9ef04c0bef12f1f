//! Options that are whole numbers.

use std::ops::RangeInclusive;

/// Reads a whole number within `range`.
pub fn whole<N>(range: RangeInclusive<N>) -> impl Fn(&str) -> Result<N, String> + Clone
where
    N: Copy + PartialOrd + TryFrom<u64> + TryInto<u64> + Send + Sync,
{
    let least = as_u64(*range.start());
    let most = as_u64(*range.end());
    move |text: &str| {
        let number = text.parse::<u64>().ok();
        number
            .filter(|number| (least..=most).contains(number))
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| match most {
                // There is no upper bound.
                u64::MAX => format!("give a whole number, {least} or more"),
                _ => format!("give a whole number from {least} to {most}"),
            })
    }
}

fn as_u64<N: TryInto<u64>>(number: N) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_whole_number_in_the_range_is_refused_with_the_range() {
        assert_eq!(whole(1..=1024u16)("1024"), Ok(1024));
        assert_eq!(whole(0..=usize::MAX)("0"), Ok(0));
        for text in ["-1", "0", "1025", "1.5", "", "x", "99999999999999999999"] {
            let refusal = whole(1..=1024u16)(text);
            assert_eq!(
                refusal,
                Err("give a whole number from 1 to 1024".into()),
                "{text}"
            );
        }
        for text in ["-1", "1e3", "99999999999999999999"] {
            let refusal = whole(0..=u64::MAX)(text);
            assert_eq!(
                refusal,
                Err("give a whole number, 0 or more".into()),
                "{text}"
            );
        }
    }
}
