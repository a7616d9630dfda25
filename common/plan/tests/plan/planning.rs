//! Partitions found by search, predictions and the policy's choices.

use std::collections::BTreeSet;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use crate::support::{Case, origin, schedule, u_program};
use asyncdiff_plan::{
    Choice, ComponentId, Cut, CutShape, Device, Guidance, LayerMemory, LayerSeconds, LinkCost, Links, Partition,
    PartitionError, PolicyError, Prefer, Prices, Program, Rank, Situation, StepIndex, Wishes, choose, draw, splits,
};
use proptest::prelude::*;

/// Links of a gigabyte per second.
fn fast_links() -> Links {
    Links::uniform(LinkCost { latency_seconds: 1e-4, bytes_per_second: 1e9, ..LinkCost::FREE })
}

fn steps(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap()
}

fn plan_for(program: &Arc<Program>, wishes: &Wishes, speeds: &[f64], count: u32) -> Result<Choice, PolicyError> {
    let devices: Vec<Device> = speeds.iter().map(|&speed| Device { speed, memory_bytes: u64::MAX }).collect();
    plan_on(program, wishes, &devices, &fast_links(), count)
}

/// Every layer takes 10 ms and a byte; half of the batch takes three quarters of the time, as on devices that one half does not fill.
fn plan_on(
    program: &Arc<Program>,
    wishes: &Wishes,
    devices: &[Device],
    links: &Links,
    count: u32,
) -> Result<Choice, PolicyError> {
    let (whole, half) = (vec![0.01; program.layers.len()], vec![0.007_5; program.layers.len()]);
    let layer_memory = vec![LayerMemory { resident_bytes: 1 << 20, working_bytes: 0 }; program.layers.len()];
    let situation = Situation {
        program,
        steps: steps(count),
        first: StepIndex(0),
        guidance_on: true,
        rows: 2,
        layer_seconds: LayerSeconds { whole: &whole, half: &half },
        layer_memory: &layer_memory,
        devices,
        links,
        turnaround_seconds: 1e-4,
        now: origin(),
    };
    choose(wishes, &situation)
}

proptest! {
    #[test]
    fn no_contiguous_split_is_much_better_than_the_one_found(
        costs in prop::collection::vec(0.1f64..10.0, 12),
        speeds in prop::collection::vec(0.3f64..3.0, 1..4),
    ) {
        let program = u_program(2);
        let layers: Vec<f64> = program.owned_layers().map(|(id, _)| costs[id.index() % costs.len()]).collect();
        let by_layer: Vec<f64> = (0..program.layers.len()).map(|index| costs[index % costs.len()]).collect();
        let found = Partition::balanced(&program, &by_layer, &speeds, CutShape::Contiguous).unwrap();
        let slowest = |costs: &[f64]| costs.iter().zip(&speeds).map(|(cost, speed)| cost / speed).fold(0.0, f64::max);
        let found = slowest(&found.component_costs(&by_layer));
        for first in 1..layers.len() {
            for second in first + 1..layers.len() {
                let bounds = [0, first, second, layers.len()];
                let sums: Vec<f64> = match speeds.len() {
                    1 => vec![layers.iter().sum()],
                    2 => vec![layers[..first].iter().sum(), layers[first..].iter().sum()],
                    _ => bounds.windows(2).map(|pair| layers[pair[0]..pair[1]].iter().sum()).collect(),
                };
                prop_assert!(found <= slowest(&sums) * 1.011, "{} against {}", found, slowest(&sums));
            }
        }
    }
}

#[test]
fn any_number_of_components_from_one_to_the_number_of_layers_can_be_had() {
    let program = u_program(3);
    let costs = vec![1.0; program.layers.len()];
    let layers = program.owned_layers().count();
    for shape in [CutShape::Contiguous, CutShape::Nested] {
        for components in 1..=layers {
            let partition = Partition::balanced(&program, &costs, &vec![1.0; components], shape).unwrap();
            assert_eq!(partition.components(), components);
        }
        let refused = Partition::balanced(&program, &costs, &vec![1.0; layers + 1], shape).unwrap_err();
        assert_eq!(refused, PartitionError::ComponentCount { wanted: layers + 1, layers });
    }
}

