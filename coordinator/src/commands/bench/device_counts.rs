//! Numbers of devices as they are typed: `1-8`, `2,4,8`.

/// The most devices: each is a process.
const DEVICES_MAX: u16 = 64;

/// In ascending order, each once, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceCounts(pub(super) Vec<u16>);

pub(super) fn parse_devices(text: &str) -> Result<DeviceCounts, String> {
    let wrong = || format!("write it like 1-8 or 2,4,8 with numbers from 1 to {DEVICES_MAX}");
    let number =
        |text: &str| text.trim().parse().ok().filter(|count| (1..=DEVICES_MAX).contains(count)).ok_or_else(wrong);
    let mut counts = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        counts.extend(number(first)?..=number(last)?);
    }
    counts.sort_unstable();
    counts.dedup();
    if counts.is_empty() { Err(wrong()) } else { Ok(DeviceCounts(counts)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_numbers_and_ranges() {
        let list = |text: &str| parse_devices(text).map(|counts| counts.0);
        assert_eq!(list("1-3,8,2"), Ok(vec![1, 2, 3, 8]));
        for text in ["", "0", "3-1", "65", "a", "1,"] {
            assert!(list(text).is_err(), "{text:?}");
        }
    }
}
