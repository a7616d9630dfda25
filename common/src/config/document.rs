//! A TOML file as a flat list of keys with their values and lines.

use std::collections::BTreeMap;
use std::fmt;

use toml::de::{DeTable, DeValue};

use super::SettingsError;

/// A parsed file.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    /// By key with its tables, such as `cluster.lost_after`.
    pub(super) leaves: BTreeMap<String, Leaf>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) value: Value,
    /// File and line, for messages.
    pub(super) place: String,
}

/// A value of a type that configurations use, or the name of one that they do not.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Decimal(f64),
    Other(&'static str),
    Switch(bool),
    Text(String),
    Whole(i64),
}

impl Document {
    pub(super) fn parse(file: &str, text: &str) -> Result<Self, SettingsError> {
        let syntax = |error: &toml::de::Error| {
            let line = error.span().map_or(0, |span| line_of(text, span.start));
            SettingsError::Syntax { file: file.to_owned(), reason: format!("line {line}: {}", error.message()) }
        };
        let table = DeTable::parse(text).map_err(|error| syntax(&error))?;
        let mut document = Self::default();
        document.add_table(file, text, "", table.get_ref());
        Ok(document)
    }

    fn add_table(&mut self, file: &str, text: &str, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path = format!("{prefix}{}", key.get_ref());
            if let DeValue::Table(inner) = value.get_ref()
                && !inner.is_empty()
            {
                self.add_table(file, text, &format!("{path}."), inner);
                continue;
            }
            let place = format!("{file}:{}", line_of(text, key.span().start));
            self.leaves.insert(path, Leaf { value: Value::of(value.get_ref()), place });
        }
    }
}

impl Value {
    fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            // What does not fit 64 bits is no number of this configuration.
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or(Self::Other("a number that is too large"), Self::Whole),
            DeValue::Float(float) => float.as_str().parse().map_or(Self::Other("a strange number"), Self::Decimal),
            DeValue::Boolean(switch) => Self::Switch(*switch),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Array(_) => Self::Other("an array"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decimal(number) => write!(formatter, "the number {number:?}"),
            Self::Other(kind) => formatter.write_str(kind),
            Self::Switch(switch) => write!(formatter, "{switch}"),
            Self::Text(text) => write!(formatter, "the text {text:?}"),
            Self::Whole(number) => write!(formatter, "the number {number}"),
        }
    }
}

/// The 1-based line of a byte.
fn line_of(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|&character| character == b'\n').count() + 1
}