#[test]
fn a_nested_cut_sends_fewer_bytes_than_a_contiguous_one() {
    let program = u_program(3);
    let costs = vec![1.0; program.layers.len()];
    let bytes = |shape| Partition::balanced(&program, &costs, &[1.0, 1.0], shape).unwrap().crossing_row_bytes(&program);
    assert!(bytes(CutShape::Nested) < bytes(CutShape::Contiguous));
}

#[test]
fn a_partition_file_that_forgets_repeats_or_invents_a_module_is_refused() {
    let program = u_program(1);
    let lists = |lists: &[&[&str]]| {
        let lists: Vec<Vec<String>> =
            lists.iter().map(|list| list.iter().map(|name| (*name).to_owned()).collect()).collect();
        Partition::from_modules(&program, &lists)
    };
    let whole = ["conv_in", "down_blocks", "mid_block", "up_blocks", "conv_out"];
    assert!(lists(&[&whole[..2], &whole[2..]]).is_ok());
    let unknown = lists(&[&["conv_inn"], &whole]).unwrap_err();
    assert!(matches!(unknown, PartitionError::UnknownModule { ref module, .. } if module == "conv_inn"));
    let twice = lists(&[&["conv_in"], &whole]).unwrap_err();
    assert!(matches!(twice, PartitionError::ListedTwice { ref layer, .. } if layer == "conv_in"));
    let forgotten = lists(&[&whole[..3], &whole[4..]]).unwrap_err();
    assert!(matches!(forgotten, PartitionError::Unassigned(ref layer) if layer == "up_blocks.0"));
    let not_last = lists(&[&whole[1..], &whole[..1]]).unwrap_err();
    assert!(matches!(not_last, PartitionError::OutputNotLast { owner: ComponentId(0), .. }));
}

#[test]
fn two_equal_workers_are_predicted_to_be_nearly_twice_as_fast() {
    let program = u_program(3);
    let choice = plan_for(&program, &Wishes::default(), &[1.0, 1.0], 50).unwrap();
    let speed_up = choice.prediction.speed_up();
    assert!((1.7..2.0).contains(&speed_up), "{speed_up}");
    assert!(choice.prediction.busy.iter().all(|busy| *busy > 0.8), "{:?}", choice.prediction.busy);
}

#[test]
fn no_more_workers_are_used_than_the_user_lets_it_take_and_these_are_the_fastest() {
    let program = u_program(3);
    let used = |most: u16| -> BTreeSet<Rank> {
        let wishes = Wishes { max_workers: NonZeroU16::new(most), ..Wishes::default() };
        let choice = plan_for(&program, &wishes, &[0.5, 1.0, 0.4, 1.0], 50).unwrap();
        choice.placed.ranks.into_iter().collect()
    };
    assert_eq!(used(1), BTreeSet::from([Rank(1)]));
    assert_eq!(used(2), BTreeSet::from([Rank(1), Rank(3)]));
    assert!(used(9).len() > 2);
}

#[test]
fn stride_two_serves_two_steps_with_one_round_and_balances_for_it() {
    let program = u_program(3);
    let wishes = Wishes { prefer: Prefer::Speed, ..Wishes::default() };
    let choice = plan_for(&program, &wishes, &[1.0, 1.0], 51).unwrap();
    assert!(choice.prediction.speed_up() > 2.3, "{}", choice.prediction.speed_up());
}

#[test]
fn exact_means_that_no_value_is_old_and_splits_the_guidance_halves() {
    let program = u_program(2);
    let wishes = Wishes { prefer: Prefer::Exact, ..Wishes::default() };
    let choice = plan_for(&program, &wishes, &[1.0, 1.0], 20).unwrap();
    assert_eq!(choice.placed.plan.schedule.guidance, Guidance::Split);
    assert!(choice.placed.plan.runs.iter().all(|run| run.id.step == run.timestep && run.reads.is_empty()));
    assert!(choice.prediction.speed_up() > 1.3, "{}", choice.prediction.speed_up());
    assert!(choice.prediction.bytes_per_step.is_sign_positive(), "nothing travels, which prints as 0 and not as -0");
}

