//! A component: any set of a program's layers, with their weights, computed layer by layer on one device.
//!
//! Whoever owns a component decides when a layer's operands are there; nothing in here waits, sends or knows other
//! components. [`evaluate`] runs a component that owns every layer, one after another: the oracle of every test.

mod layer_graph;
mod load;
mod measure;
mod memory;
mod resnet;
mod sequential;
mod time_embedding;
mod transformer;

pub use load::Component;
pub use measure::measure;
pub use memory::layer_memory;
pub use sequential::{Condition, constant_values, evaluate, evaluate_step, evaluate_values};
