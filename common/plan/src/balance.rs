//! Finds partitions: one search over layers that prices computing and what crosses.
//!
//! ```text
//!   layers   0 ……… start ……… boundary ……… boundary ……… end ……… last
//!            └ last ┘└── 0 ───┘└─── 1 ───┘└─── … ───┘└── last ──┘
//! ```
//!
//! The last component owns the layers before `start` and those from `end` on; the others split what lies between. `start = 0` is a contiguous
//! cut, anything else a nested one. After the warm-up all components run side by side, so what a split takes per step (its *period*) is
//! the slowest of its components and links. The search finds the smallest period, and then, among splits whose period is within a slack of it,
//! the one that sends the fewest bytes; both by dynamic programming over (components, end) for every `start`. Latencies and the
//! coordinator's turn are not seen here: [`predict`](crate::predict) decides among what is found.

use crate::{ComponentId, Layer, LayerId, LinkCost, Operand, Partition, PartitionError, Program};

/// How much longer than the shortest a period may be if fewer bytes are sent. The first is about what layer costs vary between two
/// measurements; the others trade balance for bytes, for links that the period does not tell the whole truth about.
const SLACKS: [f64; 4] = [1.01, 1.03, 1.1, 1.25];

/// The first of them does not let the period above this part of the mean, if it could be below.
const IMBALANCE_MAX: f64 = 1.03;

/// The shapes of cut that the search makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum CutShape {
    /// Component `i` owns a run of layers before those of component `i + 1`.
    Contiguous,
    /// The last component owns the first and the last layers, so that the outer skip connections never travel; the others split
    /// what lies between. One round deeper than a contiguous cut, 4 to 13 times fewer bytes.
    Nested,
}

/// What a split is priced by.
#[derive(Clone, Copy, Debug)]
pub struct Prices<'a> {
    /// Seconds of each layer of the program on a device of speed 1; those of shared layers are ignored.
    pub layer_seconds: &'a [f64],
    /// By component: relative speed of the device that will run it.
    pub speeds: &'a [f64],
    /// By component: the link that it sends and receives on.
    pub links: &'a [LinkCost],
    /// Rows of the batch that cross.
    pub rows: u32,
}

/// A split that the search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// The split.
    pub partition: Partition,
    /// Its shape.
    pub shape: CutShape,
    /// Seconds of its slowest component or link in a step.
    pub period_seconds: f64,
}

impl Partition {
    /// The best partition of this shape into `speeds.len()` components, were links free.
    ///
    /// - `costs`: seconds of each layer of the program on a device of speed 1 (shared layers' costs are ignored).
    /// - `speeds`: relative speed of the device that will run each component.
    pub fn balanced(program: &Program, costs: &[f64], speeds: &[f64], shape: CutShape) -> Result<Self, PartitionError> {
        let links = vec![LinkCost::FREE; speeds.len()];
        let prices = Prices { layer_seconds: costs, speeds, links: &links, rows: 1 };
        let found = splits(program, &prices, shape)?;
        let empty = PartitionError::ComponentCount { wanted: speeds.len(), layers: program.owned_layers().count() };
        found.into_iter().next().map(|split| split.partition).ok_or(empty)
    }
}

/// The best splits of a shape into `speeds.len()` components: the first has the shortest period, each further one fewer bytes for a longer one.
pub fn splits(program: &Program, prices: &Prices<'_>, shape: CutShape) -> Result<Vec<Split>, PartitionError> {
    let (components, layers) = (prices.speeds.len(), program.owned_layers().count());
    if components == 0 || components > layers {
        return Err(PartitionError::ComponentCount { wanted: components, layers });
    }
    let search = Search::new(program, prices);
    // A ring around nothing, or one layer each, is a contiguous cut.
    let ring = shape == CutShape::Nested && components > 1 && components < layers;
    let starts = if ring { 1..layers - components + 1 } else { 0..1 };
    let mut limit = f64::INFINITY;
    for start in starts.clone() {
        limit = search.best(start, limit, Aim::Period).map_or(limit, |found| found.value.min(limit));
    }
    let mut found: Vec<Split> = Vec::new();
    let mean = search.before[layers] / prices.speeds.iter().sum::<f64>();
    let first = (limit * SLACKS[0]).min(limit.max(mean * IMBALANCE_MAX));
    for within in std::iter::once(first).chain(SLACKS[1..].iter().map(|slack| limit * slack)) {
        // The limit is a sum of floats that may come out differently in another order.
        let within = within * (1.0 + 1e-9);
        let fewest = starts.clone().filter_map(|start| search.best(start, within, Aim::Bytes));
        let Some(fewest) = fewest.min_by(|one, other| one.value.total_cmp(&other.value)) else { continue };
        let (owners, period_seconds) = (search.owners(&fewest.bounds), search.period(&fewest.bounds));
        let partition = Partition::from_owners(program, components, &owners)?;
        if found.iter().all(|split| split.partition != partition) {
            let shape = if fewest.bounds[0] == 0 { CutShape::Contiguous } else { CutShape::Nested };
            found.push(Split { partition, shape, period_seconds });
        }
    }
    Ok(found)
}

