//! Which encoding a plan's edges get when the user leaves it open: as computed, unless links are the bottleneck.

use super::draft::Draft;
use super::{Prefer, Situation, Wishes};
use crate::{Costs, Encoding, PlacedPlan, Prediction, StepIndex, predict};

/// A less lossy encoding is taken if it is predicted to be at most this much slower than the fastest: predictions are no better than that.
const WORTHWHILE: f64 = 1.03;

/// The least lossy encoding that the wishes leave.
pub(super) fn first(wishes: &Wishes) -> Encoding {
    match (wishes.prefer, wishes.encoding) {
        (Prefer::Exact, _) | (_, None) => Encoding::Full,
        (_, Some(encoding)) => encoding,
    }
}

/// Gives a plan, which is predicted with the first encoding, the least lossy one that is not slower than another by more than
/// [`WORTHWHILE`].
pub(super) fn choose(
    wishes: &Wishes,
    situation: &Situation<'_>,
    (draft, prediction): (Draft, Prediction),
    costs: &Costs<'_>,
) -> (Draft, Prediction) {
    let others = others(wishes, &draft.placed).iter().map(|&encoding| {
        let draft = draft.clone().encoded(encoding);
        let prediction = predict(situation.program, &draft.placed, costs, situation.now);
        (draft, prediction)
    });
    let others: Vec<(Draft, Prediction)> = others.collect();
    let mut all = vec![(draft, prediction)];
    all.extend(others);
    let best = all.iter().map(|(_, prediction)| prediction.seconds).fold(f64::INFINITY, f64::min);
    // There is one, for the best is among them.
    let first = all.iter().position(|(_, prediction)| prediction.seconds <= best * WORTHWHILE).unwrap_or_default();
    all.swap_remove(first)
}

/// What there is to choose from beside the first, the least lossy first.
fn others(wishes: &Wishes, placed: &PlacedPlan) -> &'static [Encoding] {
    let warm_up = StepIndex(placed.plan.schedule.warm_up_steps());
    let travels = placed.transfers.iter().any(|transfer| transfer.instance.step >= warm_up);
    match wishes.prefer {
        _ if wishes.encoding.is_some() || !travels => &[],
        Prefer::Exact => &[],
        // Not bf16: f16 has as many bytes and loses less.
        Prefer::Quality => &[Encoding::F16],
        Prefer::Balanced => &[Encoding::F16, Encoding::Delta8],
        Prefer::Speed => &[Encoding::F16, Encoding::Delta8, Encoding::Delta4],
    }
}
