//! Checkpoints from a hub, which is here a local server that answers as the real one does.
#![allow(clippy::unwrap_used)]

mod golden_parts;
mod hub_server;

use std::path::Path;
use std::time::{Duration, Instant};

use asyncdiff_model::checkpoint::{Checkpoint, CheckpointError, HubSettings, Weights};
use golden_parts::demo_model;
use hub_server::{Behaviour, HubServer};

const ID: &str = "somebody/demo-model";

fn settings(server: &HubServer, cache: &Path) -> HubSettings {
    HubSettings {
        cache: cache.to_owned(),
        endpoint: server.endpoint(),
        token: None,
        offline: false,
        stall_limit: Duration::from_secs(30),
    }
}

fn open(settings: HubSettings) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::open_with(ID, || Ok(settings))
}

#[test]
fn only_what_is_asked_for_is_downloaded_and_only_once() {
    let (server, cache) = (HubServer::start(demo_model(), Behaviour::Normal), tempfile::tempdir().unwrap());
    let checkpoint = open(settings(&server, cache.path())).unwrap();
    assert_eq!((checkpoint.name().as_str(), checkpoint.pipeline()), (ID, "StableDiffusionPipeline"));
    let weights = checkpoint.weights("text_encoder").unwrap();
    let local = Checkpoint::folder(&demo_model()).unwrap().weights("text_encoder").unwrap();
    let name = "text_model.final_layer_norm.weight";
    assert_eq!(weights.stored(name, &[128]).unwrap(), local.stored(name, &[128]).unwrap());
    assert_eq!(server.downloads(), ["model_index.json", "text_encoder/model.safetensors"]);

    let again = open(settings(&server, cache.path())).unwrap();
    assert!(again.weights("text_encoder").is_ok() && again.exists("unet/config.json"));
    assert_eq!(server.downloads().len(), 2);
    let snapshots = cache.path().join("models--somebody--demo-model/snapshots");
    assert!(snapshots.join(hub_server::COMMIT).join("model_index.json").is_file());
}

#[test]
fn offline_the_cache_is_enough_and_what_is_not_in_it_is_named() {
    let (server, cache) = (HubServer::start(demo_model(), Behaviour::Normal), tempfile::tempdir().unwrap());
    let offline = HubSettings { offline: true, ..settings(&server, cache.path()) };
    let error = open(offline.clone()).err().unwrap().to_string();
    assert!(error.contains("model_index.json") && error.contains("HF_HUB_OFFLINE"), "{error}");
    assert_eq!(server.requests(), 0);
    open(settings(&server, cache.path())).unwrap().text("unet/config.json").unwrap();
    let requests = server.requests();
    let checkpoint = open(offline).unwrap();
    assert!(checkpoint.text("unet/config.json").is_ok());
    assert!(checkpoint.text("vae/config.json").is_err() && !checkpoint.exists("vae/config.json"));
    assert_eq!(server.requests(), requests);
}

#[test]
fn a_hub_that_is_gone_is_replaced_by_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let server = HubServer::start(demo_model(), Behaviour::Normal);
    let settings = settings(&server, cache.path());
    open(settings.clone()).unwrap();
    drop(server);
    assert!(open(settings).is_ok());
}

#[test]
fn the_token_is_sent_and_its_absence_explained() {
    let (server, cache) = (HubServer::start(demo_model(), Behaviour::Token("secret")), tempfile::tempdir().unwrap());
    let error = open(settings(&server, cache.path())).err().unwrap().to_string();
    assert!(error.contains("401") && error.contains("HF_TOKEN"), "{error}");
    let with_token = HubSettings { token: Some("secret".to_owned()), ..settings(&server, cache.path()) };
    assert!(open(with_token).is_ok());
}

#[test]
fn an_unknown_repository_is_named() {
    let (server, cache) = (HubServer::start(demo_model(), Behaviour::Normal), tempfile::tempdir().unwrap());
    let settings = settings(&server, cache.path());
    let error = Checkpoint::open_with("somebody/else", || Ok(settings.clone())).err().unwrap().to_string();
    assert!(error.contains("somebody/else") && error.contains("404"), "{error}");
    let checkpoint = open(settings).unwrap();
    assert!(matches!(checkpoint.text("no/such.json"), Err(CheckpointError::MissingFile { .. })));
}

#[test]
fn an_answer_that_breaks_the_protocol_is_an_error_and_no_panic() {
    let (server, cache) = (HubServer::start(demo_model(), Behaviour::Garbage), tempfile::tempdir().unwrap());
    let error = open(settings(&server, cache.path())).err().unwrap();
    assert!(matches!(error, CheckpointError::Hub { .. }), "{error}");
}

#[test]
fn a_hub_that_falls_silent_is_given_up() {
    let (server, cache) = (HubServer::start(demo_model(), Behaviour::Silent), tempfile::tempdir().unwrap());
    let impatient = HubSettings { stall_limit: Duration::from_millis(200), ..settings(&server, cache.path()) };
    let started = Instant::now();
    let error = open(impatient).err().unwrap().to_string();
    assert!(error.contains("nothing arrived for 200ms"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
}
