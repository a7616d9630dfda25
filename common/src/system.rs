//! Facts about this machine and process, as Linux tells them, and how much of it a process takes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Threads of a process for calls that block: files that are read, checkpoints that are digested, plans that are searched. The runtime would start
/// one for each of hundreds of tensors that others ask for at a time, and its turns keep all of them alive; more than the disk has use for only
/// take memory.
pub const BLOCKING_THREADS: usize = 32;

/// Memory that is assumed where the operating system does not say: enough for small models, refused for large ones with a message
/// that names the setting.
const UNKNOWN_MEMORY_BYTES: u64 = 8 << 30;

/// Bytes that this process may still take: what the machine has available, or its control group's limit if that is less.
#[must_use]
pub fn available_memory_bytes() -> u64 {
    let machine = read("/proc/meminfo").and_then(|text| kibibytes(&text, "MemAvailable:"));
    let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    match (machine, group) {
        (Some(machine), Some(group)) => machine.min(group),
        (Some(bytes), None) | (None, Some(bytes)) => bytes,
        (None, None) => UNKNOWN_MEMORY_BYTES,
    }
}

/// The most resident memory that this process ever had; 0 where the operating system does not say.
#[must_use]
pub fn peak_memory_bytes() -> u64 {
    read("/proc/self/status").and_then(|text| kibibytes(&text, "VmHWM:")).unwrap_or_default()
}

/// Resident memory of a process, by what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResidentMemory {
    /// Bytes of its own: heap and stacks.
    pub anonymous_bytes: u64,
    /// Bytes of files, such as the program itself; the operating system takes them back when it needs memory.
    pub file_bytes: u64,
    /// Bytes that it may share with other processes.
    pub shared_bytes: u64,
}

impl ResidentMemory {
    /// Of a process of this machine; `None` if there is no such process, and where the operating system does not say.
    #[must_use]
    pub fn of_process(id: u32) -> Option<Self> {
        let text = read(&format!("/proc/{id}/status"))?;
        let of = |key: &str| kibibytes(&text, key);
        Some(Self { anonymous_bytes: of("RssAnon:")?, file_bytes: of("RssFile:")?, shared_bytes: of("RssShmem:")? })
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.anonymous_bytes + self.file_bytes + self.shared_bytes
    }
}

/// Processor time that all threads of this process have taken, in user mode and in the kernel.
#[must_use]
pub fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    // The kernel counts from the process's start: neither field is negative, and nanoseconds are below a second.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Microseconds since 1970.
#[must_use]
pub fn unix_micros() -> u64 {
    // A clock before 1970 counts as 1970; u64 holds half a million years of microseconds.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The bytes in a line such as `VmHWM:    1234 kB`.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_tables_are_read() {
        let text = "VmPeak:\t  20 kB\nVmHWM:\t    1024 kB\nVmRSS:\t garbage\n";
        assert_eq!(kibibytes(text, "VmHWM:"), Some(1 << 20));
        assert_eq!(kibibytes(text, "VmRSS:"), None);
        assert_eq!(kibibytes(text, "VmSwap:"), None);
    }

    #[test]
    fn computing_takes_processor_time() {
        let before = processor_time();
        let spin = std::time::Instant::now();
        while spin.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        assert!(processor_time() > before);
    }

    #[test]
    fn what_a_process_writes_to_is_its_own_memory() {
        let before = ResidentMemory::of_process(std::process::id()).unwrap();
        let taken = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = ResidentMemory::of_process(std::process::id()).unwrap();
        assert!(after.anonymous_bytes >= before.anonymous_bytes + (32 << 20), "{before:?}, then {after:?}");
        assert!(after.bytes() >= after.anonymous_bytes + after.file_bytes);
        drop(taken);
    }

    #[test]
    fn this_process_has_used_memory() {
        assert!(peak_memory_bytes() > 1 << 20);
        assert!(available_memory_bytes() > 1 << 20);
    }
}
