//! Reads a diffusers `config.json` key by key, with the defaults and the errors that a family asks for.
//!
//! Keys that no builder asks for are ignored, as diffusers ignores them. A key that is there with a value of the wrong
//! kind is never replaced by its default.

use serde_json::{Map, Value};

use crate::{ConfigError, ModelError};

/// The keys of one configuration file.
pub(super) struct ConfigReader {
    file: &'static str,
    keys: Map<String, Value>,
}

impl ConfigReader {
    /// Parses the text of `file`, whose name appears in errors.
    pub(super) fn parse(file: &'static str, text: &str) -> Result<Self, ModelError> {
        let keys = serde_json::from_str(text).map_err(|error| ConfigError::unreadable(file, &error))?;
        Ok(Self { file, keys })
    }

    /// A string; `None` where the key is missing or is no string.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.keys.get(key).and_then(Value::as_str)
    }

    /// The key is missing or null.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.keys.get(key).is_none_or(Value::is_null)
    }

    /// A list of strings.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<&str>, ModelError> {
        let list = self.keys.get(key).and_then(Value::as_array);
        list.and_then(|list| list.iter().map(Value::as_str).collect())
            .ok_or_else(|| self.unsupported(key, "a list of strings"))
    }

    /// A number from 1 to `max`.
    pub(super) fn size(&self, key: &str, default: u32, max: u32) -> Result<u32, ModelError> {
        self.keys.get(key).map_or(Some(default), |value| size(value, max)).ok_or_else(|| self.not_a_size(key, max))
    }

    /// A number from 1 to `max`, or `None` for null or a missing key.
    pub(super) fn optional_size(&self, key: &str, max: u32) -> Result<Option<u32>, ModelError> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => size(value, max).map(Some).ok_or_else(|| self.not_a_size(key, max)),
        }
    }

    /// Any count of numbers from 1 to `max`, at least one and at most `count_max`.
    pub(super) fn sizes(&self, key: &str, count_max: usize, max: u32) -> Result<Vec<u32>, ModelError> {
        let list = self.keys.get(key).and_then(Value::as_array);
        list.filter(|list| (1..=count_max).contains(&list.len()))
            .and_then(|list| list.iter().map(|value| size(value, max)).collect())
            .ok_or_else(|| self.unsupported(key, &format!("a list of 1 to {count_max} numbers from 1 to {max}")))
    }

    /// One number for all blocks or a list with one for each.
    pub(super) fn sizes_per_block(
        &self,
        key: &str,
        blocks: usize,
        default: u32,
        max: u32,
    ) -> Result<Vec<u32>, ModelError> {
        self.per_block(key, blocks, default, |value| size(value, max))
            .ok_or_else(|| self.unsupported(key, &format!("a number from 1 to {max}, or a list of {blocks} of them")))
    }

    /// One flag for all blocks or a list with one for each.
    pub(super) fn flags_per_block(&self, key: &str, blocks: usize) -> Result<Vec<bool>, ModelError> {
        self.per_block(key, blocks, false, Value::as_bool)
            .ok_or_else(|| self.unsupported(key, &format!("true, false or a list of {blocks} of them")))
    }

    /// A flag.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        self.keys.get(key).map_or(Some(default), Value::as_bool).ok_or_else(|| self.unsupported(key, "true or false"))
    }

    /// A finite number that is not negative.
    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        self.keys
            .get(key)
            .map_or(Some(default), Value::as_f64)
            .filter(|number| number.is_finite() && *number >= 0.0)
            .ok_or_else(|| self.unsupported(key, "a number that is not negative"))
    }

    /// Refuses every value but these. A missing key is taken for the first of them.
    pub(super) fn only(&self, key: &str, supported: &[Value]) -> Result<(), ModelError> {
        // 1 and 1.0 are one number to diffusers, and two values to serde_json.
        let equal = |found: &Value, value: &Value| {
            found == value || (found.is_number() && value.is_number() && found.as_f64() == value.as_f64())
        };
        match self.keys.get(key) {
            Some(found) if !supported.iter().any(|value| equal(found, value)) => {
                let supported: Vec<String> = supported.iter().map(Value::to_string).collect();
                Err(self.unsupported(key, &supported.join(" or ")))
            }
            _ => Ok(()),
        }
    }

    /// The error for a key whose value is not supported; `supported` says what would be.
    pub(super) fn unsupported(&self, key: &str, supported: &str) -> ModelError {
        let found = self.keys.get(key).map_or_else(|| "missing".to_owned(), Value::to_string);
        ConfigError::new(self.file, key, found, format!("supported is {supported}")).into()
    }

    fn not_a_size(&self, key: &str, max: u32) -> ModelError {
        self.unsupported(key, &format!("a number from 1 to {max}"))
    }

    fn per_block<T: Clone>(
        &self,
        key: &str,
        blocks: usize,
        default: T,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Option<Vec<T>> {
        match self.keys.get(key) {
            None => Some(vec![default; blocks]),
            Some(Value::Array(list)) if list.len() == blocks => list.iter().map(parse).collect(),
            Some(Value::Array(_)) => None,
            Some(value) => parse(value).map(|value| vec![value; blocks]),
        }
    }
}

fn size(value: &Value, max: u32) -> Option<u32> {
    value.as_u64().and_then(|size| u32::try_from(size).ok()).filter(|size| (1..=max).contains(size))
}
