//! Which CPUs the local workers' threads are kept on: no two share a core where there are enough of them.

use std::collections::BTreeMap;

/// The most CPUs that Linux numbers in a set of the usual size.
const CPUS_MAX: usize = 1024;

/// For each worker, a list such as `0,2` for `worker join --cpus`; none at all where there are fewer cores than threads, so that the operating
/// system shares them out.
#[must_use]
pub(crate) fn place(workers: usize, threads: usize) -> Vec<String> {
    spread(&first_cpu_of_each_core(), workers, threads)
}

/// The CPUs of a list such as `0-3,8`, shared out among workers.
pub(crate) fn share_out(list: &str, workers: usize, threads: usize) -> Result<Vec<String>, String> {
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|&cpu| cpu < CPUS_MAX);
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return Err(format!(
                "{list:?} is no list of CPUs\nhint: write it like 0-3,8 with numbers below {CPUS_MAX}"
            ));
        };
        cpus.extend(first..=last);
    }
    let placed = spread(&cpus, workers, threads);
    if placed.is_empty() {
        let (needed, found) = (workers * threads, cpus.len());
        return Err(format!(
            "{workers} workers of {threads} threads need {needed} CPUs, and --cpus lists {found}\nhint: list more, or start fewer threads"
        ));
    }
    Ok(placed)
}

fn spread(cpus: &[usize], workers: usize, threads: usize) -> Vec<String> {
    if threads == 0 || workers * threads > cpus.len() {
        return Vec::new();
    }
    let list = |cpus: &[usize]| cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    cpus.chunks_exact(threads).take(workers).map(list).collect()
}

/// Of the CPUs that this process may use, the first of each core: the others of a core compute no faster beside it.
fn first_cpu_of_each_core() -> Vec<usize> {
    let mut cores = BTreeMap::new();
    for cpu in allowed_cpus() {
        let topology = |file: &str| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{file}");
            std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<usize>().ok())
        };
        // Where the kernel does not say, every CPU counts as a core.
        let core = (topology("physical_package_id").unwrap_or(0), topology("core_id").unwrap_or(cpu));
        cores.entry(core).or_insert(cpu);
    }
    let mut cpus: Vec<usize> = cores.into_values().collect();
    cpus.sort_unstable();
    cpus
}

#[cfg(target_os = "linux")]
fn allowed_cpus() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(not(target_os = "linux"))]
fn allowed_cpus() -> Vec<usize> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_no_core_where_there_are_enough() {
        assert_eq!(spread(&[0, 2, 4, 6], 2, 2), ["0,2", "4,6"]);
        assert_eq!(spread(&[0, 1], 2, 1), ["0", "1"]);
    }

    #[test]
    fn a_list_is_shared_out_or_refused() {
        assert_eq!(share_out("0-2,8", 2, 2), Ok(vec!["0,1".to_owned(), "2,8".to_owned()]));
        for list in ["", "a", "0", "0-5000"] {
            assert!(share_out(list, 2, 1).is_err_and(|text| text.contains("hint:")), "{list:?}");
        }
    }

    #[test]
    fn without_enough_cores_the_operating_system_decides() {
        assert!(spread(&[0, 1], 2, 2).is_empty() && spread(&[], 1, 1).is_empty() && spread(&[0], 1, 0).is_empty());
    }
}
