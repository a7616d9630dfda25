//! `coordinator bench`: that it measures what it says; how fast anything is, is not asked here.

use crate::harness::Place;

#[test]
fn the_coordinators_turnaround_is_measured_by_number_of_workers() {
    let place = Place::new();
    let few = ["bench", "coordinator", "--workers", "3,2", "--steps", "6", "--repeats", "2", "--pace", "0.005"];
    let report = place.run(&[&few[..], &["--runs", "0", "--json"]].concat()).json();
    let rows = report["turnarounds"].as_array().unwrap();
    let workers: Vec<_> = rows.iter().map(|row| (row["workers"].as_u64(), row["components"].as_u64())).collect();
    assert_eq!(workers, [(Some(2), Some(2)), (Some(3), Some(3))]);
    for row in rows {
        let figure = |name: &str| row[name].as_f64().unwrap();
        assert!(0.0 < figure("p50_seconds") && figure("p50_seconds") <= figure("p99_seconds"), "{row}");
        assert!(figure("p99_seconds") <= figure("max_seconds"), "{row}");
        // Workers that compute nothing take their time all the same.
        assert!(figure("step_seconds") > 0.005, "{row}");
    }
    assert!(report["start_up"].is_null(), "{report}");
}

#[test]
fn start_up_is_timed_to_the_first_step_and_to_the_picture() {
    let place = Place::new();
    let arguments =
        ["bench", "coordinator", "--workers", "1", "--steps", "2", "--repeats", "1", "--runs", "1", "--json"];
    let report = place.run(&arguments).json();
    let start_up = &report["start_up"];
    let figure = |name: &str| start_up[name].as_f64().unwrap();
    let (first_step, picture) = (figure("first_step_seconds"), figure("picture_seconds"));
    assert!(0.0 < first_step && first_step < picture, "{start_up}");
    assert_eq!(start_up["worker_peak_memory_bytes"].as_array().unwrap().len(), 2);
    assert_eq!(place.files(), Vec::<String>::new());
}

