//! JSON as Python writes it: with `Infinity`, `-Infinity` and `NaN`, which `serde_json` rightly refuses.
//!
//! diffusers saves `"lambda_min_clipped": -Infinity` in every config of its DPM solvers.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::SchedulerError;

/// What each of Python's literals is read as: the largest finite number of its sign, and nothing.
const LITERALS: [(&str, &str); 3] =
    [("-Infinity", "-1.7976931348623157e308"), ("Infinity", "1.7976931348623157e308"), ("NaN", "null")];

/// Reads one JSON object.
pub(super) fn parse_object(text: &str) -> Result<Map<String, Value>, SchedulerError> {
    let strict = without_python_literals(text);
    serde_json::from_str(&strict).map_err(|error| SchedulerError::InvalidJson { reason: error.to_string() })
}

/// Replaces the literals outside of strings.
fn without_python_literals(text: &str) -> Cow<'_, str> {
    if !LITERALS.iter().any(|(literal, _)| text.contains(literal)) {
        return Cow::Borrowed(text);
    }
    let mut strict = String::with_capacity(text.len() + 64);
    let mut rest = text;
    let mut inside_string = false;
    while let Some(next) = rest.chars().next() {
        let replaced = LITERALS.iter().find(|(literal, _)| !inside_string && rest.starts_with(literal));
        if let Some((literal, number)) = replaced {
            strict.push_str(number);
            rest = &rest[literal.len()..];
            continue;
        }
        let escape = if inside_string && next == '\\' { rest.chars().nth(1) } else { None };
        inside_string ^= next == '"';
        let taken = next.len_utf8() + escape.map_or(0, char::len_utf8);
        strict.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    Cow::Owned(strict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_literals_are_read_outside_of_strings_only() {
        let object =
            parse_object(r#"{"a": -Infinity, "b": "say \"NaN\" or -Infinity", "c": NaN, "d": Infinity}"#).unwrap();
        assert_eq!(object["a"], f64::MIN);
        assert_eq!(object["b"], r#"say "NaN" or -Infinity"#);
        assert!(object["c"].is_null());
        assert_eq!(object["d"], f64::MAX);
    }

    #[test]
    fn broken_text_is_an_error_that_names_its_place() {
        for text in ["", "[]", "{\"a\": ", "{\"a\": Infinit}", "\\", "{\"a\\"] {
            assert!(matches!(parse_object(text), Err(SchedulerError::InvalidJson { .. })), "{text}");
        }
        assert!(parse_object("{\n\"a\": }").unwrap_err().to_string().contains("line 2"));
    }
}
