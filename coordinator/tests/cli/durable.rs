//! A coordinator that is killed and started again: jobs wait in their order, running ones are made, pictures are there, nobody
//! enrols again.

use std::time::Instant;

use asyncdiff_transport::identity::JoinToken;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{PATIENCE, Place, Running, png_size};

/// Another one with `ASYNCDIFF_TEST_SEED`, more kills with `ASYNCDIFF_KILLS`.
const SEED: u64 = 20_260_201;
const KILLS: u32 = 6;

/// So that there is work at the last kill too: a job is made within some kills.
const KILLS_PER_JOB: u32 = 4;

/// A coordinator whose ports stay its own over restarts.
struct Durable {
    place: Place,
    server: Option<Running>,
    join_line: String,
}

impl Durable {
    fn start() -> Self {
        let place = Place::new();
        place.write("my.toml", &config(0, 0));
        let server = place.start(&["serve", "--config", "my.toml"]);
        let line = server.wait_for("worker join adj1.");
        let join_line = line.trim().strip_prefix("worker join ").unwrap().to_owned();
        let token: JoinToken = join_line.parse().unwrap();
        place.write("my.toml", &config(token.addresses[0].control_port, token.addresses[0].data_port));
        let durable = Self { place, server: Some(server), join_line };
        durable.wait_until_it_answers();
        durable
    }

    /// Kills it with -9: no handler runs, nothing is flushed.
    fn kill(&mut self) {
        drop(self.server.take());
    }

    fn restart(&mut self) {
        self.restart_with(&[]);
    }

    fn restart_with(&mut self, arguments: &[&str]) -> Vec<String> {
        self.kill();
        let server = self.place.start(&[&["serve", "--config", "my.toml"], arguments].concat());
        let said = server.wait_for_all("worker join adj1.");
        self.server = Some(server);
        self.wait_until_it_answers();
        said
    }

    /// The API's line is written after the line for workers is said or before it; a question is answered when both are.
    fn wait_until_it_answers(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.place.run(&["jobs"]).code != Some(0) {
            assert!(Instant::now() < deadline, "the coordinator does not answer");
        }
    }

    fn join(&self, name: &str) -> Running {
        let arguments =
            ["local-worker", "join", &self.join_line, "--name", name, "--threads", "1", "--state-dir", name];
        let worker = self.place.start(&arguments);
        worker.wait_for("is a member");
        worker
    }

    fn submit(&self, prompt: &str, arguments: &[&str]) -> String {
        let submitted = self.place.run(&[&["submit", prompt, "--no-wait"], arguments].concat());
        submitted.expect(0, &[]);
        submitted.stdout.trim().to_owned()
    }

    fn jobs(&self) -> Vec<(u64, String, String)> {
        let jobs = self.place.run(&["jobs", "--json"]).json();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let jobs = jobs.as_array().unwrap().iter();
        jobs.map(|job| (job["id"].as_u64().unwrap(), text(&job["request"]["prompt"]), text(&job["state"]))).collect()
    }
}

impl Durable {
    /// The steps from which jobs went on after the coordinator had ended.
    fn went_on_from(&self) -> Vec<u64> {
        let jobs = self.place.run(&["jobs", "--json"]).json();
        let recoveries = jobs.as_array().unwrap().iter().flat_map(|job| job["recoveries"].as_array().unwrap().clone());
        let restarts = recoveries.filter(|recovery| recovery["what"].as_str().unwrap().contains("coordinator ended"));
        restarts.map(|recovery| recovery["step"].as_u64().unwrap()).collect()
    }
}

fn config(control_port: u16, data_port: u16) -> String {
    format!(
        "[cluster]\nlisten = \"127.0.0.1\"\ncontrol_port = {control_port}\ndata_port = {data_port}\n[api]\nlisten = \"127.0.0.1:0\"\n\
         [queue]\nsaving_percent = 100\n"
    )
}

#[test]
fn queued_jobs_wait_in_their_order_after_a_kill_and_ids_go_on() {
    let mut durable = Durable::start();
    for prompt in ["a red circle", "a green heart", "a blue star"] {
        durable.submit(prompt, &[]);
    }
    durable.place.run(&["cancel", "2"]).expect(0, &[]);
    let before = durable.jobs();
    let states: Vec<&str> = before.iter().map(|(_, _, state)| state.as_str()).collect();
    assert_eq!(states, ["queued", "cancelled", "queued"]);
    for _time in 0..2 {
        durable.restart();
        assert_eq!(durable.jobs(), before);
    }
    assert_eq!(durable.submit("a small blue star", &[]), "job-4");
}

