//! Settings of a job as they are typed: shared by `run`, `submit` and `plan`.

use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use asyncdiff_model::noise_scheduler::SchedulerKind;
use asyncdiff_plan::{Cut, Encoding, Prefer, TimeShift, Wishes};
use clap::{Args, ValueEnum};

use super::Failure;
use super::partition_file::parse_cut;
use crate::api::{GivenSettings, NewJob};
use crate::job::Dtype;

/// What is made and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct JobArgs {
    /// Number of denoising steps [default: 50]
    #[arg(long, value_name = "STEPS", value_parser = parse_count, help_heading = "Picture")]
    steps: Option<NonZeroU32>,

    /// Seed of the initial noise: the same seed gives the same picture on any number of workers [default: 0]
    #[arg(long, value_name = "SEED", help_heading = "Picture")]
    seed: Option<u64>,

    /// How closely the picture follows the prompt; 1 turns guidance off [default: 7.5; demo model: 5]
    #[arg(long, value_name = "SCALE", help_heading = "Picture")]
    guidance_scale: Option<f64>,

    /// What the picture should not show
    #[arg(long, value_name = "TEXT", default_value = "", help_heading = "Picture")]
    negative_prompt: String,

    /// Noise scheduler: ddim, dpmpp-2m, dpmpp-2m-karras, euler, euler-ancestral, euler-karras, heun, lms, pndm, unipc [default: the checkpoint's]
    #[arg(long, value_name = "NAME", value_parser = parse_scheduler, help_heading = "Picture")]
    scheduler: Option<SchedulerKind>,

    /// Width and height in pixels, such as 512x768 [default: the checkpoint's]
    #[arg(long, value_name = "WxH", value_parser = parse_size, help_heading = "Picture")]
    size: Option<(u32, u32)>,

    /// What the denoiser's weights are multiplied as: f32, bf16, f16 (on GPUs; CPUs beside them take f32), or auto: bf16, else f16, where all workers are fast at it [default: auto]
    #[arg(long, value_name = "TYPE", help_heading = "Picture")]
    dtype: Option<DtypeArg>,

    /// What matters most; every setting below overrides what this chooses [default: balanced]
    #[arg(long, value_name = "GOAL", help_heading = "Plan")]
    prefer: Option<Goal>,

    /// Parts that the denoiser is split into [default: one per worker]
    #[arg(long, value_name = "N", value_parser = parse_components, help_heading = "Plan")]
    components: Option<u16>,

    /// How it is split: contiguous, nested (fewer bytes between workers), or a TOML or JSON file with lists of modules [default: the faster]
    #[arg(long, value_name = "contiguous|nested|FILE", value_parser = parse_cut, help_heading = "Plan")]
    partition: Option<Cut>,

    /// Steps served by one round of component runs: more is faster and less exact [default: 1]
    #[arg(long, value_name = "S", value_parser = parse_count, help_heading = "Plan")]
    stride: Option<NonZeroU32>,

    /// First steps that are computed exactly, in sequence: more is slower and more exact [default: by --prefer]
    #[arg(long, value_name = "STEPS", help_heading = "Plan")]
    warm_up: Option<u32>,

    /// Condition runs after the warm-up on the timestep one step earlier, which their inputs come from [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Plan")]
    time_shift: Option<bool>,

    /// Compute the two halves of guidance on different workers: exact [default: by --prefer]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Plan")]
    split_guidance: Option<bool>,

    /// How hidden states travel between workers after the warm-up: fewer bytes are less exact; auto is full unless links are too slow for it, and full with --prefer exact [default: auto]
    #[arg(long, value_name = "ENCODING", help_heading = "Plan")]
    encoding: Option<EncodingArg>,

    /// The most workers that it may use, the fastest; the others are left for other jobs [default: as many as make it faster]
    #[arg(long, value_name = "N", value_parser = parse_workers, help_heading = "Plan")]
    max_workers: Option<NonZeroU16>,
}

