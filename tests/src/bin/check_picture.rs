//! `check-picture FILE "CAPTION"`: says what a picture shows and whether that is what its caption says.
//!
//! Exit codes: 0 everything is right, 1 something is wrong, 2 the file or the caption could not be read.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use asyncdiff_tests::{Picture, PictureReport, Scene, check_picture};

fn main() -> ExitCode {
    match run() {
        Ok(report) => {
            println!("{report}");
            ExitCode::from(u8::from(!report.is_right()))
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<PictureReport> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, caption] = arguments.as_slice() else {
        bail!("two arguments are needed, {} were given\nhint: check-picture FILE \"CAPTION\"", arguments.len());
    };
    let scene: Scene = caption.parse()?;
    let file = PathBuf::from(file);
    let content = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let picture = Picture::from_png(&content).with_context(|| format!("cannot use {}", file.display()))?;
    Ok(check_picture(&picture, &scene))
}
