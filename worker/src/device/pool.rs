//! The threads that compute: the device's own, and as many beside it as the worker was told.
//!
//! The device's thread is a member of the process's thread pool, so that a kernel that divides its work waits for nobody to begin with it.

use rayon::ThreadPoolBuilder;

use crate::config::Cpu;

/// Makes the calling thread the first of `threads` that compute, each on a CPU of its own if there are enough of `cpus`.
pub(super) fn enter(threads: u32, cpus: &[Cpu]) {
    pin(cpus, 0);
    let cpus = cpus.to_vec();
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads as usize)
        .use_current_thread()
        .thread_name(|index| format!("compute-{index}"))
        .start_handler(move |index| pin(&cpus, index));
    if let Err(error) = pool.build_global() {
        // Another device of the process has made the pool; that happens in tests, where several workers share a process.
        tracing::debug!(%error, "the process has a thread pool already");
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
