//! Workers that are killed, stopped or left while they make a picture: the picture is made all the same.

use std::path::Path;
use std::time::Instant;

use crate::harness::{PATIENCE, Place, Running};
use crate::likeness::{ALIKE_DECIBELS, decibels};
use crate::served_cluster::Served;

const PROMPT: &str = "a large green heart on a white background";

/// Begins a picture and waits until some steps are taken.
fn begin(place: &Place, name: &str) -> Running {
    // Of two parts, however fast either worker seems to be on a busy machine.
    let submitted = place.start(&["submit", PROMPT, "--steps", "40", "--seed", "3", "--components", "2", "-o", name]);
    submitted.wait_for("step 1");
    submitted
}

/// The undisturbed picture.
fn reference(place: &Place) -> std::path::PathBuf {
    place.run(&["submit", PROMPT, "--steps", "40", "--seed", "3", "-o", "reference.png"]).expect(0, &[]);
    place.path("reference.png")
}

fn check(served: &Served, job: &str, picture: &str, reference: &Path) {
    let record = served.place.run(&["job", job, "--json"]).json();
    assert_eq!(record["state"], "done", "{record}");
    let recoveries = record["recoveries"].as_array().unwrap();
    assert!(!recoveries.is_empty(), "{record}");
    assert!(recoveries[0]["what"].as_str().unwrap().contains("worker worker-b was lost"), "{record}");
    assert!(recoveries[0]["lost_seconds"].as_f64().unwrap() > 0.0, "{record}");
    let path = served.place.path(picture);
    let found = decibels(&path, reference);
    assert!(found >= ALIKE_DECIBELS, "{found} dB");
    let file = std::fs::read(&path).unwrap();
    assert!(file.windows(10).any(|window| window == b"recoveries"), "the picture's file does not say so");
}

#[test]
fn a_picture_survives_kill_nine_and_a_standstill_of_workers_that_make_it() {
    let served = Served::start();
    let _a = served.join("worker-a");
    let b = served.join("worker-b");
    let reference = reference(&served.place);
    let killed = begin(&served.place, "killed.png");
    b.signal("KILL");
    killed.wait_for("worker worker-b was lost");
    assert_eq!(killed.end(), Some(0));
    check(&served, "2", "killed.png", &reference);
    let b = served.join("worker-b");
    let stopped = begin(&served.place, "stopped.png");
    b.signal("STOP");
    stopped.wait_for("worker worker-b was lost");
    assert_eq!(stopped.end(), Some(0));
    check(&served, "3", "stopped.png", &reference);
    // It comes back as what it was, and the next picture is made with it.
    b.signal("CONT");
    let deadline = Instant::now() + PATIENCE;
    while served.place.run(&["workers", "--json"]).json().as_array().unwrap().len() < 2 {
        assert!(Instant::now() < deadline, "it did not come back");
    }
    let again =
        served.place.run(&["submit", PROMPT, "--steps", "9", "--components", "2", "--json", "-o", "again.png"]).json();
    assert_eq!(again["job"]["summary"]["workers"].as_array().unwrap().len(), 2, "{again}");
}

fn check_no_fault(served: &Served, job: &str, picture: &str, reference: &Path) {
    let record = served.place.run(&["job", job, "--json"]).json();
    assert_eq!(
        (record["state"].as_str(), record["recoveries"].as_array().unwrap().len()),
        (Some("done"), 0),
        "{record}"
    );
    let found = decibels(&served.place.path(picture), reference);
    assert!(found >= ALIKE_DECIBELS, "{found} dB");
}

#[test]
fn workers_that_are_drained_or_told_to_end_hand_their_part_over_first() {
    let served = Served::start();
    let _a = served.join("worker-a");
    let b = served.join("worker-b");
    let reference = reference(&served.place);
    let drained = begin(&served.place, "drained.png");
    served.place.run(&["drain", "nobody"]).expect(2, &["there is no worker nobody", "hint:"]);
    assert_eq!(served.place.run(&["drain", "worker-b", "--json"]).json()["state"], "leaving");
    drained.wait_for("worker worker-b leaves");
    assert_eq!(b.end(), Some(0));
    assert_eq!(drained.end(), Some(0));
    check_no_fault(&served, "2", "drained.png", &reference);
    let c = served.join("worker-c");
    let ended = begin(&served.place, "ended.png");
    c.signal("TERM");
    ended.wait_for("worker worker-c leaves");
    assert_eq!(c.end(), Some(0));
    assert_eq!(ended.end(), Some(0));
    check_no_fault(&served, "3", "ended.png", &reference);
}

