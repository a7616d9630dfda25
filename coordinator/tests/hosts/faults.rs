//! Cables that are pulled, paths that carry one way only, and a coordinator that dies, each in the middle of a picture.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::network::OneWay;

/// Within what the loss of another host is noticed: 1.5 s without a heartbeat, and what it takes to say so.
const NOTICED_WITHIN: Duration = Duration::from_secs(2);

/// Within what a picture is made whose workers cannot reach each other.
const MADE_WITHIN: Duration = Duration::from_secs(20);

/// Within what a worker is back whose host can be reached again: its longest pause between two attempts is 5 s, and an attempt that began
/// too early takes some seconds to fail.
const BACK_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn a_host_whose_link_goes_down_for_good_is_noticed_in_two_seconds_and_the_picture_is_made() {
    let Some(cluster) = Cluster::start(&["worker-a", "worker-b"]) else { return };
    let picture = cluster.begin("down.png");
    cluster.network.take_down("worker-b");
    let noticed = picture.noticed("worker-b", Instant::now());
    assert!(noticed <= NOTICED_WITHIN, "{noticed:?}");
    let record = cluster.check(picture, "2");
    assert!(record["recoveries"][0]["step"].as_u64().unwrap() < 40, "{record}");
    assert_eq!(cluster.workers(), ["worker-a"]);
}

#[test]
fn a_worker_whose_cable_was_out_for_four_seconds_comes_back_by_itself() {
    let Some(cluster) = Cluster::start(&["worker-a", "worker-b"]) else { return };
    let picture = cluster.begin("unplugged.png");
    cluster.network.unplug("worker-b");
    let unplugged = Instant::now();
    let noticed = picture.noticed("worker-b", unplugged);
    assert!(noticed <= NOTICED_WITHIN, "{noticed:?}");
    // It does not come back before.
    while unplugged.elapsed() < Duration::from_secs(4) {
        assert_eq!(cluster.workers(), ["worker-a"]);
    }
    cluster.network.plug("worker-b");
    let back = cluster.wait_until("worker-b is back", BACK_WITHIN, |cluster| cluster.workers().len() == 2);
    println!("back after {back:.2?}");
    cluster.check(picture, "2");
    let again = cluster.begin("again.png");
    let record = cluster.check(again, "3");
    assert_eq!(record["summary"]["workers"].as_array().unwrap().len(), 2, "{record}");
    assert_eq!(record["recoveries"].as_array().unwrap().len(), 0, "{record}");
}

#[test]
fn a_worker_that_is_not_heard_or_does_not_hear_is_lost_in_two_seconds_and_back_when_the_path_is() {
    let Some(cluster) = Cluster::start(&["worker-a", "worker-b"]) else { return };
    let unheard = OneWay { from: "worker-b", to: "coordinator" };
    let deaf = OneWay { from: "coordinator", to: "worker-b" };
    for (way, picture, job) in [(unheard, "unheard.png", "2"), (deaf, "deaf.png", "3")] {
        let picture = cluster.begin(picture);
        cluster.network.block(way);
        // The picture needs nothing of what does not arrive at the part that reads no latents, and may be done; so it is asked who is there.
        let lost = cluster.wait_until("worker-b is lost", NOTICED_WITHIN, |cluster| cluster.workers() == ["worker-a"]);
        cluster.check(picture, job);
        cluster.network.unblock(way);
        let back = cluster.wait_until("worker-b is back", BACK_WITHIN, |cluster| cluster.workers().len() == 2);
        println!("{way:?}: lost after {lost:.2?}, back after {back:.2?}");
    }
}

#[test]
fn workers_between_which_one_way_is_blocked_make_the_picture_all_the_same() {
    let Some(cluster) = Cluster::start(&["worker-a", "worker-b"]) else { return };
    let picture = cluster.begin("between.png");
    cluster.network.block(OneWay { from: "worker-a", to: "worker-b" });
    let blocked = Instant::now();
    let noticed = picture.told("the link to worker", blocked);
    assert!(noticed <= NOTICED_WITHIN, "{noticed:?}");
    let record = cluster.check(picture, "2");
    assert!(blocked.elapsed() < MADE_WITHIN, "{:?}", blocked.elapsed());
    println!("between.png: made {:.2?} after the fault", blocked.elapsed());
    let what = record["recoveries"][0]["what"].as_str().unwrap();
    assert!(what.contains("the link to worker"), "{record}");
    assert_eq!(record["recoveries"].as_array().unwrap().len(), 1, "no other plan goes over the path: {record}");
    assert_eq!(cluster.workers(), ["worker-a", "worker-b"]);
}

#[test]
fn a_coordinator_that_is_killed_and_started_again_on_its_host_makes_the_picture_with_its_workers() {
    let Some(mut cluster) = Cluster::start(&["worker-a", "worker-b"]) else { return };
    let picture = cluster.begin("restarted.png");
    cluster.kill_coordinator();
    cluster.start_coordinator();
    let record = cluster.check(picture, "2");
    let recovery = record["recoveries"][0]["what"].as_str().unwrap();
    assert!(recovery.contains("the coordinator ended"), "{record}");
    cluster.wait_until("both workers are back", BACK_WITHIN, |cluster| cluster.workers().len() == 2);
}
