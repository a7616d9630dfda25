//! Configs of noise schedulers: what is taken from them, and what is refused with which words.

#![allow(clippy::unwrap_used)]

use asyncdiff_model::noise_scheduler::{
    NoiseScheduler, SchedulerConfig, SchedulerError, SchedulerKind, run_formula_model,
};

fn config(json: &str) -> SchedulerConfig {
    SchedulerConfig::from_json(json).unwrap()
}

/// The error of making a noise scheduler in 10 steps.
fn refusal(json: &str) -> SchedulerError {
    match SchedulerConfig::from_json(json).and_then(|config| NoiseScheduler::new(&config, 10, 0)) {
        Ok(_) => panic!("accepted: {json}"),
        Err(error) => error,
    }
}

#[test]
fn options_that_are_not_built_are_refused_by_key_and_value() {
    let refused = [
        ("DDIMScheduler", r#""thresholding": true"#),
        ("EulerDiscreteScheduler", r#""use_beta_sigmas": true"#),
        ("EulerDiscreteScheduler", r#""use_exponential_sigmas": true"#),
        ("EulerAncestralDiscreteScheduler", r#""prediction_type": "sample""#),
        ("PNDMScheduler", r#""prediction_type": "sample""#),
        ("UniPCMultistepScheduler", r#""use_flow_sigmas": true"#),
        ("UniPCMultistepScheduler", r#""prediction_type": "flow_prediction""#),
        ("UniPCMultistepScheduler", r#""predict_x0": false"#),
        ("DPMSolverMultistepScheduler", r#""use_lu_lambdas": true"#),
        ("DPMSolverMultistepScheduler", r#""algorithm_type": "sde-dpmsolver++""#),
        ("DPMSolverMultistepScheduler", r#""variance_type": "learned_range""#),
        ("HeunDiscreteScheduler", r#""beta_schedule": "exp""#),
    ];
    for (class, option) in refused {
        let error = refusal(&format!(r#"{{"_class_name": "{class}", {option}}}"#));
        assert!(matches!(error, SchedulerError::UnsupportedOption { .. }), "{error}");
        let (key, value) = option.split_once(": ").unwrap();
        let message = error.to_string();
        assert!(
            message.contains(key.trim_matches('"')) && message.contains(value) && message.contains("hint:"),
            "{message}"
        );
    }
}

#[test]
fn values_that_cannot_be_right_are_refused_with_what_they_must_be() {
    let refused = [
        r#""num_train_timesteps": 0"#,
        r#""num_train_timesteps": 1000000000"#,
        r#""beta_start": -0.1"#,
        r#""beta_end": 1.5"#,
        r#""trained_betas": [0.1, 0.2]"#,
        r#""num_train_timesteps": 10, "trained_betas": [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 1.0]"#,
        r#""clip_sample_range": 0"#,
        r#""rescale_betas_zero_snr": true, "timestep_spacing": "trailing""#,
    ];
    for option in refused {
        let error = refusal(&format!(r#"{{"_class_name": "DDIMScheduler", {option}}}"#));
        assert!(matches!(error, SchedulerError::InvalidOption { .. }), "{option}: {error}");
    }
    let refused = [
        r#"{"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true, "sigma_min": 0}"#,
        r#"{"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true, "sigma_min": 999}"#,
        r#"{"_class_name": "UniPCMultistepScheduler", "lower_order_final": false}"#,
        r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 0}"#,
        r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4}"#,
        r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": 99}"#,
        r#"{"_class_name": "UniPCMultistepScheduler", "disable_corrector": [0.5]}"#,
    ];
    for json in refused {
        let error = refusal(json);
        assert!(matches!(error, SchedulerError::InvalidOption { .. }), "{json}: {error}");
    }
}

#[test]
fn values_of_another_type_are_refused_with_what_was_found() {
    let refused = [
        (r#""clip_sample": "no""#, "true or false"),
        (r#""beta_start": "small""#, "a number"),
        (r#""num_train_timesteps": 10.5"#, "a whole number"),
        (r#""steps_offset": -1"#, "a whole number"),
        (r#""timestep_spacing": 3"#, "a string"),
        (r#""trained_betas": [0.1, "x"]"#, "a list of numbers"),
    ];
    for (option, expected) in refused {
        let error = refusal(&format!(r#"{{"_class_name": "DDIMScheduler", {option}}}"#));
        assert!(matches!(error, SchedulerError::WrongType { .. }), "{option}: {error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn numbers_of_steps_that_cannot_be_made_are_refused() {
    let config = config(r#"{"_class_name": "DDIMScheduler", "num_train_timesteps": 100, "steps_offset": 1}"#);
    let make = |config: &SchedulerConfig, steps| NoiseScheduler::new(config, steps, 0).err();
    assert_eq!(make(&config, 0), Some(SchedulerError::NoSteps));
    assert_eq!(make(&config, 101), Some(SchedulerError::TooManySteps { steps: 101, train_timesteps: 100 }));
    let last = SchedulerError::TimestepOutOfRange { timestep: 100, last: 99, steps: 100 };
    assert_eq!(make(&config, 100), Some(last));
    assert_eq!(make(&config, 99), None);
    let repeated = make(&config.clone().with_kind(SchedulerKind::DpmSolver), 100);
    assert!(matches!(repeated, Some(SchedulerError::RepeatedNoiseLevel { .. })), "{repeated:?}");
    let prk = self::config(r#"{"_class_name": "PNDMScheduler"}"#);
    assert_eq!(make(&prk, 3), Some(SchedulerError::TooFewSteps { steps: 3, minimum: 4 }));
    assert_eq!(make(&prk, 4), None);
}

#[test]
fn class_is_required_and_must_be_known() {
    assert_eq!(SchedulerConfig::from_json("{}"), Err(SchedulerError::ClassMissing));
    let flow = SchedulerConfig::from_json(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#);
    assert!(matches!(flow, Err(SchedulerError::IncompatibleClass { .. })));
    let ddpm = config(r#"{"_class_name": "DDPMScheduler", "clip_sample": false}"#);
    assert_eq!(ddpm.kind(), Err(SchedulerError::UnsupportedClass { class: "DDPMScheduler".to_owned() }));
    assert_eq!(ddpm.with_kind(SchedulerKind::Heun).kind(), Ok(SchedulerKind::Heun));
}

#[test]
fn keys_that_the_class_does_not_have_change_nothing() {
    let plain = config(r#"{"_class_name": "DDIMScheduler", "clip_sample": false}"#);
    let others = config(
        r#"{"_class_name": "DDIMScheduler", "clip_sample": false, "use_beta_sigmas": true, "solver_order": "x",
            "skip_prk_steps": 7, "new": {}}"#,
    );
    assert_eq!(run_formula_model(&plain, 5, 1), run_formula_model(&others, 5, 1));
}

#[test]
fn another_class_takes_the_shared_keys_and_its_own_defaults() {
    let ddim = r#"{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "steps_offset": 1,
        "timestep_spacing": "leading", "clip_sample": false, "set_alpha_to_one": false,
        "_use_default_values": ["timestep_spacing"]}"#;
    let euler = r#"{"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "steps_offset": 1}"#;
    let converted = config(ddim).with_kind(SchedulerKind::Euler);
    assert_eq!(run_formula_model(&converted, 6, 1), run_formula_model(&config(euler), 6, 1));
}

#[test]
fn name_decides_about_karras_sigmas_where_it_has_a_twin() {
    let karras = config(
        r#"{"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true,
            "beta_start": 0.001, "beta_end": 0.02}"#,
    );
    assert_eq!(karras.kind(), Ok(SchedulerKind::EulerKarras));
    assert_eq!(karras.clone().with_kind(SchedulerKind::Euler).kind(), Ok(SchedulerKind::Euler));
    let sigmas = |config: &SchedulerConfig| NoiseScheduler::new(config, 5, 0).unwrap().sigmas().unwrap().to_vec();
    let heun = sigmas(&karras.clone().with_kind(SchedulerKind::Heun));
    assert_eq!(heun[1], sigmas(&karras)[1], "a name without a twin keeps what the config says");
    assert_ne!(sigmas(&karras.clone().with_kind(SchedulerKind::Euler))[1], heun[1]);
}

#[test]
fn configs_of_diffusers_with_infinities_are_read() {
    let json = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity,
        "algorithm_type": "deis", "solver_type": "logrho"}"#;
    assert_eq!(config(json).kind(), Ok(SchedulerKind::DpmSolver));
}
