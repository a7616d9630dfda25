//! Partitions: which component owns which layer, and what therefore crosses.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{ComponentId, LayerId, Operand, Ownership, Program, ValueId};

/// Assigns every owned layer of a program to a component. A component need not be contiguous; the last one makes the noise prediction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    components: u16,
    /// By layer; `None` for shared layers.
    owners: Vec<Option<ComponentId>>,
}

/// A value that one component makes and another reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// The value.
    pub value: ValueId,
    /// Who makes it.
    pub from: ComponentId,
    /// Who reads it.
    pub to: ComponentId,
    /// Bytes of one row of the batch.
    pub row_bytes: u64,
}

/// Why an assignment is no partition of a program.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PartitionError {
    /// A partition file names a module that the program lacks.
    #[error(
        "component {component} lists {module}, which the denoiser lacks\nhint: modules are named as in the checkpoint, such as {example}"
    )]
    UnknownModule {
        /// Who lists it.
        component: ComponentId,
        /// What it lists.
        module: String,
        /// A module that exists.
        example: String,
    },
    /// Two components list the same layer.
    #[error("layer {layer} is listed by {first} and by {second}; each layer belongs to one component")]
    ListedTwice {
        /// The layer.
        layer: String,
        /// Who lists it first.
        first: ComponentId,
        /// Who lists it again.
        second: ComponentId,
    },
    /// No component lists this layer.
    #[error("layer {0} belongs to no component\nhint: add it to one of the lists")]
    Unassigned(String),
    /// A component owns nothing.
    #[error("{0} owns no layer\nhint: ask for fewer components")]
    EmptyComponent(ComponentId),
    /// The last component does not own the layer that makes the noise prediction.
    #[error("the last component must own {layer}, which makes the noise prediction; it belongs to {owner}")]
    OutputNotLast {
        /// The output's layer.
        layer: String,
        /// Who owns it.
        owner: ComponentId,
    },
    /// More components than layers, or none.
    #[error("{wanted} components were asked for; this denoiser of {layers} layers can be split into 1 to {layers}")]
    ComponentCount {
        /// How many were asked for.
        wanted: usize,
        /// How many owned layers there are.
        layers: usize,
    },
}

impl Partition {
    /// Everything in one component.
    #[must_use]
    pub fn whole(program: &Program) -> Self {
        let owners = program.layers.iter().map(|layer| match layer.ownership {
            Ownership::Owned => Some(ComponentId(0)),
            Ownership::Shared => None,
        });
        Self { components: 1, owners: owners.collect() }
    }

    /// A partition from the component of each owned layer, in program order.
    pub fn from_owners(program: &Program, components: usize, owned: &[ComponentId]) -> Result<Self, PartitionError> {
        let layers = program.owned_layers().count();
        if components == 0 || components > layers {
            return Err(PartitionError::ComponentCount { wanted: components, layers });
        }
        let mut owners = vec![None; program.layers.len()];
        for (index, (layer, spec)) in program.owned_layers().enumerate() {
            let owner = owned.get(index).ok_or_else(|| PartitionError::Unassigned(spec.name.clone()))?;
            owners[layer.index()] = Some(*owner);
        }
        let partition = Self { components: components as u16, owners };
        partition.check(program)?;
        Ok(partition)
    }

    /// A partition from lists of module names: a list's entry covers the layer of that name and all layers below it.
    pub fn from_modules(program: &Program, lists: &[Vec<String>]) -> Result<Self, PartitionError> {
        let mut owners: Vec<Option<ComponentId>> = vec![None; program.layers.len()];
        for (index, list) in lists.iter().enumerate() {
            let component = ComponentId(index as u16);
            for module in list {
                let prefix = format!("{module}.");
                let mut found = false;
                for (id, layer) in program.owned_layers() {
                    if layer.name != *module && !layer.name.starts_with(&prefix) {
                        continue;
                    }
                    found = true;
                    if let Some(first) = owners[id.index()].replace(component) {
                        return Err(PartitionError::ListedTwice {
                            layer: layer.name.clone(),
                            first,
                            second: component,
                        });
                    }
                }
                if !found {
                    let example = program.layer(program.output.layer()).name.clone();
                    return Err(PartitionError::UnknownModule { component, module: module.clone(), example });
                }
            }
        }
        if let Some((_, layer)) = program.owned_layers().find(|(id, _)| owners[id.index()].is_none()) {
            return Err(PartitionError::Unassigned(layer.name.clone()));
        }
        let owned: Vec<ComponentId> = owners.into_iter().flatten().collect();
        Self::from_owners(program, lists.len(), &owned)
    }