#[test]
fn two_workers_are_held_against_one_and_a_type_that_comes_to_the_same_is_left_out() {
    let place = Place::new();
    let few =
        ["bench", "pipeline", "--steps", "3", "--repeats", "1", "--cases", "demo", "--dtype", "f32,f32", "--json"];
    let report = place.run(&few).json();
    let [case] = &report["cases"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!((&case["case"], &case["dtype"], &case["steps"]), (&"demo".into(), &"f32".into(), &3.into()));
    for figure in ["one_worker_seconds", "two_workers_seconds", "twice_the_threads_seconds", "bytes_per_step"] {
        assert!(case[figure].as_f64().unwrap() > 0.0, "{figure} of {case}");
    }
    assert_eq!(case["weights"].as_array().unwrap().len(), 2);
    assert_eq!(case["torch"].as_array().unwrap().len(), 0);
}

#[test]
fn what_saving_a_job_costs_is_measured_by_the_size_of_its_latents() {
    let place = Place::new();
    let report = place.run(&["bench", "saving", "--folder", ".", "--repeats", "3", "--json"]).json();
    let rows = report["rows"].as_array().unwrap();
    let bytes: Vec<u64> = rows.iter().map(|row| row["bytes"].as_u64().unwrap()).collect();
    assert!(bytes.len() == 4 && bytes.is_sorted(), "{report}");
    for row in rows {
        let figure = |name: &str| row[name].as_f64().unwrap();
        assert!(figure("copy_seconds") > 0.0 && figure("commit_seconds") > figure("copy_seconds"), "{row}");
    }
    assert_eq!(place.files(), Vec::<String>::new());
}

#[test]
fn a_job_goes_on_after_each_kind_of_fault_and_the_time_is_told() {
    let place = Place::new();
    let report = place.run(&["bench", "recovery", "--repeats", "1", "--steps", "24", "--json"]).json();
    let faults = report["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 4, "{report}");
    for fault in faults {
        assert_eq!((fault["jobs"].as_u64(), fault["completed"].as_u64()), (Some(1), Some(1)), "{fault}");
        // A worker that joins may be too late for so short a job, and one that is drained may hand over after its end.
        if fault["noticed_seconds"].is_object() {
            let of = |name: &str| fault[name]["p50"].as_f64().unwrap();
            assert!(0.0 < of("noticed_seconds") && of("noticed_seconds") < of("resumed_seconds"), "{fault}");
            assert!(fault["refreshes_max"].as_u64() >= Some(1), "{fault}");
        }
    }
    for lost in &faults[..2] {
        assert!(lost["noticed_seconds"].is_object(), "{lost}");
    }
    // A heartbeat has to be missed.
    assert!(faults[1]["noticed_seconds"]["p50"].as_f64() > Some(0.5), "{report}");
    assert!(faults[3]["ready_seconds"]["p50"].as_f64() > Some(0.0), "{report}");
}

#[test]
fn a_short_soak_loses_no_job_and_says_what_it_did() {
    let place = Place::new();
    let report = place.run(&["bench", "soak", "--minutes", "0.15", "--seed", "7", "--json"]).json();
    assert!(report["lost"].as_array().unwrap().is_empty(), "{report}");
    assert!(report["done"].as_u64().unwrap() > 12 && report["faults"].as_object().unwrap().len() > 1, "{report}");
    let of = |row: &serde_json::Value, figure: &str| row[figure].as_u64().unwrap();
    for row in report["memory"].as_array().unwrap() {
        assert!(["start", "middle", "end"].iter().all(|moment| of(row, moment) > 1 << 20), "{report}");
    }
    let undisturbed = report["jobs"].as_array().unwrap().iter().find(|row| row["kind"] == "undisturbed").unwrap();
    assert_eq!(of(undisturbed, "jobs"), of(undisturbed, "equal"), "whoever makes it: {report}");
    assert_eq!(place.files(), Vec::<String>::new());
}

#[test]
fn a_step_is_timed_on_a_device_by_kind_of_layer() {
    let place = Place::new();
    let report = place.run(&["bench", "step", "--models", "tiny", "--dtype", "f32", "--seconds", "0", "--json"]).json();
    let [case] = &report["cases"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!((&case["model"], &case["format"], &report["device"]), (&"tiny".into(), &"f32".into(), &"cpu".into()));
    for figure in ["milliseconds", "in_a_row_milliseconds", "tflop", "tflop_per_s", "weight_bytes"] {
        assert!(case[figure].as_f64().unwrap() > 0.0, "{figure} of {case}");
    }
    assert!(report["gpu"].is_null() && case["kinds"].as_array().unwrap().len() > 5, "{report}");
}

#[test]
fn more_workers_are_held_against_one_and_leave_a_trace() {
    let place = Place::new();
    let few =
        ["bench", "gpus", "--models", "tiny", "--dtype", "f32", "--workers", "2", "--steps", "4", "--repeats", "1"];
    let report = place.run(&[&few[..], &["--traces", "traces", "--json"]].concat()).json();
    let rows = report["rows"].as_array().unwrap();
    let cases: Vec<_> = rows.iter().map(|row| (row["workers"].as_u64(), row["stride"].as_u64())).collect();
    assert_eq!(cases, [(Some(1), Some(1)), (Some(2), Some(1)), (Some(2), Some(2))]);
    for row in rows {
        assert!(row["speed_up"].as_f64().unwrap() > 0.0 && row["summary"]["components"] == row["workers"], "{row}");
    }
    assert_eq!(rows[0]["speed_up"].as_f64(), Some(1.0));
    for name in ["tiny-n2-s1.json", "tiny-n2-s2.json"] {
        let trace = std::fs::read_to_string(place.path("traces").join(name)).unwrap();
        let trace: serde_json::Value = serde_json::from_str(&trace).unwrap();
        let is_transfer = |event: &&serde_json::Value| event["cat"] == "transfer";
        assert!(trace["traceEvents"].as_array().unwrap().iter().filter(is_transfer).count() > 4, "{name}");
    }
}
