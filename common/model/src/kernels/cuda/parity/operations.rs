//! Every other operation at the sizes where its kernel takes another way.

use super::{check, check_inputs};
use crate::formula;
use crate::graph::{Activation, AttentionHeads, AttentionMask, Extent, Graph, GraphBuilder, SinusoidsOp, Slot};

/// A graph of one operation on these operands.
fn graph_of(inputs: &[Extent], operation: impl FnOnce(&mut GraphBuilder, &[Slot]) -> Slot) -> Graph {
    let mut graph = GraphBuilder::new(inputs);
    let slots: Vec<Slot> = (0..inputs.len()).map(|input| graph.input(input)).collect();
    let output = operation(&mut graph, &slots);
    graph.finish(&[output])
}

/// Queries, keys and values behind `before` channels of their operands.
fn attention([queries, keys]: [usize; 2], heads: [usize; 2], before: usize, mask: AttentionMask) -> Graph {
    let heads = AttentionHeads { count: heads[0], width: heads[1] };
    let channels = before + heads.channels();
    let inputs =
        [Extent::tokens(queries, channels), Extent::tokens(keys, channels + 3), Extent::tokens(keys, channels)];
    graph_of(&inputs, |graph, slots| {
        graph.attention("attention", [(slots[0], before), (slots[1], before), (slots[2], before)], heads, mask)
    })
}

#[test]
fn attention_takes_heads_of_any_width() {
    for (tokens, heads) in [
        ([1, 1], [1, 1]),
        ([16, 32], [2, 40]),
        ([17, 33], [3, 64]),
        ([5, 77], [2, 65]),
        ([33, 20], [2, 160]),
        ([9, 64], [1, 257]),
        ([18, 40], [1, 512]),
    ] {
        for before in [0, 5] {
            check(&format!("{tokens:?} {heads:?}"), &attention(tokens, heads, before, AttentionMask::None), &[2; 3]);
        }
    }
}

#[test]
fn causal_attention_sees_nothing_behind_the_query() {
    for tokens in [1, 16, 31, 77] {
        check("causal", &attention([tokens; 2], [2, 24], 0, AttentionMask::Causal), &[2; 3]);
    }
}

/// Where everything begins at a whole vector, tiles are multiplied: several of them, the last one in part, and channels in part.
#[test]
fn attention_by_tiles_takes_any_number_of_tokens() {
    for (tokens, heads, mask) in [
        ([1, 1], [1, 8], AttentionMask::None),
        ([64, 64], [2, 64], AttentionMask::None),
        ([65, 77], [2, 64], AttentionMask::None),
        ([17, 200], [1, 40], AttentionMask::None),
        ([30, 70], [2, 80], AttentionMask::None),
        ([16, 33], [1, 128], AttentionMask::None),
        ([5, 65], [2, 160], AttentionMask::None),
        ([9, 12], [1, 168], AttentionMask::None),
        ([140, 140], [2, 16], AttentionMask::Causal),
        ([70, 70], [1, 96], AttentionMask::Causal),
    ] {
        let heads = AttentionHeads { count: heads[0], width: heads[1] };
        let channels = heads.channels();
        // Queries, keys and values side by side in one operand, and of their own behind others.
        let own = graph_of(&[Extent::tokens(tokens[0], 3 * channels)], |graph, slots| {
            graph.attention("own", [0, 1, 2].map(|index| (slots[0], index * channels)), heads, mask)
        });
        check(&format!("{tokens:?} {heads:?}"), &own, &[2]);
        let inputs = tokens.map(|tokens| Extent::tokens(tokens, 8 + 2 * channels));
        let others = graph_of(&inputs, |graph, slots| {
            graph.attention("others", [(slots[0], 8), (slots[1], 8), (slots[1], 8 + channels)], heads, mask)
        });
        for rows in [[2, 2], [2, 1]] {
            check(&format!("{tokens:?} {heads:?} {rows:?}"), &others, &rows);
        }
    }
}

