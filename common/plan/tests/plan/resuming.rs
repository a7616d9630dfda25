//! Plans from a step on: a job that was interrupted there, with other components, ranks and settings than before.

use std::collections::BTreeSet;

use crate::invariants::{any_case, chooser, place};
use crate::support::{Case, Rows};
use asyncdiff_plan::{Encoding, Partition, Plan, Schedule, StepIndex};
use proptest::prelude::*;

/// The latents that each step of sequential denoising starts from, and the final ones.
fn sequential(case: &Case) -> Vec<Rows> {
    let schedule = Schedule { guidance: case.schedule.guidance, ..Schedule::sequential(case.schedule.steps) };
    let alone = Case { program: case.program.clone(), partition: Partition::whole(&case.program), schedule };
    let outcome = alone.cluster(&place(&alone, &[0]), chooser(0));
    outcome.history.into_iter().chain([outcome.latents]).collect()
}

/// `case` from a step on. A job may have been another case before: only the number of its steps is the same.
fn from_step(case: &Case, first: u32) -> Case {
    let first = StepIndex(first % (case.schedule.steps.get() + 1));
    Case { schedule: case.schedule.from_step(first), ..case.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn going_on_from_any_step_exactly_gives_the_bits_of_sequential_denoising(
        case in any_case(),
        first in any::<u32>(),
        ranks in prop::collection::vec(0u16..5, 1..8),
        order in any::<u64>(),
    ) {
        let latents = sequential(&case);
        let exact = Schedule { warm_up: case.schedule.steps.get(), ..case.schedule };
        let rest = from_step(&Case { schedule: exact, ..case.clone() }, first);
        let start = latents[rest.schedule.first.index()].clone();
        let outcome = rest.cluster_from(&place(&rest, &ranks), start, chooser(order));
        prop_assert_eq!(Some(&outcome.latents), latents.last());
        let steps: Vec<StepIndex> = (rest.schedule.first.0..case.schedule.steps.get()).map(StepIndex).collect();
        prop_assert_eq!(outcome.steps, steps);
    }

    #[test]
    fn going_on_from_any_step_follows_the_rules_after_one_exact_step(
        case in any_case(),
        first in any::<u32>(),
        ranks in prop::collection::vec(0u16..5, 1..8),
        order in any::<u64>(),
    ) {
        let rest = from_step(&case, first);
        let start = case.noise();
        let outcome = rest.cluster_from(&place(&rest, &ranks), start.clone(), chooser(order));
        prop_assert_eq!(outcome.latents, rest.oracle_from(start));
    }

    #[test]
    fn a_placement_keeps_its_ranks_and_encodings_from_any_step_on(
        case in any_case(),
        first in any::<u32>(),
        ranks in prop::collection::vec(0u16..5, 1..8),
        encoding in prop::sample::select(Encoding::ALL.to_vec()),
    ) {
        let placed = place(&case, &ranks).encoded(|_, _| encoding);
        let rest = from_step(&case, first);
        let moved = placed.from_step(&case.program, rest.schedule.first).unwrap();
        prop_assert_eq!(&moved.plan, &Plan::new(&case.program, &case.partition, rest.schedule).unwrap());
        prop_assert_eq!(&moved.ranks[..], &placed.ranks[..moved.ranks.len()]);
        prop_assert!(moved.encodings.values().all(|found| *found == encoding));
        prop_assert!(moved.transfers.iter().all(|transfer| transfer.is_sound()));
    }

    #[test]
    fn nothing_that_was_made_before_the_first_step_is_read(case in any_case(), first in any::<u32>()) {
        let rest = from_step(&case, first);
        let plan = Plan::new(&rest.program, &rest.partition, rest.schedule).unwrap();
        let first = rest.schedule.first;
        let read: BTreeSet<StepIndex> =
            plan.runs.iter().flat_map(|run| run.reads.iter().flat_map(|read| &read.from)).map(|read| read.step).collect();
        prop_assert!(read.first().is_none_or(|step| *step >= first));
        prop_assert!(plan.runs.iter().all(|run| run.id.step >= first && run.latents.is_none_or(|step| step >= first)));
        let refreshed = plan.runs.iter().filter(|run| run.id.step == first && first.0 > 0);
        for run in refreshed {
            prop_assert!(run.timestep == first && run.reads.iter().flat_map(|read| &read.from).all(|read| read.step == first));
        }
    }
}