#[test]
fn few_steps_fall_back_to_an_exact_plan() {
    let choice = plan_for(&u_program(2), &Wishes::default(), &[1.0, 1.0], 4).unwrap();
    assert_eq!(choice.placed.plan.schedule.warm_up_steps(), 4);
    assert!(choice.reason.contains("too few steps"), "{}", choice.reason);
}

#[test]
fn a_faster_worker_gets_more_layers() {
    let program = u_program(3);
    let choice = plan_for(&program, &Wishes::default(), &[3.0, 1.0], 50).unwrap();
    let partition = &choice.placed.plan.partition;
    let layers = |component| partition.owned_by(ComponentId(component)).len();
    assert!(layers(0) > layers(1), "{:?}", partition.module_lists(&program));
}

#[test]
fn a_run_holds_what_is_still_read_and_what_passes_to_and_from_others() {
    let program = u_program(2);
    let bytes = program.layers[0].writes.row_bytes();
    let values = |names: &[&str]| {
        let layers: Vec<_> = names.iter().map(|name| program.find(name).unwrap()).collect();
        program.held_row_bytes(&layers) / bytes
    };
    // The time embedding, three skip connections, what the layer in the middle wrote, and its concatenation with one of them.
    let whole: Vec<_> = program.owned_layers().map(|(layer, _)| layer).collect();
    assert_eq!(program.held_row_bytes(&whole) / bytes, 1 + 3 + 1 + 1);
    // All that others read leaves it only when it was sent.
    assert_eq!(values(&["conv_in", "down_blocks.0"]), 1 + 2);
    // It reads two values of others, and so does the concatenation that it computes itself.
    assert_eq!(values(&["up_blocks.0"]), 2 + 1 + 1 + 1);
    assert_eq!(values(&["conv_out"]), 1 + 1);
}

#[test]
fn extra_runs_get_workers_of_their_own_when_there_are_enough() {
    let program = u_program(2);
    let wishes = Wishes {
        components: Some(2),
        stride: Some(steps(2)),
        warm_up: Some(1),
        cut: Some(Cut::Shape(CutShape::Contiguous)),
        ..Wishes::default()
    };
    let spacious = plan_for(&program, &wishes, &[1.0; 3], 20).unwrap().placed;
    assert_eq!(spacious.ranks, [Rank(0), Rank(1), Rank(2)]);
    let tight = plan_for(&program, &wishes, &[1.0; 2], 20).unwrap().placed;
    assert_eq!(tight.world_size, 2);
    let alone = plan_for(&program, &wishes, &[1.0], 20).unwrap().placed;
    assert!(alone.transfers.is_empty());
}

#[test]
fn a_partition_and_a_component_count_that_disagree_are_refused() {
    let lists = vec![vec!["conv_in".to_owned()], vec!["down_blocks".to_owned()]];
    let wishes = Wishes { components: Some(3), cut: Some(Cut::Modules(lists)), ..Wishes::default() };
    let refused = plan_for(&u_program(1), &wishes, &[1.0], 10).unwrap_err();
    assert_eq!(refused, PolicyError::ComponentCount { components: 3, lists: 2 });
}

#[test]
fn the_drawing_has_a_line_per_rank_and_names_the_runs() {
    let wishes = Wishes { components: Some(2), ..Wishes::default() };
    let choice = plan_for(&u_program(2), &wishes, &[1.0, 1.0], 50).unwrap();
    let drawing = draw(&choice.placed, &choice.prediction);
    assert_eq!(drawing.lines().count(), 2, "{drawing}");
    assert!(drawing.contains("[c0·1") && drawing.contains("[c1·1"), "{drawing}");
}