#[test]
fn one_row_of_any_operand_counts_for_all() {
    let attention = attention([9, 12], [2, 8], 0, AttentionMask::None);
    for rows in [[2, 1, 1], [1, 2, 2], [2, 2, 1]] {
        check("attention", &attention, &rows);
    }
    let map = Extent { height: 3, width: 5, channels: 8 };
    let add = graph_of(&[map; 2], |graph, slots| graph.add("add", [slots[0], slots[1]]));
    let concatenate = graph_of(&[map; 2], |graph, slots| graph.concatenate("concatenate", slots));
    let norm = graph_of(&[map; 2], |graph, slots| graph.group_norm("norm", slots, (4, 1e-5), Activation::None));
    for rows in [[1, 3], [3, 1], [3, 3]] {
        for graph in [&add, &concatenate, &norm] {
            check(graph.nodes()[0].name.as_str(), graph, &rows);
        }
    }
}

#[test]
fn group_norms_reach_over_several_operands_and_chunks() {
    let map = |height, width, channels| Extent { height, width, channels };
    for (sources, groups, activation) in [
        (vec![map(1, 1, 4)], 2, Activation::None),
        (vec![map(3, 7, 33)], 3, Activation::Silu),
        (vec![map(13, 15, 24), map(13, 15, 8)], 4, Activation::Gelu),
        (vec![map(9, 30, 3), map(9, 30, 1), map(9, 30, 7), map(9, 30, 5)], 2, Activation::QuickGelu),
        (vec![map(8, 9, 640)], 32, Activation::Silu),
    ] {
        let graph = graph_of(&sources, |graph, slots| graph.group_norm("norm", slots, (groups, 1e-5), activation));
        check(&format!("{sources:?}"), &graph, &vec![2; sources.len()]);
    }
}

#[test]
fn layer_norms_take_any_width() {
    for channels in [1, 31, 32, 33, 320, 1280] {
        let graph = graph_of(&[Extent::tokens(11, channels)], |graph, slots| graph.layer_norm("norm", slots[0], 1e-5));
        check(&format!("{channels} channels"), &graph, &[2]);
    }
}

#[test]
fn norms_do_not_cancel_where_the_mean_is_large() {
    let extent = Extent { height: 10, width: 20, channels: 32 };
    let shape = vec![1, 32, 10, 20];
    // In steps that bf16 has, too.
    let elements: Vec<f32> =
        formula::noise("large", &shape, 1).iter().map(|value| 1024.0 + 8.0 * (8.0 * value).round()).collect();
    let group = graph_of(&[extent], |graph, slots| graph.group_norm("norm", slots, (4, 1e-5), Activation::None));
    let layer = graph_of(&[extent], |graph, slots| graph.layer_norm("norm", slots[0], 1e-5));
    for graph in [group, layer] {
        check_inputs("a large mean", &graph, &[(shape.clone(), elements.clone())]);
    }
}

#[test]
fn activations_and_concatenations_take_any_channels() {
    for channels in [1, 7, 8, 64, 1000] {
        let extent = Extent { height: 2, width: 3, channels };
        for activation in [Activation::Gelu, Activation::None, Activation::QuickGelu, Activation::Silu] {
            let graph = graph_of(&[extent], |graph, slots| graph.activate("activate", slots[0], activation));
            check(&format!("{activation:?} of {channels}"), &graph, &[2]);
        }
        let more = Extent { channels: 8, ..extent };
        let inputs = [extent, more, more, extent, more];
        let graph = graph_of(&inputs, |graph, slots| graph.concatenate("concatenate", slots));
        check(&format!("{channels} channels beside others"), &graph, &[2; 5]);
    }
}

/// bf16 would make 980 of 981, and of the slowest sinusoids the same.
#[test]
fn sinusoids_are_those_of_the_timestep_in_every_format() {
    let frequencies: Vec<f32> = (0..160).map(|index| (-9.21 * index as f32 / 160.0).exp()).collect();
    for flip_sin_to_cos in [false, true] {
        let op = SinusoidsOp { frequencies: frequencies.clone(), flip_sin_to_cos };
        let graph = graph_of(&[Extent::vector(2)], |graph, slots| graph.sinusoids("time", slots[0], op));
        check_inputs("sinusoids", &graph, &[(vec![2, 2], vec![981.0, 1.0, 0.0, 999.0])]);
    }
}