#[test]
fn a_stopped_coordinator_leaves_waiting_jobs_for_the_next_start() {
    let mut durable = Durable::start();
    durable.submit("a red circle", &[]);
    let server = durable.server.take().unwrap();
    server.signal("TERM");
    assert_eq!(server.end(), Some(0));
    durable.restart();
    assert_eq!(durable.jobs(), [(1, "a red circle".to_owned(), "queued".to_owned())]);
}

#[test]
fn a_job_that_is_submitted_again_under_its_key_is_the_same_job_before_and_after_a_restart() {
    let mut durable = Durable::start();
    let first = durable.submit("a red circle", &["--key", "mine-1"]);
    assert_eq!(durable.submit("a red circle", &["--key", "mine-1"]), first);
    durable.restart();
    assert_eq!(durable.submit("a red circle", &["--key", "mine-1"]), first);
    assert_ne!(durable.submit("a red circle", &["--key", "mine-2"]), first);
    assert_eq!(durable.jobs().len(), 2);
    durable.place.run(&["submit", "a", "--key", "no key"]).expect(2, &["no key", "hint:"]);
}

#[test]
fn a_second_coordinator_on_the_same_directory_is_refused() {
    let durable = Durable::start();
    durable.place.run(&["serve", "--config", "my.toml"]).expect(2, &["in use by another process", "hint:"]);
}

#[test]
fn a_damaged_database_is_reported_and_moved_aside_only_when_asked() {
    let mut durable = Durable::start();
    durable.submit("a red circle", &[]);
    durable.submit("a green heart", &[]);
    durable.kill();
    let path = durable.place.path(".state/jobs.redb");
    let mut content = std::fs::read(&path).unwrap();
    content[..512].fill(0);
    std::fs::write(&path, &content).unwrap();
    let refused = durable.place.run(&["serve", "--config", "my.toml"]);
    refused.expect(2, &["jobs.redb is damaged", "2 jobs can still be read", "--recover-jobs"]);
    assert_eq!(std::fs::read(&path).unwrap(), content);
    let said = durable.restart_with(&["--recover-jobs"]);
    assert!(said.iter().any(|line| line.contains("2 were recovered")), "{said:?}");
    assert_eq!(durable.jobs().len(), 2);
}

/// The pixels of a PNG file.
fn pixels(content: &[u8]) -> Vec<u8> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(content)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

#[test]
fn jobs_of_a_coordinator_that_is_killed_at_random_moments_are_each_made_once() {
    let seed = std::env::var("ASYNCDIFF_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    let kills = std::env::var("ASYNCDIFF_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    println!("ASYNCDIFF_TEST_SEED={seed} ASYNCDIFF_KILLS={kills}");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut durable = Durable::start();
    // They outlive all of it and never enrol again: the line that they came with is used once each.
    let _workers = [durable.join("worker-a"), durable.join("worker-b")];
    let settings = ["--steps", "30", "--prefer", "exact", "--dtype", "f32"];
    let undisturbed = durable.place.path("undisturbed.png");
    durable.place.run(&[&["submit", "a green heart", "-o", "undisturbed.png"], &settings[..]].concat()).expect(0, &[]);
    let expected = pixels(&std::fs::read(undisturbed).unwrap());
    let following = durable.place.start(&[&["submit", "a green heart", "-o", "followed.png"], &settings[..]].concat());
    let jobs = 3.max(kills / KILLS_PER_JOB);
    for _job in 0..jobs {
        durable.submit("a green heart", &settings);
    }
    for kill in 0..kills {
        for _question in 0..chance.random_range(0..40) {
            durable.jobs();
        }
        durable.restart();
        println!("after kill {kill}: {:?}", durable.jobs().into_iter().map(|(_, _, state)| state).collect::<Vec<_>>());
    }
    following.wait_for("wrote followed.png");
    assert_eq!(following.end(), Some(0));
    for job in 2..=2 + jobs {
        let file = format!("{job}.png");
        durable.place.run(&["job", &job.to_string(), "--out", &file]).expect(0, &[]);
        let found = pixels(&std::fs::read(durable.place.path(&file)).unwrap());
        let worst = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= 2 && found.len() == expected.len(), "{file} differs by {worst} of 255");
    }
    println!("went on from steps {:?}", durable.went_on_from());
    assert_eq!(png_size(&durable.place.path("followed.png")), (128, 128));
    let states: Vec<String> = durable.jobs().into_iter().map(|(_, _, state)| state).collect();
    assert_eq!(states, vec!["done"; 2 + jobs as usize]);
}
