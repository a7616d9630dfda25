//! Golden data of diffusers and the official AsyncDiff, put through the real command in all three ways.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

const FAMILIES: [&str; 3] = ["sd15", "sd21", "sdxl"];

/// Runs that count: 29 of each family, of which 8 official ones are superseded by their intended twins.
const RUNS: usize = FAMILIES.len() * (29 - 8);

/// Runs `coordinator verify` on a folder of golden data; its lines by name.
fn verify(folder: &str, way: &str) -> BTreeMap<String, Value> {
    verify_with(folder, &["--way", way])
}

fn verify_with(folder: &str, options: &[&str]) -> BTreeMap<String, Value> {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");
    let output = Command::new(env!("CARGO_BIN_EXE_coordinator"))
        .args(["verify", &format!("{golden}/{folder}"), "--json"])
        .args(options)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["name"].as_str().unwrap().to_owned(), line)
    };
    text.lines().map(line).collect()
}

fn digests(lines: &BTreeMap<String, Value>) -> BTreeMap<&str, &str> {
    lines.iter().map(|(name, line)| (name.as_str(), line["digest"].as_str().unwrap())).collect()
}

/// What the engine alone makes of all runs: within tolerance, else `verify` had failed.
fn in_process() -> &'static BTreeMap<String, Value> {
    static LINES: OnceLock<BTreeMap<String, Value>> = OnceLock::new();
    LINES.get_or_init(|| FAMILIES.into_iter().flat_map(|family| verify(family, "in-process")).collect())
}

fn all_runs(way: &str) -> BTreeMap<String, Value> {
    FAMILIES.into_iter().flat_map(|family| verify(family, way)).collect()
}

#[test]
fn the_engine_agrees_with_diffusers_and_the_official_asyncdiff() {
    assert_eq!(in_process().len(), RUNS);
}

#[test]
fn a_cluster_on_simulated_links_gives_the_engines_bits() {
    assert_eq!(digests(&all_runs("simulated")), digests(in_process()));
}

#[test]
fn processes_over_quic_give_the_engines_bits() {
    assert_eq!(digests(&all_runs("processes")), digests(in_process()));
}

#[test]
fn one_worker_that_has_all_parts_gives_the_same_bits() {
    let lines = verify_with("sd21", &["--way", "simulated", "--workers", "1"]);
    assert!(lines.len() == RUNS / FAMILIES.len());
    assert!(digests(&lines).iter().all(|(name, digest)| digests(in_process())[name] == *digest));
}

#[test]
fn text_encoders_vae_and_noise_schedulers_agree_with_transformers_and_diffusers() {
    assert_eq!(verify("parts", "in-process").len(), 22);
}

#[test]
fn a_run_out_of_tolerance_and_a_family_that_is_not_supported_fail() {
    let folder = tempfile::tempdir().unwrap();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/sd21");
    for family in ["wrong", "unknown"] {
        for file in ["runs.json", "runs.safetensors", "unet/config.json", "scheduler/scheduler_config.json"] {
            let target = folder.path().join(family).join(file);
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(golden.join(file), target).unwrap();
        }
        // Only the sequential run, so that the test is short.
        let path = folder.path().join(family).join("runs.json");
        let mut runs: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let first = runs["runs"][0].clone();
        runs["runs"] = Value::Array(vec![first]);
        match family {
            "wrong" => runs["seed"] = Value::from(2),
            _ => runs["model"] = Value::from("sd4"),
        }
        std::fs::write(path, runs.to_string()).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_coordinator")).arg("verify").arg(folder.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("wrong/seq  DIFFERS") && text.contains("unknown/seq  NOT SUPPORTED"), "{text}");
}