/// What a pass of the search minimises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// The bytes that are sent, among splits whose period is within the limit.
    Bytes,
    /// The period.
    Period,
}

/// The best split with a given start: boundaries from `start` to `end`, and what was minimised.
struct Found {
    bounds: Vec<usize>,
    value: f64,
}

/// Layers are counted among the owned ones here.
struct Search<'a> {
    prices: &'a Prices<'a>,
    layers: usize,
    /// Seconds of the layers before each.
    before: Vec<f64>,
    /// By first layer and end: bytes that a run of layers reads from before it.
    received: Table,
    /// By first layer and end: bytes that a run of layers sends to readers behind it.
    sent: Table,
    /// By start and end: bytes that the layers from `end` on read from those before `start`.
    kept: Table,
}

/// A number for each run of layers, by its first layer and its end.
struct Table {
    width: usize,
    values: Vec<f64>,
}

impl Table {
    fn new(layers: usize) -> Self {
        Self { width: layers + 1, values: vec![0.0; (layers + 1) * (layers + 1)] }
    }

    fn at(&self, first: usize, end: usize) -> f64 {
        self.values[first * self.width + end]
    }

    fn set(&mut self, first: usize, end: usize, value: f64) {
        self.values[first * self.width + end] = value;
    }
}

impl<'a> Search<'a> {
    fn new(program: &Program, prices: &'a Prices<'a>) -> Self {
        let owned: Vec<(LayerId, &Layer)> = program.owned_layers().collect();
        let layers = owned.len();
        let mut place = vec![usize::MAX; program.layers.len()];
        for (index, (layer, _)) in owned.iter().enumerate() {
            place[layer.index()] = index;
        }
        let reads = |layer: LayerId| -> Vec<usize> {
            let values = program.resolved_reads(layer).into_iter().filter_map(|operand| match operand {
                Operand::Value(value) => Some(place[value.layer().index()]),
                Operand::Input(_) => None,
            });
            values.collect()
        };
        let reads: Vec<Vec<usize>> = owned.iter().map(|&(layer, _)| reads(layer)).collect();
        let bytes: Vec<f64> =
            owned.iter().map(|(_, layer)| layer.writes.row_bytes() as f64 * f64::from(prices.rows)).collect();
        let seconds = owned.iter().map(|(layer, _)| prices.layer_seconds[layer.index()]).scan(0.0, |sum, seconds| {
            *sum += seconds;
            Some(*sum)
        });
        let before = std::iter::once(0.0).chain(seconds).collect();
        let last_readers = last_readers(&reads);
        let (received, sent) = (received(&reads, &bytes), sent(&last_readers, &bytes));
        Self { prices, layers, before, received, sent, kept: kept(&last_readers, &bytes) }
    }

    /// Dynamic programming: `best[component][end]` for the components before the last, whose layers begin at `start`. `None` if no split is within
    /// the limit of a period.
    fn best(&self, start: usize, limit: f64, aim: Aim) -> Option<Found> {
        let (inner, width) = (self.prices.speeds.len() - 1, self.layers + 1);
        // The last component has the layers before `start` in any case. With many components this leaves few starts.
        if self.before[start] / self.prices.speeds[inner] > limit {
            return None;
        }
        let mut best = vec![f64::INFINITY; (inner + 1) * width];
        let mut cut = vec![0usize; (inner + 1) * width];
        best[start] = 0.0;
        for component in 0..inner {
            for end in start + component + 1..self.layers {
                for first in (start + component..end).rev() {
                    if (self.before[end] - self.before[first]) / self.prices.speeds[component] > limit {
                        break;
                    }
                    let value = self.joined(best[component * width + first], component, (first, end), limit, aim);
                    if value < best[(component + 1) * width + end] {
                        best[(component + 1) * width + end] = value;
                        cut[(component + 1) * width + end] = first;
                    }
                }
            }
        }
        let ends = if inner == 0 { 0..1 } else { start + inner..self.layers };
        let closed = ends.map(|end| (self.closed(best[inner * width + end], (start, end), limit, aim), end));
        let (value, end) = closed.min_by(|one, other| one.0.total_cmp(&other.0))?;
        let mut bounds = vec![end];
        for component in (0..inner).rev() {
            bounds.push(cut[(component + 1) * width + bounds[bounds.len() - 1]]);
        }
        bounds.reverse();
        value.is_finite().then_some(Found { bounds, value })
    }