/// What matters most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Goal {
    /// Fast, and hardly different from what one device makes
    Balanced,
    /// The picture that one device makes
    Exact,
    /// Closer to it: a longer warm-up
    Quality,
    /// The fastest: stride 2
    Speed,
}

/// How hidden states travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EncodingArg {
    /// The least lossy one that is predicted to be no more than 3 % slower than the fastest
    Auto,
    /// As computed
    Full,
    /// Half precision
    F16,
    /// bfloat16
    Bf16,
    /// 8-bit differences from the step before
    #[value(name = "delta8")]
    Delta8,
    /// 4-bit differences from the step before
    #[value(name = "delta4")]
    Delta4,
}

/// What the denoiser is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DtypeArg {
    /// bf16 where all workers are fast at it, else f16 where they are, else f32
    Auto,
    /// bfloat16
    Bf16,
    /// Half precision
    F16,
    /// Single precision
    F32,
}

/// Where results go.
#[derive(Args, Clone, Debug)]
pub(crate) struct OutputArgs {
    /// The picture's file [default: named after the prompt]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub(crate) out: Option<PathBuf>,

    /// Write a Chrome/Perfetto trace of every component run, transfer and wait
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) trace: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

impl JobArgs {
    /// The job as the API takes it.
    #[must_use]
    pub(crate) fn job(&self, prompt: &str, trace: bool) -> NewJob {
        let settings = GivenSettings { trace, ..self.settings() };
        NewJob { prompt: prompt.to_owned(), negative_prompt: self.negative_prompt.clone(), settings, key: None }
    }

    /// The settings as the API takes them.
    #[must_use]
    pub(crate) fn settings(&self) -> GivenSettings {
        let time_shift = self.time_shift.map(|on| if on { TimeShift::On } else { TimeShift::Off });
        let prefer = match self.prefer {
            None | Some(Goal::Balanced) => Prefer::Balanced,
            Some(Goal::Exact) => Prefer::Exact,
            Some(Goal::Quality) => Prefer::Quality,
            Some(Goal::Speed) => Prefer::Speed,
        };
        GivenSettings {
            steps: self.steps,
            seed: self.seed,
            guidance_scale: self.guidance_scale,
            scheduler: self.scheduler.map(|scheduler| scheduler.name().to_owned()),
            size: self.size,
            wishes: Wishes {
                prefer,
                components: self.components,
                cut: self.partition.clone(),
                stride: self.stride,
                warm_up: self.warm_up,
                time_shift,
                split_guidance: self.split_guidance,
                round_start: None,
                encoding: self.encoding.and_then(EncodingArg::encoding),
                max_workers: self.max_workers,
            },
            dtype: self.dtype.map_or(Dtype::Auto, Dtype::from),
            trace: false,
            ..GivenSettings::default()
        }
    }
}

impl EncodingArg {
    fn encoding(self) -> Option<Encoding> {
        match self {
            Self::Auto => None,
            Self::Full => Some(Encoding::Full),
            Self::F16 => Some(Encoding::F16),
            Self::Bf16 => Some(Encoding::Bf16),
            Self::Delta8 => Some(Encoding::Delta8),
            Self::Delta4 => Some(Encoding::Delta4),
        }
    }
}

impl From<DtypeArg> for Dtype {
    fn from(argument: DtypeArg) -> Self {
        match argument {
            DtypeArg::Auto => Self::Auto,
            DtypeArg::Bf16 => Self::Bf16,
            DtypeArg::F16 => Self::F16,
            DtypeArg::F32 => Self::F32,
        }
    }
}

impl OutputArgs {
    /// The picture's file: the one that was named, else one after the prompt that does not exist yet. Refuses, before any work is
    /// done, files in folders that do not exist.
    pub(crate) fn picture_path(&self, prompt: &str) -> Result<PathBuf, Failure> {
        if let Some(trace) = &self.trace {
            check_place(trace)?;
        }
        match &self.out {
            Some(path) => check_place(path).map(|()| path.clone()),
            None => Ok(unused_path(Path::new(""), &slug(prompt))),
        }
    }
}

