//! From a prompt to a picture, with the embedded model.

use std::num::NonZeroU32;

use asyncdiff_coordinator::job::{JobRequest, JobSettings, JobState};
use asyncdiff_coordinator::local_workers::Pace;
use asyncdiff_coordinator::{JobSpec, Limits, ModelStore, demo_checkpoint};

use super::support::TestCluster;

async fn demo_cluster(names: &[&str]) -> TestCluster {
    let store = ModelStore::open(&demo_checkpoint().unwrap()).unwrap();
    TestCluster::with_store(store, names, Pace::Instant, Limits::default()).await
}

fn request(prompt: &str, steps: u32) -> JobSpec {
    let settings =
        JobSettings { steps: NonZeroU32::new(steps).unwrap(), size: Some((64, 64)), ..JobSettings::default() };
    JobRequest { prompt: prompt.to_owned(), negative_prompt: String::new(), settings }.into()
}

#[tokio::test]
async fn a_prompt_becomes_a_picture_of_the_wanted_size() {
    let cluster = demo_cluster(&["a", "b"]).await;
    let record = cluster.run(request("a red circle on a white background", 2)).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    let outcome = cluster.cluster.outcome(record.id).await.unwrap().unwrap();
    let file = std::io::Cursor::new(outcome.picture.clone().unwrap());
    let reader = png::Decoder::new(file).read_info().unwrap();
    assert_eq!((reader.info().width, reader.info().height), (64, 64));
    let texts: Vec<_> = reader.info().utf8_text.iter().map(|chunk| chunk.get_text().unwrap()).collect();
    assert!(texts.iter().any(|text| text == "a red circle on a white background"), "{texts:?}");
}

#[tokio::test]
async fn many_pictures_leave_nothing_behind_at_workers_that_encoded_or_decoded_only() {
    let cluster = demo_cluster(&["a", "b"]).await;
    // More than a session of a debug build takes. The decoder is asked for after half of the steps, and of who has no part.
    for _job in 0..20 {
        let mut spec = request("a red circle", 4);
        spec.settings.wishes.components = Some(1);
        let record = cluster.run(spec).await;
        assert_eq!((record.state, record.recoveries.len()), (JobState::Done, 0), "{:?}", record.recoveries);
    }
    let workers = cluster.cluster.workers().await.unwrap();
    let replies: u64 = workers.iter().map(|worker| worker.tensors.replies).sum();
    assert_eq!(replies, 40, "in the same session: {workers:?}");
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_cut_with_a_warning() {
    let cluster = demo_cluster(&["a"]).await;
    let record = cluster.run(request(&"a red circle ".repeat(60), 1)).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    assert!(record.warnings.iter().any(|warning| warning.contains("cut off")), "{:?}", record.warnings);
}

#[tokio::test]
async fn a_negative_prompt_without_guidance_is_warned_of() {
    let cluster = demo_cluster(&["a"]).await;
    let mut spec = request("a red circle", 4);
    spec.settings.guidance_scale = 1.0;
    spec.conditions =
        asyncdiff_coordinator::Conditions::Prompt { prompt: "a red circle".to_owned(), negative: "blue".to_owned() };
    let record = cluster.run(spec).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    assert!(record.warnings.iter().any(|warning| warning.contains("no effect")), "{:?}", record.warnings);
}