#[test]
fn a_slow_link_delays_only_what_depends_on_it() {
    let program = u_program(3);
    let costs = vec![0.01; program.layers.len()];
    let partition = Partition::balanced(&program, &costs, &[1.0; 3], CutShape::Contiguous).unwrap();
    let case = Case { program, partition, schedule: schedule(30, 1, 1) };
    let plan = asyncdiff_plan::Plan::new(&case.program, &case.partition, case.schedule).unwrap();
    // Neither the first nor the middle component reads anything that the last one made: only latents come back from there.
    let foreign = |component| plan.runs.iter().filter(move |run| run.id.component == ComponentId(component));
    let made_by_last = |run: &asyncdiff_plan::Run| {
        run.reads.iter().any(|read| case.partition.owner(read.value.layer()) == Some(ComponentId(2)))
    };
    assert!(foreign(0).chain(foreign(1)).all(|run| !made_by_last(run)));
    assert!(foreign(1).all(|run| run.latents.is_none()), "the middle component waits for no latents");
    assert!(foreign(0).any(|run| run.id.step > StepIndex(1)));
}

fn devices(count: usize, memory_bytes: u64) -> Vec<Device> {
    vec![Device { speed: 1.0, memory_bytes }; count]
}

#[test]
fn a_device_that_half_of_the_batch_fills_computes_a_lane_exactly() {
    let program = u_program(3);
    let (whole, half) = (vec![0.01; program.layers.len()], vec![0.005; program.layers.len()]);
    let layer_memory = vec![LayerMemory::default(); program.layers.len()];
    let situation = Situation {
        program: &program,
        steps: steps(50),
        first: StepIndex(0),
        guidance_on: true,
        rows: 2,
        layer_seconds: LayerSeconds { whole: &whole, half: &half },
        layer_memory: &layer_memory,
        devices: &devices(2, u64::MAX),
        links: &fast_links(),
        turnaround_seconds: 1e-4,
        now: origin(),
    };
    let choice = choose(&Wishes::default(), &situation).unwrap();
    assert_eq!(choice.placed.plan.schedule.guidance, Guidance::Split, "{}", choice.reason);
    assert!(choice.reason.contains("all steps exact"), "{}", choice.reason);
}

#[test]
fn who_cannot_hold_the_whole_denoiser_gets_a_part() {
    let program = u_program(3);
    let layers = program.layers.len() as u64;
    let wishes = Wishes { prefer: Prefer::Exact, ..Wishes::default() };
    let choice = plan_on(&program, &wishes, &devices(2, (layers - 1) << 20), &fast_links(), 20).unwrap();
    assert_eq!(choice.placed.plan.partition.components(), 2, "{}", choice.reason);
    let mut unequal = devices(2, layers << 21);
    unequal[0].memory_bytes = 1;
    let choice = plan_on(&program, &Wishes::default(), &unequal, &fast_links(), 20).unwrap();
    assert!(choice.placed.plan.runs.iter().all(|run| choice.placed.rank_of(run) == Rank(1)), "{}", choice.reason);
    let hopeless = plan_on(&program, &wishes, &devices(2, 1), &fast_links(), 20);
    assert!(hopeless.is_ok(), "the workers say what they lack");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_plan_sends_over_a_link_that_carries_nothing(
        count in 2usize..5,
        broken in prop::collection::vec((0u16..4, 0u16..4), 1..4),
        components in prop::option::of(2u16..5),
        split_guidance in prop::option::of(any::<bool>()),
    ) {
        let mut links = fast_links();
        for &(from, to) in &broken {
            links.set(Some(Rank(from)), Some(Rank(to)), LinkCost::UNUSABLE);
        }
        let wishes = Wishes { components, split_guidance, ..Wishes::default() };
        let choice = plan_on(&u_program(3), &wishes, &devices(count, u64::MAX), &links, 20).unwrap();
        let found = choice.placed.plan.partition.components();
        prop_assert!(components.is_none_or(|asked| usize::from(asked) == found), "{}", choice.reason);
        for transfer in &choice.placed.transfers {
            prop_assert!(links.can_carry(transfer.from, transfer.to), "{transfer:?} of {}", choice.reason);
        }
    }
}