pub(crate) fn check_place(path: &Path) -> Result<(), Failure> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        let hint = "make it, or name another file with --out or --trace";
        return Err(Failure::operator(format!(
            "cannot write {}: the folder {} does not exist\nhint: {hint}",
            path.display(),
            parent.display()
        )));
    }
    if path.is_dir() {
        let text = format!("cannot write {}: it is a folder\nhint: name a file in it", path.display());
        return Err(Failure::operator(text));
    }
    Ok(())
}

/// `name.png`, else `name-2.png` and so on: a picture whose name nobody chose replaces nothing.
fn unused_path(folder: &Path, name: &str) -> PathBuf {
    let numbered = (2_u32..).map(|number| format!("{name}-{number}.png"));
    let mut names = std::iter::once(format!("{name}.png")).chain(numbered);
    let unused = names.find(|name| !folder.join(name).exists());
    folder.join(unused.unwrap_or_else(|| format!("{name}.png")))
}

/// The prompt's letters and digits with hyphens between: a file name on every system.
fn slug(prompt: &str) -> String {
    const LIMIT_CHARS: usize = 80;
    let words = prompt.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty());
    let joined = words.map(str::to_lowercase).collect::<Vec<_>>().join("-");
    let slug: String = joined.chars().take(LIMIT_CHARS).collect();
    if slug.is_empty() { "picture".to_owned() } else { slug }
}

fn parse_count(text: &str) -> Result<NonZeroU32, String> {
    NonZeroU32::from_str(text).map_err(|_| "a whole number from 1 up is needed".to_owned())
}

fn parse_workers(text: &str) -> Result<NonZeroU16, String> {
    NonZeroU16::from_str(text).map_err(|_| "a whole number from 1 up is needed".to_owned())
}

fn parse_components(text: &str) -> Result<u16, String> {
    let count = text.parse().ok().filter(|&count: &u16| count > 0);
    count.ok_or_else(|| "a whole number from 1 to the number of layers is needed".to_owned())
}

fn parse_scheduler(text: &str) -> Result<SchedulerKind, String> {
    text.parse().map_err(|_| format!("the noise schedulers are {}", SchedulerKind::names()))
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let side = |text: &str| text.parse::<u32>().ok().filter(|&side| side > 0);
    let sizes = text.split_once(['x', 'X']).and_then(|(width, height)| Some((side(width)?, side(height)?)));
    sizes.ok_or_else(|| "width and height in pixels are needed, such as 512x768".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_made_of_the_prompt() {
        assert_eq!(slug("A red circle, on a white/background!"), "a-red-circle-on-a-white-background");
        assert_eq!(slug("../../"), "picture");
        assert_eq!(slug("grünes Herz"), "grünes-herz");
        assert_eq!(slug(&"x".repeat(500)).len(), 80);
    }

    #[test]
    fn a_picture_whose_name_nobody_chose_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(unused_path(folder.path(), "a"), folder.path().join("a.png"));
        std::fs::write(folder.path().join("a.png"), "").unwrap();
        assert_eq!(unused_path(folder.path(), "a"), folder.path().join("a-2.png"));
    }

    #[test]
    fn sizes_are_two_positive_numbers() {
        assert_eq!(parse_size("512x768"), Ok((512, 768)));
        for text in ["512", "0x8", "512x", "axb", "-1x8", "8x8x8"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_scheduler_is_named_in_the_help() {
        let command = JobArgs::augment_args(clap::Command::new("test"));
        let argument = command.get_arguments().find(|argument| argument.get_id() == "scheduler").unwrap();
        let help = argument.get_help().unwrap().to_string();
        assert!(help.contains(&SchedulerKind::names()), "{help}");
    }
}
