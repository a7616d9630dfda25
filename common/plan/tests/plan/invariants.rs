//! The invariants of plans, engine and inbox, over random programs, partitions, settings, placements and orders of events.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;

use crate::support::{Case, schedule, u_program};
use asyncdiff_plan::{
    ComponentId, Guidance, Partition, PlacedPlan, Plan, Rank, RoundStart, Schedule, StepIndex, TimeShift, WarmUpBatch,
};
use proptest::prelude::*;

prop_compose! {
    pub(crate) fn any_case()(
        depth in 1usize..4,
        components in 1usize..5,
        owners in prop::collection::vec(0u16..5, 12),
        steps in 1u32..10,
        stride in 1u32..5,
        warm_up in 1u32..6,
        shift in any::<bool>(),
        guidance in prop::sample::select(vec![Guidance::Batched, Guidance::Off, Guidance::Split]),
        halves in any::<bool>(),
        odd in any::<bool>(),
    ) -> Case {
        let program = u_program(depth);
        let layers = program.owned_layers().count();
        let components = components.min(layers);
        // Any assignment in which every component owns something and the last one the output.
        let mut owned: Vec<ComponentId> =
            (0..layers).map(|layer| ComponentId(owners[layer % owners.len()] % components as u16)).collect();
        for component in 0..components {
            owned[layers - components + component] = ComponentId(component as u16);
        }
        let partition = Partition::from_owners(&program, components, &owned).unwrap();
        let schedule = Schedule {
            time_shift: if shift { TimeShift::On } else { TimeShift::Off },
            guidance,
            warm_up_batch: if halves { WarmUpBatch::Halves } else { WarmUpBatch::Whole },
            round_start: if odd && stride <= 2 { RoundStart::OddSteps } else { RoundStart::AfterWarmUp },
            ..schedule(steps, stride, warm_up)
        };
        Case { program, partition, schedule }
    }
}

pub(crate) fn place(case: &Case, ranks: &[u16]) -> PlacedPlan {
    let plan = Plan::new(&case.program, &case.partition, case.schedule).unwrap();
    let slots = plan.slots.len();
    PlacedPlan::new(plan, (0..slots).map(|slot| Rank(ranks[slot % ranks.len()])).collect()).unwrap()
}

/// A small generator, so that a case's order of events is printed with it.
pub(crate) fn chooser(mut state: u64) -> impl FnMut(usize) -> usize {
    move |count| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % count
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_order_of_events_gives_what_the_rules_say(
        case in any_case(),
        ranks in prop::collection::vec(0u16..5, 1..8),
        order in any::<u64>(),
    ) {
        let placed = place(&case, &ranks);
        let outcome = case.cluster(&placed, chooser(order));
        prop_assert_eq!(&outcome.latents, &case.oracle());
        let steps: Vec<StepIndex> = (0..case.schedule.steps.get()).map(StepIndex).collect();
        prop_assert_eq!(outcome.steps, steps);
        prop_assert_eq!(outcome.transfers, placed.transfers.len());
    }

    #[test]
    fn what_a_rank_holds_does_not_grow_with_the_number_of_steps(case in any_case(), order in any::<u64>()) {
        let most = |steps: u32| {
            let schedule = Schedule { steps: NonZeroU32::new(steps).unwrap(), ..case.schedule };
            let case = Case { schedule, ..case.clone() };
            case.cluster(&place(&case, &[0, 1, 2]), chooser(order)).most_held
        };
        let values = case.program.layers.len() * 2 * (case.partition.components() + 2);
        prop_assert!(most(40) <= values);
    }

    #[test]
    fn staleness_is_one_round_after_the_warm_up_and_none_in_it(case in any_case()) {
        let plan = Plan::new(&case.program, &case.partition, case.schedule).unwrap();
        let warm_up = case.schedule.warm_up_steps();
        for run in &plan.runs {
            let first = plan.latents_step(run.id.step);
            for instance in run.reads.iter().flat_map(|read| &read.from) {
                let expected = if run.id.step.0 < warm_up {
                    run.id.step
                } else if case.schedule.repeats_a_prediction() && first.0 == warm_up + 1 {
                    StepIndex(warm_up - 1)
                } else {
                    StepIndex(first.0 - 1)
                };
                prop_assert_eq!(instance.step, expected);
            }
        }
    }

    #[test]
    fn every_transfer_has_one_sender_and_one_receiver(
        case in any_case(),
        ranks in prop::collection::vec(0u16..5, 1..8),
    ) {
        let placed = place(&case, &ranks);
        let mut sent = HashMap::new();
        let mut received = BTreeSet::new();
        for rank in placed.ranks() {
            let part = placed.part(rank);
            for transfer in part.sends {
                prop_assert_eq!(transfer.from, rank);
                prop_assert_ne!(transfer.to, rank);
                prop_assert!(sent.insert((transfer.instance, transfer.to), rank).is_none());
            }
            received.extend(part.receives.into_iter().map(|transfer| (transfer.instance, transfer.to)));
        }
        prop_assert_eq!(sent.keys().copied().collect::<BTreeSet<_>>(), received);
    }

    #[test]
    fn warm_up_over_all_steps_is_sequential_denoising(case in any_case(), order in any::<u64>()) {
        let schedule = Schedule { warm_up: case.schedule.steps.get(), ..case.schedule };
        let all_warm = Case { schedule, ..case.clone() };
        let alone = Case {
            partition: Partition::whole(&case.program),
            schedule: Schedule {
                guidance: case.schedule.guidance,
                ..Schedule::sequential(case.schedule.steps)
            },
            ..case
        };
        let outcome = all_warm.cluster(&place(&all_warm, &[0, 1, 2]), chooser(order));
        prop_assert_eq!(outcome.latents, alone.cluster(&place(&alone, &[0]), chooser(order)).latents);
    }
}
