//! A noise scheduler's configuration as the checkpoint or the user gives it, not yet judged.
//!
//! Judging waits until it is known which class runs: a key that the chosen class does not have changes nothing, as in
//! diffusers, where a class takes from another class's config the keys that both have and its own defaults for the
//! rest.

use serde_json::{Map, Value};

use super::json::parse_object;
use super::keys::Keys;
use super::kind::{COMPATIBLE_CLASSES, SchedulerClass};
use super::options::Options;
use super::{SchedulerError, SchedulerKind};

/// The contents of a `scheduler_config.json`, perhaps with another noise scheduler chosen for it.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// diffusers' name of the class that the config was written for.
    class: String,
    values: Map<String, Value>,
}

impl SchedulerConfig {
    /// Reads `scheduler_config.json`. Unknown keys are ignored as diffusers does. A class that is not built is
    /// refused only when used, since [`SchedulerConfig::with_kind`] may replace it.
    pub fn from_json(text: &str) -> Result<Self, SchedulerError> {
        let values = parse_object(text)?;
        match values.get("_class_name") {
            Some(Value::String(class)) => Self::new(class.clone(), values),
            Some(other) => {
                Err(SchedulerError::WrongType { key: "_class_name", expected: "a string", found: other.to_string() })
            }
            None => Err(SchedulerError::ClassMissing),
        }
    }

    /// The same where the class's name stands elsewhere: `text` is the JSON object of its options.
    pub fn from_class(class: &str, text: &str) -> Result<Self, SchedulerError> {
        Self::new(class.to_owned(), parse_object(text)?)
    }

    /// Chooses a noise scheduler by name and keeps the rest, by diffusers' rules of `from_config`. The name decides
    /// what it says: `euler` and `dpmpp-2m` run without Karras sigmas, their `-karras` twins with them, both of
    /// `dpmpp-2m` with second order, and `pndm` as Stable Diffusion runs it (`skip_prk_steps`) unless the config
    /// disagrees.
    #[must_use]
    pub fn with_kind(mut self, kind: SchedulerKind) -> Self {
        let (class, karras) = kind.class();
        class.diffusers().clone_into(&mut self.class);
        if let Some(karras) = karras {
            self.values.insert("use_karras_sigmas".to_owned(), karras.into());
        }
        if class == SchedulerClass::Pndm {
            self.values.entry("skip_prk_steps").or_insert(Value::Bool(true));
        }
        if class == SchedulerClass::DpmSolver {
            self.values.insert("algorithm_type".to_owned(), "dpmsolver++".into());
            self.values.insert("solver_order".to_owned(), 2.into());
        }
        self
    }

    /// Which noise scheduler this is; an error if its class or one of its options is not supported.
    pub fn kind(&self) -> Result<SchedulerKind, SchedulerError> {
        let options = self.options()?;
        Ok(options.class.kind(options.karras))
    }

    /// Timesteps that the model was trained with: no job may have more steps.
    pub fn train_timesteps(&self) -> Result<usize, SchedulerError> {
        Ok(self.options()?.train_timesteps)
    }

    pub(super) fn options(&self) -> Result<Options, SchedulerError> {
        let class = SchedulerClass::from_diffusers(&self.class);
        let class = class.ok_or_else(|| SchedulerError::UnsupportedClass { class: self.class.clone() })?;
        Options::read(&Keys::new(class, &self.values))
    }

    fn new(class: String, mut values: Map<String, Value>) -> Result<Self, SchedulerError> {
        if SchedulerClass::from_diffusers(&class).is_none() && !COMPATIBLE_CLASSES.contains(&class.as_str()) {
            return Err(SchedulerError::IncompatibleClass { class });
        }
        drop_defaulted(&mut values);
        Ok(Self { class, values })
    }
}

/// Drops the keys that diffusers noted as never set by anyone: another class has its own defaults for them.
fn drop_defaulted(values: &mut Map<String, Value>) {
    let Some(Value::Array(defaulted)) = values.remove("_use_default_values") else { return };
    for key in defaulted.iter().filter_map(Value::as_str) {
        values.remove(key);
    }
}
