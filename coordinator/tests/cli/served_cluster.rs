//! `coordinator serve`, workers that join it and clients that submit to it, each a process of its own.

use std::os::unix::fs::PermissionsExt;

use asyncdiff_transport::identity::ClientLine;

use crate::harness::{Place, Running, png_size};

/// Any free ports, this machine alone.
const CONFIG: &str =
    "[cluster]\nlisten = \"127.0.0.1\"\ncontrol_port = 0\ndata_port = 0\n[api]\nlisten = \"127.0.0.1:0\"\n";

pub(crate) struct Served {
    pub(crate) place: Place,
    server: Running,
    join_line: String,
    client_line: String,
}

impl Served {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(arguments: &[&str]) -> Self {
        let place = Place::new();
        place.write("my.toml", CONFIG);
        let server = place.start(&[&["serve", "--config", "my.toml"], arguments].concat());
        let after = |line: String, prefix: &str| line.trim().strip_prefix(prefix).unwrap().to_owned();
        let join_line = after(server.wait_for("worker join adj1."), "worker join ");
        let client_line = after(server.wait_for("adc1."), "export ASYNCDIFF_CONNECT=");
        Self { place, server, join_line, client_line }
    }

    pub(crate) fn join(&self, name: &str) -> Running {
        self.join_with(name, &[])
    }

    pub(crate) fn join_with(&self, name: &str, options: &[&str]) -> Running {
        let join = ["local-worker", "join", &self.join_line, "--name", name, "--threads", "1", "--state-dir", name];
        let worker = self.place.start(&[&join, options].concat());
        worker.wait_for("is a member");
        worker
    }
}

#[test]
fn a_cluster_serves_from_joining_to_the_picture_and_ends_in_order() {
    let served = Served::start();
    let place = &served.place;
    let workers = [served.join("worker-a"), served.join("worker-b")];
    let listed = place.run(&["workers", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    let plan = place.run(&["plan", "--steps", "4"]);
    plan.expect(0, &[]);
    assert!(plan.stdout.contains("predicted:") && plan.stdout.contains("[c0"), "{}", plan.stdout);
    let submitted = place.run(&["submit", "a green heart", "--steps", "4", "-o", "heart.png", "--trace", "t.json"]);
    submitted.expect(0, &[]);
    assert_eq!(png_size(&place.path("heart.png")), (128, 128));
    assert_eq!(place.run(&["job", "1", "--json"]).json()["state"], "done");
    place.run(&["job", "7"]).expect(2, &["there is no job-7", "hint:"]);
    served.server.signal("TERM");
    assert_eq!(served.server.end(), Some(0));
    place.run(&["jobs"]).expect(2, &["no coordinator runs here"]);
    drop(workers);
}

#[test]
fn jobs_that_leave_workers_to_others_run_side_by_side_and_the_list_of_workers_says_who_does_what() {
    let served = Served::start();
    let place = &served.place;
    let _workers = [served.join("worker-a"), served.join("worker-b")];
    let one = |name: &str| {
        let job = ["submit", "a green heart", "--steps", "200", "--max-workers", "1", "-o", name];
        let submitted = place.start(&job);
        submitted.wait_for("step 1");
        submitted
    };
    let pictures = [one("one.png"), one("two.png")];
    let listed = place.run(&["workers"]);
    let line = |name: &str| listed.stdout.lines().find(|line| line.contains(name)).unwrap();
    assert!(line("worker-a").contains("job-1") && line("worker-a").contains("component 1 of 1"), "{}", listed.stdout);
    assert!(line("worker-b").contains("job-2") && line("worker-b").contains("working"), "{}", listed.stdout);
    assert!(listed.stdout.contains("\njob-1: 1 component"), "{}", listed.stdout);
    for picture in pictures {
        assert_eq!(picture.end(), Some(0));
    }
    place.run(&["submit", "a", "--max-workers", "0"]).expect(2, &["a whole number from 1 up"]);
}

#[test]
fn a_job_waits_for_workers_and_can_be_cancelled() {
    let served = Served::start();
    let submitted = served.place.run(&["submit", "a", "--no-wait"]);
    submitted.expect(0, &[]);
    assert_eq!(submitted.stdout.trim(), "job-1");
    let job = served.place.run(&["job", "job-1", "--json"]).json();
    assert_eq!((job["state"].as_str(), job["phase"].as_str()), (Some("queued"), Some("waiting for a worker to join")));
    assert_eq!(served.place.run(&["cancel", "1", "--json"]).json()["state"], "cancelled");
    assert_eq!(served.place.run(&["jobs", "--json"]).json().as_array().unwrap().len(), 1);
}

#[test]
fn requests_that_the_model_cannot_serve_are_refused_when_they_are_submitted() {
    let served = Served::start();
    served.place.run(&["submit", "a", "--size", "100x100"]).expect(2, &["100x100", "hint:"]);
    served.place.run(&["plan"]).expect(3, &["no worker has joined", "hint:"]);
    assert_eq!(served.place.run(&["jobs", "--json"]).json().as_array().unwrap().len(), 0);
}

#[test]
fn lines_are_kept_for_their_owner_and_new_ones_can_be_made() {
    let served = Served::start();
    let mode = std::fs::metadata(served.place.path(".state/client-line")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let line = served.place.run(&["join-line", "--valid-for", "30m"]);
    line.expect(0, &[]);
    assert!(line.stdout.starts_with("worker join adj1."), "{}", line.stdout);
    assert_ne!(line.stdout.trim(), format!("worker join {}", served.join_line));
    served.place.run(&["join-line", "--valid-for", "99d"]).expect(2, &["31 days"]);
    let second = served.place.run(&["serve", "--config", "my.toml"]);
    second.expect(2, &["in use by another process", "hint:"]);
}

#[test]
fn clients_on_other_addresses_come_by_tls_with_the_line_that_was_printed() {
    let served = Served::start_with(&["--api", "0.0.0.0:0"]);
    let line: ClientLine = served.client_line.parse().unwrap();
    assert!(line.authority.is_some());
    // This machine's own clients find the line by themselves.
    served.place.run(&["jobs"]).expect(0, &[]);
    served.place.run(&["jobs", "--connect", &served.client_line]).expect(0, &[]);
    let stranger = ClientLine { bearer_token: "guess".to_owned(), ..line.clone() }.to_string();
    served.place.run(&["jobs", "--connect", &stranger]).expect(2, &["bearer token", "hint:"]);
    let plain = ClientLine { authority: None, ..line }.to_string();
    served.place.run(&["jobs", "--connect", &plain]).expect(3, &["no coordinator answers"]);
}
