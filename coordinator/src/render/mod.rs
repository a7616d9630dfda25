//! What people see: tables, progress, drawings, trace files. Writes text and decides nothing.

mod plan;
mod progress;
mod summary;
mod table;
mod trace;

pub use plan::plan_text;
pub use progress::Progress;
pub use summary::{Alone, run_report};
pub use table::{job_text, jobs_table, workers_table};
pub use trace::chrome_trace;
