//! The threads that compute: the device's own, and as many beside it as the worker was told.
//!
//! The device's thread is a member of the pool that it uses, so that a kernel that divides its work waits for nobody to begin with it: the
//! process's, or one of its own where another device of the process has that one.

use rayon::ThreadPoolBuilder;

use crate::config::Cpu;

/// Makes the calling thread the first of `threads` that compute, each on a CPU of its own if there are enough of `cpus`.
pub(super) fn enter(threads: u32, cpus: &[Cpu]) {
    pin(cpus, 0);
    let pool = || {
        let cpus = cpus.to_vec();
        ThreadPoolBuilder::new()
            .num_threads(threads as usize)
            .use_current_thread()
            .thread_name(|index| format!("compute-{index}"))
            .start_handler(move |index| pin(&cpus, index))
    };
    if pool().build_global().is_ok() {
        return;
    }
    // The process's pool has another device's thread for one of its members, and may have no other.
    match pool().build() {
        // The thread that made it stays in it for good, and the others would end with it: it is kept for as long as the process.
        Ok(own) => drop(Box::leak(Box::new(own))),
        Err(error) => tracing::warn!(%error, "there are no threads for a device of its own; it shares another one's"),
    }
}

/// Keeps the calling thread on one of the CPUs; without any it runs where the operating system likes.
fn pin(cpus: &[Cpu], index: usize) {
    let Some(cpu) = cpus.get(index % cpus.len().max(1)) else { return };
    #[cfg(target_os = "linux")]
    {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu.0);
        if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
            tracing::warn!(cpu = cpu.0, %error, "a computing thread cannot be kept on its CPU and runs where it may");
        }
    }
    #[cfg(not(target_os = "linux"))]
    tracing::warn!(cpu = cpu.0, "threads cannot be kept on a CPU on this operating system");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_of_a_process_is_a_member_of_the_pool_that_it_uses() {
        let enter = |_| {
            std::thread::spawn(|| {
                enter(1, &[]);
                // Would wait for the other device's thread for ever, were it that one's pool.
                (rayon::current_thread_index(), rayon::join(|| 1, || 2))
            })
        };
        let devices: Vec<_> = (0..3).map(enter).collect();
        for device in devices {
            assert_eq!(device.join().unwrap(), (Some(0), (1, 2)));
        }
    }
}
