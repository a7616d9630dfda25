//! The workspace keeps its shape: arrows between crates, a pure `plan`, few rooms for `unsafe`, files with a purpose.
//!
//! What clippy can say is left to clippy; here is what needs a look at the tree as a whole.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Every crate, its folder, and the crates of this workspace that it may use.
const ARROWS: [(&str, &str, &[&str]); 7] = [
    ("asyncdiff-plan", "common/plan", &[]),
    ("asyncdiff-common", "common", &["asyncdiff-plan"]),
    ("asyncdiff-model", "common/model", &["asyncdiff-common", "asyncdiff-plan"]),
    ("asyncdiff-transport", "common/transport", &["asyncdiff-common", "asyncdiff-plan"]),
    ("asyncdiff-worker", "worker", &["asyncdiff-common", "asyncdiff-model", "asyncdiff-plan", "asyncdiff-transport"]),
    (
        "asyncdiff-coordinator",
        "coordinator",
        &["asyncdiff-common", "asyncdiff-model", "asyncdiff-plan", "asyncdiff-transport", "asyncdiff-worker"],
    ),
    (
        "asyncdiff-tests",
        "tests",
        &[
            "asyncdiff-common",
            "asyncdiff-coordinator",
            "asyncdiff-model",
            "asyncdiff-plan",
            "asyncdiff-transport",
            "asyncdiff-worker",
        ],
    ),
];

/// The only file of the coordinator that knows the worker: it starts local ones.
const STARTS_WORKERS: &str = "coordinator/src/local_workers.rs";

/// What `plan` may use: data and errors.
const PLAN_DEPENDENCIES: [&str; 2] = ["serde", "thiserror"];

/// What has no place in `plan`: clocks, IO, threads, chance, tensors, waiting.
const IMPURE: [&str; 15] = [
    ".await",
    "Instant::now",
    "Mutex",
    "RwLock",
    "SystemTime",
    "async fn",
    "candle",
    "rand",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "tokio",
];

/// Files and folders that may have `unsafe` code. The test among them counts allocations, which takes an allocator of its own, and the trait of
/// allocators is unsafe.
const UNSAFE_ROOMS: [&str; 7] = [
    "common/model/src/checkpoint/mapped.rs",
    "common/model/src/kernels/",
    "common/model/tests/allocations.rs",
    "common/src/device_span.rs",
    "common/src/heap.rs",
    "common/transport/src/nccl/",
    "common/transport/src/shm/",
];

/// Lines above `unsafe` in which its reason must stand.
const SAFETY_WITHIN_LINES: usize = 10;

/// A file of the source tree.
struct SourceFile {
    /// Its path from the root, with `/`.
    path: String,
    text: String,
}