#[test]
fn the_only_worker_stays_for_its_job_until_it_is_told_twice() {
    let served = Served::start();
    let a = served.join("worker-a");
    let reference = reference(&served.place);
    let picture = begin(&served.place, "picture.png");
    a.signal("TERM");
    while served.place.run(&["workers", "--json"]).json()[0]["state"] != "leaving" {}
    a.signal("TERM");
    assert_eq!(a.end(), Some(0));
    picture.wait_for("waiting for a worker to join");
    let _b = served.join("worker-b");
    assert_eq!(picture.end(), Some(0));
    let found = decibels(&served.place.path("picture.png"), &reference);
    assert!(found >= ALIKE_DECIBELS, "{found} dB");
}

#[test]
fn a_worker_that_joins_helps_with_the_picture_that_is_being_made() {
    // They compute nothing and take their time, so that what is gained does not depend on how busy this machine is.
    let paced = ["--paced", "2e10"];
    let served = Served::start();
    let _a = served.join_with("worker-a", &paced);
    let picture = served.place.start(&["submit", PROMPT, "--steps", "60", "-o", "joined.png"]);
    picture.wait_for("step 1");
    let _b = served.join_with("worker-b", &paced);
    picture.wait_for("more workers are there");
    assert_eq!(picture.end(), Some(0));
    let record = served.place.run(&["job", "1", "--json"]).json();
    assert_eq!(record["summary"]["workers"].as_array().unwrap().len(), 2, "{record}");
    assert_eq!(record["recoveries"].as_array().unwrap().len(), 0, "{record}");
}

#[test]
fn a_worker_whose_name_another_process_takes_over_ends_and_the_picture_is_made_with_the_new_one() {
    let served = Served::start();
    let _a = served.join("worker-a");
    let b = served.join("worker-b");
    let reference = reference(&served.place);
    // Its state elsewhere, as when a machine is set up again from a copy: the same certificate, and the old process lives.
    served.place.copy_folder(&served.place.path("worker-b"), "copy");
    let picture = begin(&served.place, "replaced.png");
    let _new = served.place.start(&["local-worker", "join", "--threads", "1", "--state-dir", "copy"]);
    picture.wait_for("worker worker-b was lost");
    assert_ne!(b.end(), Some(0), "the old one knows that it was replaced");
    assert_eq!(picture.end(), Some(0));
    check(&served, "2", "replaced.png", &reference);
    let listed = served.place.run(&["workers", "--json"]).json();
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|worker| worker["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["worker-a", "worker-b"]);
    let again = served.place.run(&["submit", PROMPT, "--steps", "9", "--components", "2", "--json", "-o", "again.png"]);
    assert_eq!(again.json()["job"]["summary"]["workers"].as_array().unwrap().len(), 2);
}

#[test]
fn what_a_worker_says_that_stood_still_and_goes_on_in_the_middle_of_a_picture_is_not_used() {
    let served = Served::start();
    let _a = served.join("worker-a");
    let b = served.join("worker-b");
    // Exact: one stale value would show in the pixels.
    let exact = ["submit", PROMPT, "--steps", "60", "--seed", "3", "--components", "2", "--prefer", "exact"];
    let settings = [&exact[..], &["--dtype", "f32", "-o"]].concat();
    served.place.run(&[&settings[..], &["reference.png"]].concat()).expect(0, &[]);
    let picture = served.place.start(&[&settings[..], &["stopped.png"]].concat());
    picture.wait_for("step 1");
    b.signal("STOP");
    picture.wait_for("worker worker-b was lost");
    b.signal("CONT");
    assert_eq!(picture.end(), Some(0));
    let record = served.place.run(&["job", "2", "--json"]).json();
    assert!(!record["recoveries"].as_array().unwrap().is_empty(), "{record}");
    let found = decibels(&served.place.path("stopped.png"), &served.place.path("reference.png"));
    // Micro-batches and their rounding may differ with the placement: that is less than a level of 255.
    assert!(found >= 60.0, "{found} dB");
}
