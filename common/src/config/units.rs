//! Durations and sizes as people write them: a whole number and a unit.

use std::time::Duration;

/// Units of time with their microseconds.
const TIME_UNITS: [(&str, u64); 6] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000)];

/// Units of size with their bytes. Only binary ones, so that nobody wonders which GB is meant.
const SIZE_UNITS: [(&str, u64); 5] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Reads `250ms`, `30s`, `24h`; `None` for anything else.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &TIME_UNITS).map(Duration::from_micros)
}

/// Reads `64MiB`, `8GiB`; `None` for anything else.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    parse(text, &SIZE_UNITS)
}

/// Writes a size with three digits and the unit that suits it: `1.50 MiB`.
#[must_use]
pub fn format_bytes(bytes: f64) -> String {
    let unit = SIZE_UNITS.iter().rev().find(|(_, factor)| bytes >= *factor as f64).unwrap_or(&SIZE_UNITS[0]);
    match unit {
        ("B", _) => format!("{bytes:.0} B"),
        (name, factor) => three_digits(bytes / *factor as f64, name),
    }
}

/// Writes seconds with three digits and the unit that suits them: `1.50 ms`, `12.3 s`.
#[must_use]
pub fn format_seconds(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 1e-3 => three_digits(seconds * 1e6, "us"),
        seconds if seconds < 1.0 => three_digits(seconds * 1e3, "ms"),
        seconds => three_digits(seconds, "s"),
    }
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn three_digits(number: f64, unit: &str) -> String {
    let decimals = match number {
        number if number >= 100.0 => 0,
        number if number >= 10.0 => 1,
        _ => 2,
    };
    format!("{number:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration(" 24 h "), Some(Duration::from_secs(24 * 3600)));
        assert_eq!(parse_bytes("64MiB"), Some(64 << 20));
        for text in ["", "250", "ms", "-1s", "1.5s", "1 parsec", "99999999999999999999s", "9999999999999d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for text in ["64MB", "1e3B", "GiB"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        assert_eq!(format_bytes(0.0), "0 B");
        assert_eq!(format_bytes(1023.0), "1023 B");
        assert_eq!(format_bytes(1.5 * 1024.0 * 1024.0), "1.50 MiB");
        assert_eq!(format_seconds(0.000_25), "250 us");
        assert_eq!(format_seconds(0.012_34), "12.3 ms");
        assert_eq!(format_seconds(123.4), "123 s");
    }
}