impl SourceFile {
    /// Its lines with their numbers from 1, without comments and the contents of strings.
    fn code(&self) -> impl Iterator<Item = (usize, String)> + '_ {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, code_of(line)))
    }

    /// What it says about itself: the lines of its `//!`.
    fn header(&self) -> String {
        self.text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join(" ")
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All Rust files of the workspace's crates.
fn sources() -> Vec<SourceFile> {
    let root = root();
    let mut files = Vec::new();
    for folder in ["common", "coordinator", "tests", "worker"] {
        collect(&root, &root.join(folder), &mut files);
    }
    assert!(files.len() > 100, "only {} source files were found below {}", files.len(), root.display());
    files
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<SourceFile>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            files.push(SourceFile { path: name, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

/// A line without its comment and without what its strings hold. A string over several lines is taken for code, which
/// at worst reports a word that it holds.
fn code_of(line: &str) -> String {
    let (mut code, mut in_string, mut previous) = (String::new(), false, ' ');
    for (index, letter) in line.char_indices() {
        if !in_string && line[index..].starts_with("//") {
            break;
        }
        // A quote in a character literal ('"') opens no string.
        if letter == '"' && previous != '\\' && previous != '\'' {
            in_string = !in_string;
        } else if !in_string {
            code.push(letter);
        }
        previous = if previous == '\\' { ' ' } else { letter };
    }
    code
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|found| found == word)
}

/// Whether code has a text that is no part of a longer word: `rand` is not in `Operand`.
fn mentions(code: &str, text: &str) -> bool {
    let in_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    code.match_indices(text).any(|(at, _)| {
        let (before, after) = (code[..at].chars().next_back(), code[at + text.len()..].chars().next());
        // `.await` follows a word, and is none itself.
        let starts = !text.starts_with(in_word) || !before.is_some_and(in_word);
        starts && !after.is_some_and(in_word)
    })
}

fn manifest(folder: &str) -> toml::Table {
    fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap().parse().unwrap()
}

/// Names of a crate's dependencies of every kind.
fn dependencies(manifest: &toml::Table, kinds: &[&str]) -> Vec<String> {
    let table = |kind: &&str| manifest.get(*kind).and_then(toml::Value::as_table);
    kinds.iter().filter_map(table).flat_map(|table| table.keys().cloned()).collect()
}

/// Fails with all complaints at once, so that one run shows everything that is to be done.
fn expect_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn crates_use_each_other_only_along_the_arrows() {
    let members = manifest("")["workspace"]["members"].as_array().unwrap().len();
    assert_eq!(members, ARROWS.len(), "a crate came or went: say in ARROWS what it may use");
    let mut complaints = Vec::new();
    for (name, folder, allowed) in ARROWS {
        let manifest = manifest(folder);
        assert_eq!(manifest["package"]["name"].as_str(), Some(name));
        let used = dependencies(&manifest, &["dependencies", "dev-dependencies", "build-dependencies"]);
        let refused = used.iter().filter(|used| used.starts_with("asyncdiff-") && !allowed.contains(&used.as_str()));
        complaints.extend(refused.map(|used| format!("{folder}/Cargo.toml: {name} may not use {used}")));
    }
    expect_none(&complaints);
}

#[test]
fn the_coordinator_knows_the_worker_in_one_file_only() {
    let uses = |file: &SourceFile| file.code().any(|(_, code)| has_word(&code, "asyncdiff_worker"));
    let in_coordinator = |file: &SourceFile| file.path.starts_with("coordinator/src/") && file.path != STARTS_WORKERS;
    let files = sources();
    let complaints: Vec<String> = files
        .iter()
        .filter(|file| in_coordinator(file) && uses(file))
        .map(|file| format!("{}: only {STARTS_WORKERS} may name asyncdiff_worker", file.path))
        .collect();
    expect_none(&complaints);
    assert!(files.iter().any(|file| file.path == STARTS_WORKERS), "{STARTS_WORKERS} is gone: name its successor here");
}

#[test]
fn plan_decides_and_does_nothing() {
    let used = dependencies(&manifest("common/plan"), &["dependencies"]);
    assert_eq!(used, PLAN_DEPENDENCIES, "plan uses data and errors only");
    let mut complaints = Vec::new();
    for file in sources().iter().filter(|file| file.path.starts_with("common/plan/src/")) {
        for (line, code) in file.code() {
            let found = IMPURE.iter().filter(|impure| mentions(&code, impure));
            complaints.extend(found.map(|impure| format!("{}:{line}: {impure} in plan", file.path)));
        }
    }
    expect_none(&complaints);
}

#[test]
fn unsafe_code_stays_in_its_rooms_and_gives_its_reason() {
    let mut complaints = Vec::new();
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap_or_default();
    for file in sources() {
        let room = UNSAFE_ROOMS.iter().find(|room| file.path.starts_with(**room));
        let lines: Vec<&str> = file.text.lines().collect();
        let unsafe_lines: Vec<_> = file.code().filter(|(_, code)| has_word(code, "unsafe")).collect();
        for (line, _) in &unsafe_lines {
            let above = &lines[line.saturating_sub(SAFETY_WITHIN_LINES + 1)..*line];
            if room.is_none() {
                complaints.push(format!("{}:{line}: unsafe outside of its rooms", file.path));
            } else if !above.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
                complaints.push(format!("{}:{line}: unsafe without `// SAFETY:` above it", file.path));
            }
        }
        if room.is_none() && file.code().any(|(_, code)| code.contains("allow(unsafe_code")) {
            complaints.push(format!("{}: allows unsafe code outside of its rooms", file.path));
        }
        // ARCHITECTURE.md may shorten the path: `model/src/kernels`.
        let name = room.map(|room| room.trim_start_matches("common/").trim_end_matches('/'));
        if let Some(name) = name.filter(|name| !unsafe_lines.is_empty() && !architecture.contains(*name)) {
            complaints.push(format!("ARCHITECTURE.md: does not name {name} as a room of unsafe code"));
        }
    }
    expect_none(&complaints);
}

#[test]
fn every_file_opens_with_what_it_answers_for() {
    let mute = |file: &SourceFile| !file.text.starts_with("//! ");
    let complaints: Vec<String> =
        sources().iter().filter(|file| mute(file)).map(|file| format!("{}: starts without `//!`", file.path)).collect();
    expect_none(&complaints);
}

#[test]
fn long_files_say_why_they_are_long() {
    let long = |file: &SourceFile| file.text.lines().count() > 400 && !file.header().contains("over 400 lines because");
    let complaints: Vec<String> = sources()
        .iter()
        .filter(|file| long(file))
        .map(|file| {
            let lines = file.text.lines().count();
            format!("{}: {lines} lines: split it, or write \"over 400 lines because …\" in its header", file.path)
        })
        .collect();
    expect_none(&complaints);
}

#[test]
fn words_in_comments_and_strings_are_no_code() {
    assert_eq!(code_of("let a = \"tokio \\\" text\"; // tokio"), "let a = ; ");
    assert_eq!(code_of("//! tokio"), "");
    assert!(has_word("mod room { fn a() }", "room") && !has_word("mod room_of_one", "room"));
    assert!(mentions("use rand::Rng;", "rand") && !mentions("Operand::Value", "rand"));
    assert!(mentions("link.await?", ".await") && !mentions("link.awaited()", ".await"));
}
