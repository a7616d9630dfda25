//! One component of one job: loads it on the device, and is the boundary that its failure does not pass.

use std::sync::Arc;

use asyncdiff_common::heap;
use asyncdiff_common::wire::{ComputeType, WorkerFailure};
use asyncdiff_model::component::Component as LoadedComponent;
use asyncdiff_model::families::DenoiserProgram;
use asyncdiff_model::kernels::Kernels;
use asyncdiff_plan::{ComponentId, Epoch, JobId, LayerId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use thiserror::Error;

use super::NodeMessage;
use crate::device::{DeviceHandle, format};
use crate::failure::model_failure;
use crate::weights::ReceivedWeights;
use asyncdiff_common::owned_task::OwnedTask;

/// A component of a job.
///
/// Started by the Node when the job's parameters are there; ends when the job is released, or by failing. Its failure reaches the Node by supervision.
/// The device computes with what it has loaded; the actor keeps it as long as the job needs it.
pub(super) struct Component;

pub(super) struct ComponentArguments {
    pub(super) job: JobId,
    pub(super) epoch: Epoch,
    pub(super) component: ComponentId,
    pub(super) source: ComponentSource,
    pub(super) device: DeviceHandle,
    pub(super) node: ActorRef<NodeMessage>,
}

/// Where the component comes from.
pub(super) enum ComponentSource {
    /// It is to be loaded.
    Fresh { program: DenoiserProgram, compute: ComputeType, layers: Vec<LayerId>, weights: Arc<ReceivedWeights> },
    /// An earlier job has left it.
    Kept(Arc<LoadedComponent>),
}

pub(super) enum ComponentMessage {
    /// A layer of it failed or panicked on the device.
    Failed(WorkerFailure),
    /// The device has loaded it, or not.
    Loaded(Result<Arc<LoadedComponent>, WorkerFailure>),
}

pub(super) struct ComponentState {
    job: JobId,
    epoch: Epoch,
    component: ComponentId,
    node: ActorRef<NodeMessage>,
    loaded: Option<Arc<LoadedComponent>>,
    span: tracing::Span,
    _loading: Option<OwnedTask>,
}

/// How a component ended: the error of its actor.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct ComponentFailed(pub(super) WorkerFailure);

impl Actor for Component {
    type Msg = ComponentMessage;
    type State = ComponentState;
    type Arguments = ComponentArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ComponentMessage>,
        arguments: ComponentArguments,
    ) -> Result<ComponentState, ActorProcessingErr> {
        let ComponentArguments { job, epoch, component, source, device, node } = arguments;
        let span = tracing::info_span!("component", %job, %epoch, %component);
        let loaded = move |result| {
            // Fails only if the job was released meanwhile.
            drop(myself.cast(ComponentMessage::Loaded(result)));
        };
        let loading = match source {
            ComponentSource::Kept(kept) => {
                loaded(Ok(kept));
                None
            }
            ComponentSource::Fresh { program, compute, layers, weights } => {
                let load = move |kernels: &Kernels| {
                    let loaded =
                        LoadedComponent::load(&program, &layers, &*weights, &kernels.with_format(format(compute)));
                    // Parameters are packed once; what they were packed from is not to stay.
                    drop(weights);
                    heap::give_back();
                    loaded.map(Arc::new).map_err(model_failure)
                };
                Some(OwnedTask::spawn(async move { loaded(device.run(load).await) }))
            }
        };
        Ok(ComponentState { job, epoch, component, node, loaded: None, span, _loading: loading })
    }

    async fn handle(
        &self,
        _myself: ActorRef<ComponentMessage>,
        message: ComponentMessage,
        state: &mut ComponentState,
    ) -> Result<(), ActorProcessingErr> {
        let _span = state.span.clone().entered();
        match message {
            ComponentMessage::Failed(failure) | ComponentMessage::Loaded(Err(failure)) => {
                Err(ComponentFailed(failure).into())
            }
            ComponentMessage::Loaded(Ok(loaded)) => {
                tracing::debug!(resident_bytes = loaded.resident_bytes(), layers = loaded.layers().len(), "loaded");
                state.loaded = Some(Arc::clone(&loaded));
                let (job, epoch, component) = (state.job, state.epoch, state.component);
                // Fails only when the worker is stopping.
                drop(state.node.cast(NodeMessage::ComponentLoaded { job, epoch, component, loaded }));
                Ok(())
            }
        }
    }
}
