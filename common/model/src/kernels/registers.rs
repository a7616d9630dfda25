//! Which values of a graph may share memory: each gets a register, and a register serves one value after another.

use crate::graph::{Graph, Slot};

/// Where a slot's elements are while a graph runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// What the caller gave.
    Input(usize),
    /// What the caller gets.
    Output(usize),
    /// Memory of the device.
    Register(usize),
}

/// A place for every slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registers {
    /// By slot.
    pub(super) places: Vec<Place>,
    /// Elements per row of the batch, by register; the largest first, so that graphs that share registers waste little.
    pub(super) elements: Vec<usize>,
}

impl Registers {
    /// Gives every value the free register that fits it best, in order of its making.
    pub(super) fn plan(graph: &Graph) -> Self {
        let last_reads = last_reads(graph);
        let mut places: Vec<Place> = (0..graph.inputs().len()).map(Place::Input).collect();
        let mut elements: Vec<usize> = Vec::new();
        let mut free: Vec<usize> = Vec::new();
        for (index, node) in graph.nodes().iter().enumerate() {
            let slot = graph.slot_of(index);
            let place = match graph.outputs().iter().position(|&output| output == slot) {
                Some(output) => Place::Output(output),
                None => Place::Register(take(&mut free, &mut elements, node.writes.elements())),
            };
            places.push(place);
            // Freed only now: what is written must not lie where something is still read.
            for dead in (0..places.len()).filter(|&slot| last_reads[slot] == Some(index)) {
                if let Place::Register(register) = places[dead] {
                    free.push(register);
                }
            }
        }
        Self { places, elements }.largest_first()
    }

    fn largest_first(self) -> Self {
        let mut order: Vec<usize> = (0..self.elements.len()).collect();
        order.sort_by_key(|&register| std::cmp::Reverse(self.elements[register]));
        let mut renamed = vec![0; order.len()];
        for (new, &old) in order.iter().enumerate() {
            renamed[old] = new;
        }
        let rename = |place| match place {
            Place::Register(old) => Place::Register(renamed[old]),
            other => other,
        };
        Self {
            places: self.places.into_iter().map(rename).collect(),
            elements: order.iter().map(|&old| self.elements[old]).collect(),
        }
    }
}

/// By slot, the node that reads it last.
fn last_reads(graph: &Graph) -> Vec<Option<usize>> {
    let mut last = vec![None; graph.inputs().len() + graph.nodes().len()];
    for (index, node) in graph.nodes().iter().enumerate() {
        for slot in node.reads.iter().copied().map(Slot::index) {
            last[slot] = Some(index);
        }
    }
    last
}

/// The smallest free register that is large enough, else the largest, which grows, else a new one.
fn take(free: &mut Vec<usize>, elements: &mut Vec<usize>, wanted: usize) -> usize {
    let fits = |&(_, &register): &(usize, &usize)| elements[register] >= wanted;
    let best = free.iter().enumerate().filter(fits).min_by_key(|&(_, &register)| elements[register]);
    let best = best.or_else(|| free.iter().enumerate().max_by_key(|&(_, &register)| elements[register]));
    match best.map(|(place, _)| place) {
        Some(place) => {
            let register = free.swap_remove(place);
            elements[register] = elements[register].max(wanted);
            register
        }
        None => {
            elements.push(wanted);
            elements.len() - 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Activation, Convolution, Extent, GraphBuilder};

    #[test]
    fn values_that_live_at_once_never_share_a_register() {
        let mut graph = GraphBuilder::new(&[Extent { height: 4, width: 4, channels: 8 }]);
        let input = graph.input(0);
        let first = graph.convolution("a", &[graph.input(0)], Convolution::same3(16));
        let second = graph.activate("b", first, Activation::Silu);
        let third = graph.convolution("c", &[second], Convolution::same3(16).plus(first));
        let fourth = graph.convolution("d", &[third], Convolution::same3(16).plus(second));
        let graph = graph.finish(&[fourth]);
        let registers = Registers::plan(&graph);
        let place = |slot: Slot| registers.places[slot.index()];
        assert_eq!(place(input), Place::Input(0));
        assert_eq!(place(fourth), Place::Output(0));
        let [first, second, third] = [first, second, third].map(place);
        assert!(first != second && second != third && third != first);
        assert_eq!(registers.elements, [256; 3]);
    }

    #[test]
    fn a_chain_needs_two_registers() {
        let mut graph = GraphBuilder::new(&[Extent::tokens(7, 3)]);
        let mut slot = graph.input(0);
        for index in 0..9 {
            slot = graph.convolution(&format!("{index}"), &[slot], Convolution::linear(index + 1));
        }
        let registers = Registers::plan(&graph.finish(&[slot]));
        assert_eq!(registers.elements.len(), 2);
        assert_eq!(registers.elements, [7 * 8, 7 * 7]);
    }
}
