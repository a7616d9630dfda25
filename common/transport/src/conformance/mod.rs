//! What every kind of link must do. Each claim is checked on each kind; a new kind gets a line at the end of this file.

mod claims;
mod kinds;
mod sample;

pub(crate) use sample::{noise, tensor, until, within};

macro_rules! conformance {
    ($kind_name:ident, $kind:expr, start_paused = $paused:tt, [$($claim:ident),+ $(,)?]) => {
        mod $kind_name {
            use super::{claims, kinds};

            $(
                #[tokio::test(start_paused = $paused)]
                async fn $claim() {
                    super::within(claims::$claim(&$kind)).await;
                }
            )+
        }
    };
}

macro_rules! all_claims {
    ($kind_name:ident, $kind:expr, start_paused = $paused:tt) => {
        conformance!(
            $kind_name,
            $kind,
            start_paused = $paused,
            [
                a_full_queue_says_so_and_does_not_wait,
                a_late_tensor_is_dropped_and_the_link_stays,
                a_refused_tensor_closes_the_link_for_both,
                an_accusation_reaches_the_accused,
                bulk_does_not_delay_control,
                closing_is_seen_after_what_was_sent,
                control_frames_keep_their_order,
                counters_equal_bytes,
                dropping_a_link_closes_it,
                frames_for_a_dropped_receiver_are_discarded_and_counted,
                tensors_arrive_once_and_intact_both_ways,
            ]
        );
    };
}

all_claims!(in_process, kinds::InProcess, start_paused = false);
all_claims!(perfect_faulty, kinds::PerfectFaulty, start_paused = false);
all_claims!(slow_faulty, kinds::SlowFaulty, start_paused = true);
all_claims!(quic, kinds::Quic, start_paused = false);
all_claims!(shared_memory, kinds::SharedMemory, start_paused = false);
