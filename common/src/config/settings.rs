//! The defaults with the operator's file laid over them, read key by key into types.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::document::{Document, Leaf, Value};
use super::{SettingsError, nearest, parse_bytes, parse_duration};

/// The most bytes that a configuration file may have: a hundred times the largest sensible one.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// Values by key; reading one checks its type and range.
#[derive(Clone, Debug)]
pub struct Settings {
    leaves: BTreeMap<String, Leaf>,
}

impl Settings {
    /// The defaults alone.
    pub fn defaults(default_toml: &str) -> Result<Self, SettingsError> {
        Document::parse("default.toml", default_toml).map(|document| Self { leaves: document.leaves })
    }

    /// The defaults with a file laid over them.
    pub fn load(default_toml: &str, file: &Path) -> Result<Self, SettingsError> {
        let name = file.display().to_string();
        let unreadable = |reason: String| SettingsError::Unreadable { file: name.clone(), reason };
        let metadata = std::fs::metadata(file).map_err(|error| unreadable(error.to_string()))?;
        if metadata.len() > FILE_LIMIT_BYTES {
            return Err(unreadable(format!("it has {} bytes, more than {FILE_LIMIT_BYTES}", metadata.len())));
        }
        let text = std::fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
        Self::defaults(default_toml)?.overlaid(&name, &text)
    }

    /// These settings with a file's text laid over them. A key that is not there already is refused.
    pub fn overlaid(mut self, file: &str, text: &str) -> Result<Self, SettingsError> {
        for (key, leaf) in Document::parse(file, text)?.leaves {
            match self.leaves.get_mut(&key) {
                Some(default) => *default = leaf,
                None => return Err(self.unknown(&key, leaf)),
            }
        }
        Ok(self)
    }

    /// A text; may be empty.
    pub fn text(&self, key: &str) -> Result<&str, SettingsError> {
        match self.leaf(key)? {
            Leaf { value: Value::Text(text), .. } => Ok(text),
            leaf => Err(wrong_type(key, leaf, "a text in quotes")),
        }
    }

    /// A text that something else reads: what `parse` refuses is reported with `expected`.
    pub fn parsed<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, SettingsError> {
        let leaf = self.leaf(key)?;
        let Value::Text(text) = &leaf.value else {
            return Err(wrong_type(key, leaf, expected));
        };
        parse(text).ok_or_else(|| bad_value(key, leaf, expected.to_owned()))
    }

    /// A duration that is not zero, such as `"250ms"`.
    pub fn duration(&self, key: &str) -> Result<Duration, SettingsError> {
        let parse = |text: &str| parse_duration(text).filter(|duration| !duration.is_zero());
        self.parsed(key, "a duration in quotes such as \"250ms\", \"30s\" or \"24h\"", parse)
    }

    /// A size that is not zero, such as `"64MiB"`.
    pub fn bytes(&self, key: &str) -> Result<u64, SettingsError> {
        let parse = |text: &str| parse_bytes(text).filter(|&bytes| bytes > 0);
        self.parsed(key, "a size in quotes such as \"64MiB\"", parse)
    }

    /// A whole number in a range.
    pub fn whole<T: TryFrom<i64> + Into<i64> + Copy>(
        &self,
        key: &str,
        range: RangeInclusive<T>,
    ) -> Result<T, SettingsError> {
        let leaf = self.leaf(key)?;
        let Value::Whole(number) = leaf.value else {
            return Err(wrong_type(key, leaf, "a whole number"));
        };
        let (first, last): (i64, i64) = ((*range.start()).into(), (*range.end()).into());
        let within = (first..=last).contains(&number);
        let converted = T::try_from(number).ok().filter(|_| within);
        converted.ok_or_else(|| bad_value(key, leaf, format!("a whole number from {first} to {last}")))
    }

    /// A number in a range; whole numbers will do.
    pub fn number(&self, key: &str, range: RangeInclusive<f64>) -> Result<f64, SettingsError> {
        let leaf = self.leaf(key)?;
        let number = match leaf.value {
            Value::Decimal(number) => number,
            Value::Whole(number) => number as f64,
            _ => return Err(wrong_type(key, leaf, "a number")),
        };
        let expected = || format!("a number from {} to {}", range.start(), range.end());
        if range.contains(&number) { Ok(number) } else { Err(bad_value(key, leaf, expected())) }
    }

    /// `true` or `false`.
    pub fn switch(&self, key: &str) -> Result<bool, SettingsError> {
        match self.leaf(key)? {
            Leaf { value: Value::Switch(switch), .. } => Ok(*switch),
            leaf => Err(wrong_type(key, leaf, "true or false")),
        }
    }

