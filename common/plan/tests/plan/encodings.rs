//! Encodings of edges: what each difference is based on, which order both ends see, and what the policy chooses.

use std::collections::HashMap;
use std::num::NonZeroU32;

use crate::invariants::{any_case, chooser, place};
use crate::support::{origin, u_program};
use asyncdiff_plan::{
    Chain, Choice, Device, Encoding, Instance, Lane, LayerMemory, LayerSeconds, LinkCost, Links, Prefer, Rank,
    Situation, StepIndex, Transfer, ValueId, Wishes, choose,
};
use proptest::prelude::*;

fn any_encoding() -> impl Strategy<Value = Encoding> {
    prop::sample::select(Encoding::ALL.to_vec())
}

/// The rows of a batch of two that an instance has.
fn rows(instance: Instance) -> Vec<usize> {
    instance.lane.rows(2).collect()
}

proptest! {
    #[test]
    fn every_difference_is_from_the_version_that_its_rows_had_before_on_the_edge(
        case in any_case(),
        ranks in prop::collection::vec(0u16..5, 1..8),
        encoding in any_encoding(),
    ) {
        let placed = place(&case, &ranks).encoded(|_, _| encoding);
        let warm_up = case.schedule.warm_up_steps();
        let mut transfers: Vec<&Transfer> = placed.transfers.iter().collect();
        transfers.sort_by_key(|transfer| transfer.instance.step);
        let mut newest: HashMap<(Rank, Rank, ValueId, usize), StepIndex> = HashMap::new();
        for transfer in transfers {
            prop_assert!(transfer.is_sound());
            let key = |row| (transfer.from, transfer.to, transfer.instance.value, row);
            let in_warm_up = transfer.instance.step.0 < warm_up;
            for row in rows(transfer.instance) {
                let before = newest.insert(key(row), transfer.instance.step);
                match (encoding.delta_bits(), in_warm_up) {
                    (Some(_), _) => prop_assert_eq!(transfer.base, before),
                    (None, _) => prop_assert_eq!(transfer.base, None),
                }
                let first = encoding.delta_bits().is_some() && before.is_none();
                let expected = if in_warm_up || first { Encoding::Full } else { encoding };
                prop_assert_eq!(transfer.encoding, expected);
            }
        }
    }

    #[test]
    fn chains_hand_out_everything_in_the_order_of_bases_whatever_the_order_of_arrival(
        case in any_case(),
        ranks in prop::collection::vec(0u16..5, 1..8),
        order in any::<u64>(),
    ) {
        let placed = place(&case, &ranks).encoded(|_, _| Encoding::Delta8);
        let mut choose = chooser(order);
        let mut edges: HashMap<(Rank, Rank, ValueId), Vec<Transfer>> = HashMap::new();
        for transfer in &placed.transfers {
            edges.entry((transfer.from, transfer.to, transfer.instance.value)).or_default().push(*transfer);
        }
        for (_, mut transfers) in edges {
            // Any order at all, so the bound is the number of steps.
            let mut chain = Chain::new(case.schedule.steps.get());
            let (count, mut handed_out) = (transfers.len(), 0);
            let mut newest: [Option<StepIndex>; 2] = [None; 2];
            while !transfers.is_empty() {
                let next = transfers.swap_remove(choose(transfers.len()));
                chain.insert(next, ()).unwrap();
                while let Some((transfer, ())) = chain.poll_next() {
                    for row in rows(transfer.instance) {
                        prop_assert_eq!(newest[row], transfer.base);
                        newest[row] = Some(transfer.instance.step);
                    }
                    handed_out += 1;
                }
            }
            prop_assert_eq!(handed_out, count);
        }
    }
}

#[test]
fn the_lanes_of_a_micro_batched_warm_up_are_joined_by_the_first_difference() {
    let wishes = Wishes { components: Some(2), encoding: Some(Encoding::Delta8), ..Wishes::default() };
    let transfers = choice(&wishes, 1e9).placed.transfers;
    let of_step = |step| transfers.iter().filter(move |transfer| transfer.instance.step == StepIndex(step));
    assert!(of_step(0).count() > 0 && of_step(0).all(|transfer| transfer.instance.lane != Lane::Whole));
    let joined = |transfer: &Transfer| transfer.instance.lane == Lane::Whole && transfer.base == Some(StepIndex(0));
    assert!(of_step(1).count() > 0 && of_step(1).all(joined));
}

/// The policy's choice for two workers whose layers take 10 ms, and links of that many bytes per second.
fn choice(wishes: &Wishes, bytes_per_second: f64) -> Choice {
    let program = u_program(3);
    let layer_seconds = vec![0.01; program.layers.len()];
    let situation = Situation {
        program: &program,
        steps: NonZeroU32::new(50).unwrap(),
        first: StepIndex(0),
        guidance_on: true,
        rows: 2,
        layer_seconds: LayerSeconds { whole: &layer_seconds, half: &layer_seconds },
        layer_memory: &vec![LayerMemory::default(); layer_seconds.len()],
        devices: &[Device { speed: 1.0, memory_bytes: u64::MAX }; 2],
        links: &Links::uniform(LinkCost { latency_seconds: 1e-4, bytes_per_second, ..LinkCost::FREE }),
        turnaround_seconds: 1e-4,
        now: origin(),
    };
    choose(wishes, &situation).unwrap()
}

fn encodings(choice: &Choice) -> Vec<Encoding> {
    choice.placed.encodings.values().copied().collect()
}

#[test]
fn nothing_is_lost_where_links_are_fast_enough() {
    let choice = choice(&Wishes::default(), 1e9);
    assert!(encodings(&choice).iter().all(|encoding| *encoding == Encoding::Full));
    assert!(choice.placed.transfers.iter().all(|transfer| transfer.base.is_none()));
}

#[test]
fn slow_links_carry_fewer_bytes_unless_exactness_was_asked_for() {
    let slow = 2e3;
    let (full, auto) = (Some(Encoding::Full), None);
    let seconds = |encoding| choice(&Wishes { encoding, ..Wishes::default() }, slow).prediction.seconds;
    assert!(seconds(auto) < 0.9 * seconds(full), "{} against {}", seconds(auto), seconds(full));
    let exact =
        Wishes { prefer: Prefer::Exact, components: Some(2), encoding: Some(Encoding::Delta4), ..Wishes::default() };
    let exact = choice(&exact, slow);
    assert!(encodings(&exact).iter().all(|encoding| *encoding == Encoding::Full));
    assert!(exact.notes.iter().any(|note| note.contains("as computed")), "{:?}", exact.notes);
}

#[test]
fn an_encoding_that_was_asked_for_is_what_edges_have_and_what_is_predicted() {
    let bytes = |encoding| {
        let choice = choice(&Wishes { encoding: Some(encoding), ..Wishes::default() }, 1e9);
        assert!(encodings(&choice).iter().all(|found| *found == encoding));
        assert!(choice.prediction.edges.iter().all(|edge| edge.encoding == encoding));
        choice.prediction.bytes_per_step
    };
    let all = Encoding::ALL.map(bytes);
    assert!(all[1] < all[0] && all[2] < all[1] && all[3] == all[1] && all[4] < all[2], "{all:?}");
}
