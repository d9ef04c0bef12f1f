//! Parses and prints sizes in bytes.

/// Parses `270336`, `264K`, `264KiB`, `1.5M`, `2MB`: K, M and G with or without `iB` are powers of
/// 1024 as in data sheets of chips; `kB`, `MB` and `GB` are powers of 1000.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err("give a number of bytes, 0 or more".into());
    }
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 =
        match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "ki" | "kib" => 1 << 10,
            "m" | "mi" | "mib" => 1 << 20,
            "g" | "gi" | "gib" => 1 << 30,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err(
                "give bytes, or K, M or G (as in 264K, 2M, 1MiB; KB, MB and GB are powers of 1000)"
                    .into(),
            ),
        };
    if let Ok(whole) = number.parse::<u64>() {
        return whole
            .checked_mul(unit)
            .ok_or("larger than any memory".into());
    }
    match number.parse::<f64>() {
        Ok(number) if number * (unit as f64) < 9e18 => Ok((number * unit as f64) as u64),
        Ok(_) => Err("larger than any memory".into()),
        Err(_) => Err("give a number of bytes, such as 270336, 264K, 2M or 1MiB".into()),
    }
}

/// `1234567` as `1.18 MiB`, `500` as `500 B`.
pub fn show(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1024 => return format!("{bytes} B"),
        1024..0x10_0000 => (1u64 << 10, "KiB"),
        0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
        _ => (1 << 30, "GiB"),
    };
    format!("{:.2} {name}", bytes as f64 / unit as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_data_sheets_mean_them() {
        for (text, bytes) in [
            ("0", 0),
            ("270336", 270_336),
            ("264K", 270_336),
            ("264k", 270_336),
            ("264 KiB", 270_336),
            ("2M", 2_097_152),
            ("1MiB", 1_048_576),
            ("1.5M", 1_572_864),
            ("2MB", 2_000_000),
            ("10kB", 10_000),
            ("16G", 17_179_869_184),
            ("7b", 7),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "K",
            "-1",
            "2X",
            "1.2.3M",
            "99999999999G",
            "1e3",
            "0x10",
            "20000000000.5G",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_show_in_the_largest_unit_that_fits() {
        let shown = [1023, 1024, 1_234_567, 3 << 30].map(show);
        assert_eq!(shown, ["1023 B", "1.00 KiB", "1.18 MiB", "3.00 GiB"]);
    }
}
