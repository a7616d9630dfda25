//! How an operation is carried out: the first of the library's engines that it thinks fast, that always gives the same bits, and that works.

use cudarc::cudnn::sys::{cudnnBackendHeurMode_t as Mode, cudnnBackendNumericalNote_t as Note};

use super::descriptor::{Descriptor, Descriptors, Kind, Name, Type, Value};
use super::library::{Failure, Functions, Handle};
use super::operations;
use crate::kernels::cuda::fused::{AttentionShape, ConvolutionShape};

/// How many engines are tried: of those that come later none has been seen to work where these did not.
const CANDIDATES: usize = 16;

/// More than an engine has notes.
const NOTES: usize = 16;

/// What no engine may do: sum in any order, or with less than f32 and the format's elements have.
const REFUSED: [Note; 8] = [
    Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
    Note::CUDNN_NUMERICAL_NOTE_FFT,
    Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
    Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
    Note::CUDNN_NUMERICAL_NOTE_WINOGRAD,
    Note::CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13,
    Note::CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4,
    Note::CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6,
];

/// What a plan is made of, and found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Attention(AttentionShape),
    Convolution(ConvolutionShape),
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Machine {
    /// One that is described by a descriptor, wherever it is.
    #[cfg(test)]
    Described(Descriptor),
    /// That of the handle.
    Here(Handle),
}

/// An operation, ready to be carried out.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) descriptor: Descriptor,
    /// What the descriptor is made of.
    _all: Descriptors,
}

impl Plan {
    /// `None` where there is no engine for it.
    pub(super) fn choose(
        functions: &'static Functions,
        machine: Machine,
        operation: &Operation,
        workspace_bytes: usize,
    ) -> Result<Option<Self>, Failure> {
        let mut all = Descriptors::new(functions);
        let operations = match operation {
            Operation::Attention(shape) => operations::attention(&mut all, shape)?,
            Operation::Convolution(shape) => operations::convolution(&mut all, shape)?,
        };
        let mut attributes = vec![(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, Value::Descriptors(&operations))];
        // The library plans for another machine as long as it is not told of one that is here.
        let handle = machine.handle().map(|handle| (Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Value::Handle(handle)));
        attributes.extend(handle);
        let graph = all.make(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, &attributes)?;
        for mode in [Mode::CUDNN_HEUR_MODE_A, Mode::CUDNN_HEUR_MODE_FALLBACK] {
            for configuration in candidates(&mut all, machine, graph, mode)? {
                // Of one that does not work the next one is the answer.
                if let Ok(Some(descriptor)) = plan(&mut all, machine, configuration, workspace_bytes) {
                    return Ok(Some(Self { descriptor, _all: all }));
                }
            }
        }
        Ok(None)
    }
}

impl Machine {
    fn handle(self) -> Option<Handle> {
        match self {
            #[cfg(test)]
            Self::Described(_) => None,
            Self::Here(handle) => Some(handle),
        }
    }

    #[cfg(test)]
    fn description(self) -> Option<Descriptor> {
        match self {
            Self::Described(descriptor) => Some(descriptor),
            Self::Here(_) => None,
        }
    }

    #[cfg(not(test))]
    fn description(self) -> Option<Descriptor> {
        None
    }
}

/// Engines with their settings, the fastest first as the library thinks.
fn candidates(
    all: &mut Descriptors,
    machine: Machine,
    graph: Descriptor,
    mode: Mode,
) -> Result<Vec<Descriptor>, Failure> {
    let description = machine.description();
    let mut attributes = vec![
        (Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, Value::Descriptors(std::slice::from_ref(&graph))),
        (Name::CUDNN_ATTR_ENGINEHEUR_MODE, Value::Enumerator(Type::CUDNN_TYPE_HEUR_MODE, mode as u32)),
    ];
    if let Some(description) = &description {
        attributes
            .push((Name::CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, Value::Descriptors(std::slice::from_ref(description))));
    }
    let heuristic = all.make(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &attributes)?;
    let empty = |_| all.make_empty(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    let mut found = (0..CANDIDATES).map(empty).collect::<Result<Vec<_>, _>>()?;
    let count = all.get_into(heuristic, Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, &found)?;
    found.truncate(count);
    Ok(found)
}

/// `None` for an engine that is refused.
fn plan(
    all: &mut Descriptors,
    machine: Machine,
    configuration: Descriptor,
    workspace_bytes: usize,
) -> Result<Option<Descriptor>, Failure> {
    let engine = all.make_empty(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
    all.get_into(configuration, Name::CUDNN_ATTR_ENGINECFG_ENGINE, &[engine])?;
    let (name, kind) = (Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, Type::CUDNN_TYPE_NUMERICAL_NOTE);
    let notes = all.enumerators::<NOTES>(engine, name, kind)?;
    if REFUSED.iter().any(|&refused| notes.contains(&(refused as u32))) {
        return Ok(None);
    }
    let description = machine.description();
    let configurations = [configuration];
    let mut attributes = vec![(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, Value::Descriptors(&configurations))];
    if let Some(handle) = machine.handle() {
        attributes.push((Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Value::Handle(handle)));
    }
    if let Some(description) = &description {
        let description = Value::Descriptors(std::slice::from_ref(description));
        attributes.push((Name::CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, description));
    }
    let plan = all.make(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &attributes)?;
    let bytes = all.integer(plan, Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
    Ok(usize::try_from(bytes).is_ok_and(|bytes| bytes <= workspace_bytes).then_some(plan))
}
