//! The machine's name, for reports.

/// The processor, and how many of its cores there are.
pub(super) fn hardware() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let file = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = file.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    format!("{model}, {cores} cores")
}
