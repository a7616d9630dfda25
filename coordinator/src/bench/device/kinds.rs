//! Times of nodes, summed up by kind.

use std::collections::BTreeMap;

use asyncdiff_model::kernels::Peak;
use serde::Serialize;

/// One node of a graph in one run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NodeTime {
    /// The kind of layer that it is part of, in a denoiser.
    pub(super) layer: Option<&'static str>,
    /// The operation and the kernel that computes it.
    pub(super) operation: String,
    pub(super) seconds: f64,
    pub(super) flops: f64,
    /// Of activations, each read or written once.
    pub(super) bytes: f64,
}

/// All nodes of a kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindTime {
    /// The kind.
    pub kind: String,
    /// How many nodes.
    pub nodes: usize,
    /// What they take.
    pub milliseconds: f64,
    /// By the definition of the operations; 0 for those whose operations are not counted.
    pub gflops_per_s: f64,
    /// Of activations read and written.
    pub gb_per_s: f64,
    /// Of the measured f32 peak.
    pub share_of_peak: f64,
    /// Of all nodes' time.
    pub share_of_step: f64,
}

/// Sums up by what `kind` says, longest first. Nodes without a kind are left out.
pub(super) fn by_kind<'a>(
    nodes: &'a [NodeTime],
    peak: &Peak,
    kind: impl Fn(&'a NodeTime) -> Option<&'a str>,
) -> Vec<KindTime> {
    let all: f64 = nodes.iter().map(|node| node.seconds).sum();
    let mut sums: BTreeMap<&str, (usize, [f64; 3])> = BTreeMap::new();
    for node in nodes {
        let Some(kind) = kind(node) else { continue };
        let (count, [seconds, flops, bytes]) = sums.entry(kind).or_default();
        *count += 1;
        *seconds += node.seconds;
        *flops += node.flops;
        *bytes += node.bytes;
    }
    let row = |(kind, (nodes, [seconds, flops, bytes])): (&str, (usize, [f64; 3]))| KindTime {
        kind: kind.to_owned(),
        nodes,
        milliseconds: seconds * 1e3,
        gflops_per_s: flops / seconds / 1e9,
        gb_per_s: bytes / seconds / 1e9,
        share_of_peak: flops / seconds / peak.flops_per_second,
        share_of_step: seconds / all,
    };
    let mut rows: Vec<KindTime> = sums.into_iter().map(row).collect();
    rows.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(layer: Option<&'static str>, operation: &str, seconds: f64) -> NodeTime {
        NodeTime { layer, operation: operation.to_owned(), seconds, flops: 2e9, bytes: 1e9 }
    }

    #[test]
    fn kinds_are_summed_and_the_longest_comes_first() {
        let nodes = [node(Some("a"), "x", 1.0), node(Some("b"), "y", 1.0), node(Some("a"), "y", 2.0)];
        let peak = Peak { flops_per_second: 4e9, bytes_per_second: 1e9 };
        let rows = by_kind(&nodes, &peak, |node| Some(&node.operation));
        assert_eq!(rows.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>(), ["y", "x"]);
        let longest = &rows[0];
        assert_eq!((longest.nodes, longest.milliseconds, longest.share_of_step), (2, 3000.0, 0.75));
        assert!((longest.gflops_per_s - 4.0 / 3.0).abs() < 1e-12 && (longest.share_of_peak - 1.0 / 3.0).abs() < 1e-12);
        let layers = by_kind(&nodes, &peak, |node| node.layer);
        assert_eq!(layers.iter().map(|row| row.milliseconds).collect::<Vec<_>>(), [3000.0, 1000.0]);
    }

    #[test]
    fn what_has_no_kind_is_in_no_row() {
        let peak = Peak { flops_per_second: 1.0, bytes_per_second: 1.0 };
        assert!(by_kind(&[node(None, "x", 1.0)], &peak, |node| node.layer).is_empty());
    }
}