    fn leaf(&self, key: &str) -> Result<&Leaf, SettingsError> {
        self.leaves.get(key).ok_or_else(|| SettingsError::NoDefault { key: key.to_owned() })
    }

    fn unknown(&self, key: &str, leaf: Leaf) -> SettingsError {
        let table = format!("{key}.");
        let advice = match nearest(key, self.leaves.keys().map(String::as_str)) {
            _ if self.leaves.keys().any(|known| known.starts_with(&table)) => {
                format!("{key} is a table: write [{key}] and the keys below it")
            }
            Some(known) => format!("did you mean {known}?"),
            None => format!("known keys are {}", self.leaves.keys().cloned().collect::<Vec<_>>().join(", ")),
        };
        SettingsError::UnknownKey { place: leaf.place, key: key.to_owned(), advice }
    }
}

fn wrong_type(key: &str, leaf: &Leaf, expected: &str) -> SettingsError {
    SettingsError::WrongType {
        place: leaf.place.clone(),
        key: key.to_owned(),
        expected: expected.to_owned(),
        found: leaf.value.to_string(),
    }
}

fn bad_value(key: &str, leaf: &Leaf, expected: String) -> SettingsError {
    SettingsError::BadValue { place: leaf.place.clone(), key: key.to_owned(), found: leaf.value.to_string(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: &str = r#"
        [cluster]
        lost_after = "1500ms"
        listen = "127.0.0.1"
        [api]
        body_limit = "1MiB"
        requests = 64
        ratio = 7.5
        tls = false
    "#;

    fn with(text: &str) -> Result<Settings, SettingsError> {
        Settings::defaults(DEFAULTS).unwrap().overlaid("my.toml", text)
    }

    #[test]
    fn a_file_changes_what_it_names_and_nothing_else() {
        let settings = with("[cluster]\nlost_after = \"2s\"\napi.ratio = 5").unwrap_err();
        assert!(settings.to_string().contains("cluster.api.ratio"), "{settings}");
        let settings = with("api.ratio = 5\n[cluster]\nlost_after = \"2s\"").unwrap();
        assert_eq!(settings.duration("cluster.lost_after").unwrap(), Duration::from_secs(2));
        assert_eq!(settings.number("api.ratio", 1.0..=30.0).unwrap(), 5.0);
        assert_eq!(settings.text("cluster.listen").unwrap(), "127.0.0.1");
        assert_eq!(settings.bytes("api.body_limit").unwrap(), 1 << 20);
        assert_eq!(settings.whole("api.requests", 1_u32..=1000).unwrap(), 64);
        assert!(!settings.switch("api.tls").unwrap());
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest() {
        let error = with("[cluster]\nlost_aftr = \"2s\"").unwrap_err().to_string();
        assert!(error.contains("my.toml:2: there is no key cluster.lost_aftr"), "{error}");
        assert!(error.contains("did you mean cluster.lost_after?"), "{error}");
        let error = with("cluster = 3").unwrap_err().to_string();
        assert!(error.contains("write [cluster]"), "{error}");
    }

    #[test]
    fn a_wrong_type_is_refused_with_key_expected_and_found() {
        let settings = with("[cluster]\nlost_after = 1.5\nlisten = [1]\n[api]\nrequests = \"many\"\ntls = 1").unwrap();
        let error = settings.duration("cluster.lost_after").unwrap_err().to_string();
        assert!(error.contains("my.toml:2: cluster.lost_after must be a duration in quotes"), "{error}");
        assert!(error.contains("found the number 1.5"), "{error}");
        assert!(settings.text("cluster.listen").unwrap_err().to_string().contains("found an array"));
        assert!(settings.whole("api.requests", 1_u32..=9).unwrap_err().to_string().contains("the text \"many\""));
        assert!(settings.switch("api.tls").unwrap_err().to_string().contains("true or false"));
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_the_range() {
        let settings = with("[cluster]\nlost_after = \"0s\"\n[api]\nrequests = 0\nratio = nan").unwrap();
        assert!(settings.duration("cluster.lost_after").is_err());
        let error = settings.whole("api.requests", 1_u32..=9).unwrap_err().to_string();
        assert!(error.contains("a whole number from 1 to 9"), "{error}");
        assert!(settings.number("api.ratio", 1.0..=30.0).is_err());
    }

    #[test]
    fn what_is_no_toml_is_refused_with_its_line() {
        let error = with("[cluster]\nlost_after = 2s").unwrap_err().to_string();
        assert!(error.contains("my.toml is no valid TOML: line 2"), "{error}");
        let missing = Settings::load(DEFAULTS, Path::new("/nowhere/my.toml")).unwrap_err();
        assert!(matches!(missing, SettingsError::Unreadable { .. }));
    }
}
