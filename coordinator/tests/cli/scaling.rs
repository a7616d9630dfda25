//! `coordinator bench scaling`: simulated devices on real links.

use crate::harness::Place;

#[test]
fn simulated_devices_send_the_bytes_of_their_plan_and_take_at_least_their_ideal_time() {
    let place = Place::new();
    let networks = "inside,1gbit-0.2ms";
    let cut = ["--models", "sd21", "--networks", networks, "--workers", "2", "--strides", "1", "--guidance", "batched"];
    let short = ["--steps", "3", "--dilation", "1", "--plot", "plot.svg", "--json"];
    let report = place.run(&[&["bench", "scaling"], &cut[..], &short].concat()).json();
    let rows = report["rows"].as_array().unwrap();
    let text = |row: usize, key: &str| rows[row][key].as_str().unwrap().to_owned();
    assert_eq!([text(0, "network"), text(1, "network")], ["inside", "1gbit-0.2ms"]);
    assert_eq!([text(0, "encoding"), text(1, "encoding")], ["full", "delta8"]);
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap();
        let counted = number("bytes_per_step");
        assert!(counted > 1e6 && (number("predicted_bytes_per_step") / counted - 1.0).abs() < 1e-3, "{row}");
        // Slower on a busy machine, and never faster: the time that passes between two steps is the devices' and the links'.
        assert!(number("share_of_ideal") > 0.0 && number("share_of_ideal") < 1.01, "{row}");
    }
    assert!(std::fs::read_to_string(place.path("plot.svg")).unwrap().ends_with("</svg>\n"));
}