    /// Number of components.
    #[must_use]
    pub fn components(&self) -> usize {
        usize::from(self.components)
    }

    /// The components in order.
    pub fn component_ids(&self) -> impl Iterator<Item = ComponentId> + use<> {
        (0..self.components).map(ComponentId)
    }

    /// The component that makes the noise prediction.
    #[must_use]
    pub fn last(&self) -> ComponentId {
        ComponentId(self.components - 1)
    }

    /// Who owns a layer; `None` for a shared one.
    #[must_use]
    pub fn owner(&self, layer: LayerId) -> Option<ComponentId> {
        self.owners[layer.index()]
    }

    /// The layers that a component owns, in program order.
    #[must_use]
    pub fn owned_by(&self, component: ComponentId) -> Vec<LayerId> {
        let owned = self.owners.iter().enumerate().filter(|(_, owner)| **owner == Some(component));
        owned.map(|(index, _)| LayerId(index as u16)).collect()
    }

    /// Values of other components that `component` reads, shared layers seen through.
    #[must_use]
    pub fn foreign_reads(&self, program: &Program, component: ComponentId) -> Vec<ValueId> {
        let mut values: Vec<ValueId> = self
            .owned_by(component)
            .into_iter()
            .flat_map(|layer| program.resolved_reads(layer))
            .filter_map(|operand| match operand {
                Operand::Value(value) if self.owner(value.layer()) != Some(component) => Some(value),
                _ => None,
            })
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    /// Everything that crosses, each value once per reading component.
    #[must_use]
    pub fn crossings(&self, program: &Program) -> Vec<Crossing> {
        let mut crossings = Vec::new();
        for to in self.component_ids() {
            for value in self.foreign_reads(program, to) {
                if let Some(from) = self.owner(value.layer()) {
                    let row_bytes = program.layer(value.layer()).writes.row_bytes();
                    crossings.push(Crossing { value, from, to, row_bytes });
                }
            }
        }
        crossings
    }

    /// Bytes per row of the batch that cross in a step.
    #[must_use]
    pub fn crossing_row_bytes(&self, program: &Program) -> u64 {
        self.crossings(program).iter().map(|crossing| crossing.row_bytes).sum()
    }

    /// The cost of each component, given one for each layer of the program.
    #[must_use]
    pub fn component_costs(&self, layer_costs: &[f64]) -> Vec<f64> {
        let mut costs = vec![0.0; self.components()];
        for (owner, cost) in self.owners.iter().zip(layer_costs) {
            if let Some(owner) = owner {
                costs[owner.index()] += cost;
            }
        }
        costs
    }

    /// The component lists as module names: what a partition file holds.
    #[must_use]
    pub fn module_lists(&self, program: &Program) -> Vec<Vec<String>> {
        let names = |component| {
            self.owned_by(component).into_iter().map(|layer| program.layer(layer).name.clone()).collect::<Vec<_>>()
        };
        self.component_ids().map(names).collect()
    }

    fn check(&self, program: &Program) -> Result<(), PartitionError> {
        for component in self.component_ids() {
            if !self.owners.contains(&Some(component)) {
                return Err(PartitionError::EmptyComponent(component));
            }
        }
        for (id, layer) in program.owned_layers() {
            match self.owner(id) {
                Some(owner) if owner.0 < self.components => {}
                _ => return Err(PartitionError::Unassigned(layer.name.clone())),
            }
        }
        let output = program.output.layer();
        match self.owner(output) {
            Some(owner) if owner == self.last() => Ok(()),
            owner => Err(PartitionError::OutputNotLast {
                layer: program.layer(output).name.clone(),
                owner: owner.unwrap_or_default(),
            }),
        }
    }
}
