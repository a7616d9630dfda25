//! Whether a running job changes to another plan, which somebody who joined makes possible.

/// The part of what is left that a change must be predicted to save: predictions are no better than that, and a cluster whose workers come and go
/// is not to spend its time on changing.
const WORTHWHILE: f64 = 0.1;

/// Seconds in which nothing is computed while the workers change: assignments and conditions travel, components are there already.
const PAUSE_SECONDS: f64 = 0.1;

/// Steps that must be left: one of them is exact, and the ones that are made meanwhile do not gain.
const FEW_STEPS: u32 = 4;

/// What a job would gain by another plan of the steps that are left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Switch {
    /// Steps that are left.
    pub steps: u32,
    /// What they are predicted to take by the plan that is followed.
    pub staying_seconds: f64,
    /// What they are predicted to take by the other plan, the refresh included.
    pub going_seconds: f64,
}

impl Switch {
    /// Whether it pays.
    #[must_use]
    pub fn pays(&self) -> bool {
        let gain = self.staying_seconds - self.going_seconds - PAUSE_SECONDS;
        // Not so if a figure is no number.
        self.steps > FEW_STEPS && gain > WORTHWHILE * self.staying_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pays(steps: u32, staying_seconds: f64, going_seconds: f64) -> bool {
        Switch { steps, staying_seconds, going_seconds }.pays()
    }

    #[test]
    fn a_plan_that_halves_what_is_left_is_worth_the_change() {
        assert!(pays(20, 10.0, 5.5));
    }

    #[test]
    fn a_gain_within_what_predictions_are_good_for_is_not() {
        assert!(!pays(20, 10.0, 9.2));
        assert!(!pays(20, 10.0, 10.0));
        assert!(!pays(20, 10.0, 12.0));
    }

    #[test]
    fn the_last_steps_and_short_jobs_stay_where_they_are() {
        assert!(!pays(FEW_STEPS, 10.0, 1.0));
        assert!(!pays(20, 0.15, 0.08));
    }

    #[test]
    fn two_workers_that_come_and_go_do_not_make_a_job_change_back_and_forth() {
        // Whatever is predicted of two plans, at most one of the two changes pays.
        for staying in [0.5, 1.0, 3.0, 10.0] {
            for going in [0.4, 0.9, 1.1, 2.9, 9.5] {
                assert!(!(pays(20, staying, going) && pays(20, going, staying)), "{staying} and {going}");
            }
        }
    }

    #[test]
    fn figures_that_are_no_numbers_change_nothing() {
        assert!(!pays(20, f64::NAN, 1.0));
        assert!(!pays(20, 10.0, f64::NAN));
        assert!(!pays(20, f64::INFINITY, f64::INFINITY));
    }
}