#[test]
fn devices_that_reach_each_other_go_on_with_the_split_where_another_one_is_cut_off() {
    let wishes = Wishes { split_guidance: Some(false), ..Wishes::default() };
    let mut links = fast_links();
    links.set(Some(Rank(0)), Some(Rank(1)), LinkCost::UNUSABLE);
    let choice = plan_on(&u_program(3), &wishes, &devices(3, u64::MAX), &links, 50).unwrap();
    let used: BTreeSet<Rank> = choice.placed.ranks.iter().copied().collect();
    assert_eq!(used, BTreeSet::from([Rank(0), Rank(2)]), "{}", choice.reason);
    assert_eq!(choice.placed.plan.partition.components(), 2, "{}", choice.reason);
}

#[test]
fn a_link_that_cannot_carry_a_split_is_not_used() {
    let program = u_program(3);
    let link = LinkCost { latency_seconds: 0.5, bytes_per_second: 10.0, ..LinkCost::FREE };
    let wishes = Wishes { split_guidance: Some(false), ..Wishes::default() };
    let mut links = Links::uniform(link);
    for rank in (0..3).map(Rank) {
        links.set(Some(rank), None, LinkCost::FREE);
        links.set(None, Some(rank), LinkCost::FREE);
    }
    let choice = plan_on(&program, &wishes, &devices(3, u64::MAX), &links, 20).unwrap();
    assert_eq!(choice.placed.plan.partition.components(), 1, "{}", choice.reason);
    assert!(choice.prediction.speed_up() > 0.99, "{}", choice.reason);
}

#[test]
fn latents_and_noise_predictions_take_their_bytes_time() {
    let program = u_program(3);
    let wishes = Wishes { components: Some(1), split_guidance: Some(false), ..Wishes::default() };
    let seconds = |bytes_per_second| {
        let link = LinkCost { latency_seconds: 0.0, bytes_per_second, ..LinkCost::FREE };
        plan_on(&program, &wishes, &devices(1, u64::MAX), &Links::uniform(link), 20).unwrap().prediction.seconds
    };
    // Two rows of 16 numbers of 4 bytes each way, and two headers.
    let bytes_per_step = 2.0 * (2.0 * 16.0 * 4.0 + 24.0);
    let longer = seconds(50.0) - seconds(100.0);
    assert!((longer - 20.0 * bytes_per_step / 100.0).abs() < 1e-6, "{longer}");
}

proptest! {
    #[test]
    fn the_priced_period_is_what_the_partition_itself_says(
        costs in prop::collection::vec(0.1f64..10.0, 12),
        components in 1usize..5,
        busy in 0.0f64..0.05,
        depth in 2usize..5,
    ) {
        let program = u_program(depth);
        let seconds: Vec<f64> = (0..program.layers.len()).map(|index| costs[index % costs.len()]).collect();
        let link = LinkCost { latency_seconds: 0.0, bytes_per_second: 50.0, busy_seconds_per_byte: busy, ..LinkCost::FREE };
        let prices = Prices { layer_seconds: &seconds, speeds: &vec![1.0; components], links: &vec![link; components], rows: 1 };
        for shape in [CutShape::Contiguous, CutShape::Nested] {
            for split in splits(&program, &prices, shape).unwrap() {
                let crossings = split.partition.crossings(&program);
                let computing = split.partition.component_costs(&seconds);
                let period = split.partition.component_ids().map(|component| {
                    let bytes = |is_it: &dyn Fn(&asyncdiff_plan::Crossing) -> bool| -> f64 {
                        crossings.iter().filter(|crossing| is_it(crossing)).map(|crossing| crossing.row_bytes as f64).sum()
                    };
                    let received = bytes(&|crossing| crossing.to == component);
                    let sent = bytes(&|crossing| crossing.from == component);
                    (computing[component.index()] + (received + sent) * busy).max(received.max(sent) / 50.0)
                });
                let period = period.fold(0.0, f64::max);
                // A value that two components read is sent twice and counted once.
                prop_assert!(split.period_seconds <= period + 1e-9, "{} against {}", split.period_seconds, period);
                if components <= 2 {
                    prop_assert!((split.period_seconds - period).abs() < 1e-9, "{} against {}", split.period_seconds, period);
                }
            }
        }
    }
}
