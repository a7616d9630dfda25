//! Typed reading of a config's keys, by the rules of one class: a key that the class does not have reads as absent.

use serde_json::{Map, Value};

use super::SchedulerError;
use super::kind::SchedulerClass;

/// The keys that all classes have.
const COMMON: &[&str] = &[
    "beta_end",
    "beta_schedule",
    "beta_start",
    "num_train_timesteps",
    "prediction_type",
    "steps_offset",
    "timestep_spacing",
    "trained_betas",
];

/// A config seen by one class.
pub(super) struct Keys<'a> {
    pub(super) class: SchedulerClass,
    values: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(super) const fn new(class: SchedulerClass, values: &'a Map<String, Value>) -> Self {
        Self { class, values }
    }

    /// The raw value, if the class has the key and the config sets it.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        let accepted = COMMON.contains(&key) || own_keys(self.class).contains(&key);
        if accepted { self.values.get(key) } else { None }
    }

    /// A switch. `null` is off, as for Python.
    pub(super) fn flag(&self, key: &'static str, default: bool) -> Result<bool, SchedulerError> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::Null) => Ok(false),
            Some(found) => Err(wrong_type(key, "true or false", found)),
        }
    }

    /// A number, finite as JSON's numbers are.
    pub(super) fn number(&self, key: &'static str, default: f64) -> Result<f64, SchedulerError> {
        self.value(key).map_or(Ok(default), |found| found.as_f64().ok_or_else(|| wrong_type(key, "a number", found)))
    }

    /// A number or `null`.
    pub(super) fn optional_number(&self, key: &'static str) -> Result<Option<f64>, SchedulerError> {
        match self.value(key) {
            None | Some(Value::Null) => Ok(None),
            Some(found) => found.as_f64().map(Some).ok_or_else(|| wrong_type(key, "a number or null", found)),
        }
    }

    /// A whole number from zero to `limit`.
    pub(super) fn count(&self, key: &'static str, default: usize, limit: usize) -> Result<usize, SchedulerError> {
        let Some(found) = self.value(key) else { return Ok(default) };
        let count = found.as_u64().ok_or_else(|| wrong_type(key, "a whole number", found))?;
        usize::try_from(count).ok().filter(|count| *count <= limit).ok_or_else(|| SchedulerError::InvalidOption {
            key,
            value: found.to_string(),
            expected: format!("at most {limit}"),
        })
    }

    /// A list of numbers; `None` if absent or `null`.
    pub(super) fn numbers(&self, key: &'static str) -> Result<Option<Vec<f64>>, SchedulerError> {
        const EXPECTED: &str = "a list of numbers or null";
        match self.value(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(items)) => {
                let numbers = items.iter().map(|item| item.as_f64().ok_or_else(|| wrong_type(key, EXPECTED, item)));
                numbers.collect::<Result<_, _>>().map(Some)
            }
            Some(found) => Err(wrong_type(key, EXPECTED, found)),
        }
    }

    /// One of several words; the first is the default.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Result<T, SchedulerError> {
        self.choice_or(key, choices[0].1, choices)
    }

    /// One of several words.
    pub(super) fn choice_or<T: Copy>(
        &self,
        key: &'static str,
        default: T,
        choices: &[(&str, T)],
    ) -> Result<T, SchedulerError> {
        let Some(found) = self.value(key) else { return Ok(default) };
        let word = found.as_str().ok_or_else(|| wrong_type(key, "a string", found))?;
        let chosen = choices.iter().find(|(name, _)| *name == word);
        chosen.map(|(_, choice)| *choice).ok_or_else(|| {
            let supported = choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            self.unsupported(key, found, supported)
        })
    }

    /// Refuses switches that would change the result and are not built.
    pub(super) fn refuse_flags(&self, keys: &[&'static str]) -> Result<(), SchedulerError> {
        keys.iter().try_for_each(|key| match self.flag(key, false)? {
            true => Err(self.unsupported(key, &Value::Bool(true), "false".to_owned())),
            false => Ok(()),
        })
    }

    /// Refuses a key that is set to anything at all.
    pub(super) fn refuse_value(&self, key: &'static str) -> Result<(), SchedulerError> {
        match self.value(key) {
            None | Some(Value::Null) => Ok(()),
            Some(found) => Err(self.unsupported(key, found, "null".to_owned())),
        }
    }

    pub(super) fn unsupported(&self, key: &'static str, value: &Value, supported: String) -> SchedulerError {
        SchedulerError::UnsupportedOption { class: self.class.diffusers(), key, value: value.to_string(), supported }
    }
}

fn wrong_type(key: &'static str, expected: &'static str, found: &Value) -> SchedulerError {
    /// Enough to recognise the value; a config may hold a list of a thousand betas there.
    const SHOWN_CHARACTERS: usize = 60;
    let found = found.to_string().chars().take(SHOWN_CHARACTERS).collect();
    SchedulerError::WrongType { key, expected, found }
}

/// The keys that a class has besides the common ones (diffusers 0.42).
const fn own_keys(class: SchedulerClass) -> &'static [&'static str] {
    match class {
        SchedulerClass::Ddim => {
            &["clip_sample", "clip_sample_range", "rescale_betas_zero_snr", "set_alpha_to_one", "thresholding"]
        }
        // sigma_min and sigma_max: not in its signature, but diffusers honours them where the config has them.
        SchedulerClass::DpmSolver => &[
            "algorithm_type",
            "euler_at_final",
            "final_sigmas_type",
            "lambda_min_clipped",
            "lower_order_final",
            "rescale_betas_zero_snr",
            "sigma_max",
            "sigma_min",
            "solver_order",
            "solver_type",
            "thresholding",
            "use_beta_sigmas",
            "use_dynamic_shifting",
            "use_exponential_sigmas",
            "use_flow_sigmas",
            "use_karras_sigmas",
            "use_lu_lambdas",
            "variance_type",
        ],
        SchedulerClass::Euler => &[
            "final_sigmas_type",
            "interpolation_type",
            "rescale_betas_zero_snr",
            "sigma_max",
            "sigma_min",
            "timestep_type",
            "use_beta_sigmas",
            "use_exponential_sigmas",
            "use_karras_sigmas",
        ],
        SchedulerClass::EulerAncestral => &["rescale_betas_zero_snr"],
        // sigma_min and sigma_max: as for the DPM solver.
        SchedulerClass::Heun => &[
            "clip_sample",
            "clip_sample_range",
            "sigma_max",
            "sigma_min",
            "use_beta_sigmas",
            "use_exponential_sigmas",
            "use_karras_sigmas",
        ],
        SchedulerClass::Lms => &["use_beta_sigmas", "use_exponential_sigmas", "use_karras_sigmas"],
        SchedulerClass::Pndm => &["set_alpha_to_one", "skip_prk_steps"],
        SchedulerClass::Unipc => &[
            "disable_corrector",
            "final_sigmas_type",
            "lower_order_final",
            "predict_x0",
            "rescale_betas_zero_snr",
            "shift_terminal",
            "sigma_max",
            "sigma_min",
            "solver_order",
            "solver_p",
            "solver_type",
            "thresholding",
            "use_beta_sigmas",
            "use_dynamic_shifting",
            "use_exponential_sigmas",
            "use_flow_sigmas",
            "use_karras_sigmas",
        ],
    }
}