    /// The value of a split's beginning with one more component; infinite if it is over the limit.
    fn joined(&self, before: f64, component: usize, (first, end): (usize, usize), limit: f64, aim: Aim) -> f64 {
        let (received, sent) = (self.received.at(first, end), self.sent.at(first, end));
        let seconds = self.before[end] - self.before[first];
        let period = self.period_of(component, seconds, received, sent);
        combined(before, period, sent, limit, aim)
    }

    /// The value of a whole split, whose last component owns what lies before `start` and from `end` on.
    fn closed(&self, before: f64, (start, end): (usize, usize), limit: f64, aim: Aim) -> f64 {
        let (period, sent) = self.outer(start, end);
        combined(before, period, sent, limit, aim)
    }

    /// The last component's period, and what it sends.
    fn outer(&self, start: usize, end: usize) -> (f64, f64) {
        let seconds = self.before[start] + self.before[self.layers] - self.before[end];
        let received = self.received.at(end, self.layers) - self.kept.at(start, end);
        // What the layers in between read from before them comes from the run at the start.
        let sent = self.received.at(start, end);
        (self.period_of(self.prices.speeds.len() - 1, seconds, received, sent), sent)
    }

    fn period_of(&self, component: usize, seconds: f64, received: f64, sent: f64) -> f64 {
        let link = &self.prices.links[component];
        let busy = seconds / self.prices.speeds[component] + (received + sent) * link.busy_seconds_per_byte;
        busy.max(received.max(sent) / link.bytes_per_second)
    }

    fn period(&self, bounds: &[usize]) -> f64 {
        let inner = bounds.windows(2).enumerate().map(|(component, pair)| {
            let (first, end) = (pair[0], pair[1]);
            let seconds = self.before[end] - self.before[first];
            self.period_of(component, seconds, self.received.at(first, end), self.sent.at(first, end))
        });
        inner.fold(self.outer(bounds[0], bounds[bounds.len() - 1]).0, f64::max)
    }

    fn owners(&self, bounds: &[usize]) -> Vec<ComponentId> {
        let mut owners = vec![ComponentId(self.prices.speeds.len() as u16 - 1); self.layers];
        for (component, pair) in bounds.windows(2).enumerate() {
            owners[pair[0]..pair[1]].fill(ComponentId(component as u16));
        }
        owners
    }
}

fn combined(before: f64, period: f64, sent: f64, limit: f64, aim: Aim) -> f64 {
    match aim {
        _ if period > limit => f64::INFINITY,
        Aim::Bytes => before + sent,
        Aim::Period => before.max(period),
    }
}

/// - `reads`: by layer: the layers whose values it reads
/// - `bytes`: of each layer's value
fn received(reads: &[Vec<usize>], bytes: &[f64]) -> Table {
    let mut table = Table::new(bytes.len());
    let mut counted_for = vec![usize::MAX; bytes.len()];
    for first in 0..bytes.len() {
        let mut sum = 0.0;
        for end in first + 1..=bytes.len() {
            for &value in reads[end - 1].iter().filter(|&&value| value < first) {
                if std::mem::replace(&mut counted_for[value], first) != first {
                    sum += bytes[value];
                }
            }
            table.set(first, end, sum);
        }
    }
    table
}

fn last_readers(reads: &[Vec<usize>]) -> Vec<usize> {
    let mut last = vec![0; reads.len()];
    for (layer, reads) in reads.iter().enumerate() {
        for &value in reads {
            last[value] = layer;
        }
    }
    last
}

/// A value with several readers behind the run counts once: they mostly are of one component.
fn sent(last_readers: &[usize], bytes: &[f64]) -> Table {
    let mut table = Table::new(bytes.len());
    for end in 1..=bytes.len() {
        let mut sum = 0.0;
        for first in (0..end).rev() {
            if last_readers[first] >= end {
                sum += bytes[first];
            }
            table.set(first, end, sum);
        }
    }
    table
}

fn kept(last_readers: &[usize], bytes: &[f64]) -> Table {
    let mut table = Table::new(bytes.len());
    for end in 1..=bytes.len() {
        let mut sum = 0.0;
        for start in 1..=end {
            if last_readers[start - 1] >= end {
                sum += bytes[start - 1];
            }
            table.set(start, end, sum);
        }
    }
    table
}
