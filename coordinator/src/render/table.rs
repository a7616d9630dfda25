//! Tables of jobs and workers.

use std::collections::BTreeMap;
use std::fmt::Write;

use asyncdiff_common::config::{format_bytes, format_seconds};
use comfy_table::{CellAlignment, Table, presets};

use crate::api::WorkerView;
use crate::job::{JobRecord, JobState};

/// Characters of a prompt that a table shows.
const PROMPT_CHARS: usize = 48;

/// A list of jobs.
#[must_use]
pub fn jobs_table(jobs: &[JobRecord]) -> String {
    if jobs.is_empty() {
        return "no jobs yet".to_owned();
    }
    let mut table = plain(&["ID", "STATE", "STEPS", "TIME", "PROMPT"]);
    for job in jobs {
        let (taken, of) = job.progress;
        let time = job.summary.as_ref().map_or(String::new(), |summary| format_seconds(summary.total_seconds));
        let prompt = shortened(&job.request.prompt);
        table.add_row([job.id.to_string(), state(job.state).to_owned(), format!("{taken}/{of}"), time, prompt]);
    }
    table.trim_fmt()
}

/// Everything about one job that a person asks for.
#[must_use]
pub fn job_text(job: &JobRecord) -> String {
    let settings = &job.request.settings;
    let (taken, of) = job.progress;
    let mut lines = vec![
        format!("{}: {}", job.id, state(job.state)),
        format!("prompt: {}", job.request.prompt),
        format!("steps {}, seed {}, guidance {}", settings.steps, settings.seed, settings.guidance_scale),
    ];
    if matches!(job.state, JobState::Queued | JobState::Running) {
        lines.push(format!("{} ({taken} of {of} steps)", job.phase));
    }
    lines.extend(job.warnings.iter().map(|warning| format!("warning: {warning}")));
    if let Some(error) = &job.error {
        lines.push(format!("error: {}\nhint: {}", error.message, error.hint));
    }
    if let Some(summary) = &job.summary {
        lines.push(super::run_report(summary, &super::Alone::Predicted));
    }
    lines.join("\n")
}

/// A list of workers.
#[must_use]
pub fn workers_table(workers: &[WorkerView]) -> String {
    if workers.is_empty() {
        return "no workers yet; `coordinator join-line` prints the line that they join with".to_owned();
    }
    let mut table = plain(&["NAME", "STATE", "DEVICES", "MEMORY", "JOB", "PART"]);
    let mut plans = BTreeMap::new();
    for worker in workers {
        let memory = format_bytes(worker.memory_bytes as f64);
        let [mut jobs, mut runs] = [Vec::new(), Vec::new()];
        for part in &worker.parts {
            plans.insert(part.job, part.plan.as_str());
            jobs.push(part.job.to_string());
            runs.push(part.runs.clone());
        }
        let (name, state) = (worker.name.clone(), worker.state.clone());
        table.add_row([name, state, worker.devices.join("; "), memory, jobs.join(", "), runs.join(" | ")]);
    }
    let mut text = table.trim_fmt();
    for (job, plan) in &plans {
        let _ = write!(text, "\n{job}: {plan}");
    }
    if !plans.is_empty() && workers.iter().any(|worker| worker.state == "ready") {
        text.push_str("\nready: free for the next job; those that run would not end sooner with them");
    }
    text
}

/// A table without lines, for `grep` and `awk` as well as for people.
fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2)).set_cell_alignment(CellAlignment::Left);
    }
    table
}

/// What a state is called, as in the API's JSON.
pub(crate) fn state(state: JobState) -> &'static str {
    match state {
        JobState::Cancelled => "cancelled",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Queued => "queued",
        JobState::Running => "running",
    }
}

fn shortened(prompt: &str) -> String {
    // A line break in a prompt would break the table.
    let line: String = prompt.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= PROMPT_CHARS {
        return line;
    }
    line.chars().take(PROMPT_CHARS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use asyncdiff_plan::JobId;

    use super::*;
    use crate::WorkerPart;

    #[test]
    fn long_prompts_are_shortened_to_one_line() {
        let short = shortened(&"a red\ncircle ".repeat(20));
        assert_eq!(short.chars().count(), PROMPT_CHARS);
        assert!(short.starts_with("a red circle a") && short.ends_with('…'));
    }

    #[test]
    fn workers_are_listed_by_line() {
        let worker = WorkerView {
            name: "box-1".into(),
            state: "ready".into(),
            devices: vec!["cpu, 4 threads".into()],
            memory_bytes: 8 << 30,
            parts: Vec::new(),
            weights: Default::default(),
        };
        let table = workers_table(std::slice::from_ref(&worker));
        assert_eq!(table.lines().count(), 2);
        assert!(table.contains("box-1") && table.contains("8.00 GiB"), "{table}");
        assert!(workers_table(&[]).contains("join-line"));
        let part = WorkerPart {
            job: JobId(3),
            rank: 0,
            runs: "component 1 of 1".into(),
            plan: "1 component, all steps exact: 1.00x of one worker predicted".into(),
        };
        let busy = WorkerView { name: "box-2".into(), state: "working".into(), parts: vec![part], ..worker.clone() };
        let table = workers_table(&[worker, busy]);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[2].contains("job-3") && lines[2].contains("component 1 of 1"), "{table}");
        assert!(lines[3].starts_with("job-3: 1 component, all steps exact"), "{table}");
        assert!(lines[4].starts_with("ready: free for the next job"), "{table}");
    }
}
