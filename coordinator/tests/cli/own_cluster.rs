//! `coordinator run`: everything in one place.

use crate::harness::{Place, png_size};

#[test]
fn a_run_writes_picture_and_trace_and_reports_every_figure() {
    let place = Place::new();
    let ended =
        place.run(&["run", "A red circle, on white!", "--steps", "4", "--warm-up", "1", "--trace", "trace.json"]);
    ended.expect(0, &["starting 2 workers"]);
    assert_eq!(png_size(&place.path("a-red-circle-on-white.png")), (128, 128));
    for part in
        ["time per step", "one worker alone", "speed-up", "bytes per step", "peak memory of", "plan: ", "predicted"]
    {
        assert!(ended.stdout.contains(part), "{part:?} is missing in\n{}", ended.stdout);
    }
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(place.path("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    for category in ["layer", "run", "scheduler step", "transfer"] {
        assert!(events.iter().any(|event| event["cat"] == category), "no {category}");
    }
}

#[test]
fn one_worker_and_several_make_the_same_picture_when_all_steps_are_exact() {
    let place = Place::new();
    let exact =
        ["run", "a", "--steps", "3", "--prefer", "exact", "--components", "1", "--split-guidance=false", "--json"];
    let picture = |name: &str, workers: &str| {
        let result = place.run(&[&exact[..], &["--workers", workers, "-o", name]].concat()).json();
        assert_eq!(result["job"]["summary"]["components"], 1);
        std::fs::read(place.path(name)).unwrap()
    };
    assert_eq!(picture("one.png", "1"), picture("two.png", "2"));
}

#[test]
fn a_comparison_measures_one_worker_alone() {
    let place = Place::new();
    let arguments = ["run", "a", "--steps", "3", "--prefer", "speed", "--compare", "--json", "-o", "a.png"];
    let result = place.run(&arguments).json();
    assert!(result["measured_alone_seconds"].as_f64().unwrap() > 0.0, "{result}");
}

#[test]
fn an_interrupted_run_leaves_nothing_and_says_so() {
    let place = Place::new();
    let running = place.start(&["run", "a red circle on a white background", "--steps", "900"]);
    running.wait_for("denoising");
    running.signal("INT");
    running.wait_for("interrupted");
    assert_eq!(running.end(), Some(130));
    assert_eq!(place.files(), Vec::<String>::new());
}
