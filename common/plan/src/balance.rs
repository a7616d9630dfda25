//! Finds partitions: contiguous and nested, balanced by the cost of layers and the speed of devices.
//!
//! Both searches minimise the slowest component's time and, among splits within [`BALANCE_SLACK`] of the best, the bytes that cross.

use crate::{ComponentId, Partition, PartitionError, Program};

/// How much slower than the best balanced one a split may be if it sends fewer bytes: half of what layer costs vary between two measurements.
const BALANCE_SLACK: f64 = 1.01;

/// The shapes of cut that the search makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum CutShape {
    /// Component `i` owns a run of layers before those of component `i + 1`.
    Contiguous,
    /// The last component owns the first and the last layers, so that the outer skip connections never travel; the others split
    /// what lies between. One round deeper than a contiguous cut, 4 to 13 times fewer bytes.
    Nested,
}

impl Partition {
    /// The best partition of this shape into `speeds.len()` components.
    ///
    /// - `costs`: seconds of each layer of the program on a device of speed 1 (shared layers' costs are ignored).
    /// - `speeds`: relative speed of the device that will run each component.
    pub fn balanced(program: &Program, costs: &[f64], speeds: &[f64], shape: CutShape) -> Result<Self, PartitionError> {
        let layers: Vec<f64> = program.owned_layers().map(|(id, _)| costs[id.index()]).collect();
        let components = speeds.len();
        if components == 0 || components > layers.len() {
            return Err(PartitionError::ComponentCount { wanted: components, layers: layers.len() });
        }
        let search = Search { prefix: prefix_sums(&layers), speeds };
        let candidates = match shape {
            // A ring around nothing, or one layer each, is a contiguous cut.
            CutShape::Nested if components > 1 && components < layers.len() => search.nested(),
            _ => search.contiguous(),
        };
        let best = candidates.iter().map(|candidate| candidate.slowest).fold(f64::INFINITY, f64::min);
        let partitions = candidates.iter().filter(|candidate| candidate.slowest <= best * BALANCE_SLACK);
        let mut chosen: Option<(u64, Self)> = None;
        for candidate in partitions {
            let partition = Self::from_owners(program, components, &candidate.owners)?;
            let bytes = partition.crossing_row_bytes(program);
            if chosen.as_ref().is_none_or(|(fewest, _)| bytes < *fewest) {
                chosen = Some((bytes, partition));
            }
        }
        let empty = PartitionError::ComponentCount { wanted: components, layers: layers.len() };
        chosen.map(|(_, partition)| partition).ok_or(empty)
    }
}

struct Candidate {
    slowest: f64,
    owners: Vec<ComponentId>,
}

struct Search<'a> {
    prefix: Vec<f64>,
    speeds: &'a [f64],
}

impl Search<'_> {
    fn layers(&self) -> usize {
        self.prefix.len() - 1
    }

    fn contiguous(&self) -> Vec<Candidate> {
        let (layers, components) = (self.layers(), self.speeds.len());
        let mut candidates = vec![self.split(0, layers, self.speeds)];
        // Neighbours of the optimum: every boundary moved by up to two layers, one at a time, may send fewer bytes.
        let boundaries = boundaries_of(&candidates[0].owners, components);
        for (index, &boundary) in boundaries.iter().enumerate() {
            for moved in boundary.saturating_sub(2)..=boundary + 2 {
                let mut moved_boundaries = boundaries.clone();
                moved_boundaries[index] = moved;
                candidates.extend(self.candidate(0, layers, &moved_boundaries));
            }
        }
        candidates
    }

    fn nested(&self) -> Vec<Candidate> {
        let (layers, inner) = (self.layers(), self.speeds.len() - 1);
        let outer_speed = self.speeds[inner];
        let last = ComponentId(inner as u16);
        let mut candidates = Vec::new();
        for start in 1..layers - inner {
            for end in start + inner..layers {
                let outer = (self.span(0, start) + self.span(end, layers)) / outer_speed;
                let middle = self.split(start, end, &self.speeds[..inner]);
                let mut owners = vec![last; layers];
                owners[start..end].copy_from_slice(&middle.owners);
                candidates.push(Candidate { slowest: outer.max(middle.slowest), owners });
            }
        }
        candidates
    }

    /// Splits `start..end` into contiguous runs so that the slowest is as fast as can be: dynamic programming over (components, end).
    fn split(&self, start: usize, end: usize, speeds: &[f64]) -> Candidate {
        let count = end - start;
        let mut best = vec![vec![f64::INFINITY; count + 1]; speeds.len() + 1];
        let mut cut = vec![vec![0usize; count + 1]; speeds.len() + 1];
        best[0][0] = 0.0;
        for (component, speed) in speeds.iter().enumerate() {
            for to in component + 1..=count {
                for from in component..to {
                    let slowest = best[component][from].max(self.span(start + from, start + to) / speed);
                    if slowest < best[component + 1][to] {
                        best[component + 1][to] = slowest;
                        cut[component + 1][to] = from;
                    }
                }
            }
        }
        let mut owners = vec![ComponentId(0); count];
        let mut to = count;
        for component in (0..speeds.len()).rev() {
            let from = cut[component + 1][to];
            owners[from..to].fill(ComponentId(component as u16));
            to = from;
        }
        Candidate { slowest: best[speeds.len()][count], owners }
    }

    fn candidate(&self, start: usize, end: usize, boundaries: &[usize]) -> Option<Candidate> {
        let mut owners = vec![ComponentId(0); end - start];
        let mut slowest = 0.0f64;
        let mut from = start;
        for (component, speed) in self.speeds.iter().enumerate() {
            let to = boundaries.get(component).copied().unwrap_or(end);
            if to <= from || to > end {
                return None;
            }
            owners[from - start..to - start].fill(ComponentId(component as u16));
            slowest = slowest.max(self.span(from, to) / speed);
            from = to;
        }
        Some(Candidate { slowest, owners })
    }

    fn span(&self, from: usize, to: usize) -> f64 {
        self.prefix[to] - self.prefix[from]
    }
}

fn prefix_sums(costs: &[f64]) -> Vec<f64> {
    let sums = costs.iter().scan(0.0, |sum, cost| {
        *sum += cost;
        Some(*sum)
    });
    std::iter::once(0.0).chain(sums).collect()
}

fn boundaries_of(owners: &[ComponentId], components: usize) -> Vec<usize> {
    let ends = (1..components).map(|component| owners.partition_point(|owner| owner.index() < component));
    ends.collect()
}
