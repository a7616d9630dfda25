//! The figures of `bench scaling` as Markdown.

use super::{Network, ScalingReport, ScalingRow, SimulatedModel};

impl ScalingReport {
    /// A table of the machine, one of the lowest shares, and one of the figures.
    #[must_use]
    pub fn markdown(&self) -> String {
        let capacity = self.capacity.map_or_else(String::new, |capacity| {
            format!(
                "| it carries | shared memory {:.1} GB/s, QUIC {:.1} GB/s |\n",
                capacity.shared_memory_bytes_per_second / 1e9,
                capacity.quic_bytes_per_second / 1e9
            )
        });
        let devices: Vec<String> = SimulatedModel::ALL
            .iter()
            .map(|model| format!("{}: {:.2} s for 50 steps", model.title(), model.published_seconds()))
            .collect();
        let rows: String = self.rows.iter().map(row).collect();
        format!(
            "| scaling | version {} |\n|---|---|\n| hardware | {} |\n{capacity}| simulated devices | A5000: {} |\n\
             | steps | {}, warm-up 1 |\n\n{}\n\
             | model | network | N | S | guidance | components, cut | encoding | ms per step | speed-up | formula | ideal | of ideal | \
             MB per step | predicted / counted | dilation |\n\
             |---|---|--:|--:|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n{rows}\n\
             N devices, rounds of S steps. `formula`: 1 / (w/T + (1 - w/T) · share / S). `ideal`: the plan with devices and links that cost \
             nothing but their time, rate and delay. Times are divided by the dilation, by which devices, rates and delays were slowed down.\n",
            self.version,
            self.hardware,
            devices.join("; "),
            self.steps,
            self.lowest()
        )
    }

    /// By network: the row that is furthest from its ideal.
    fn lowest(&self) -> String {
        let mut networks: Vec<Network> = Vec::new();
        for row in &self.rows {
            if !networks.contains(&row.network) {
                networks.push(row.network);
            }
        }
        let line = |network: &Network| {
            let rows = || self.rows.iter().filter(|row| row.network == *network);
            let lowest = rows().min_by(|one, other| one.share_of_ideal.total_cmp(&other.share_of_ideal))?;
            let reached = rows().filter(|row| row.share_of_ideal >= row.goal).count();
            Some(format!(
                "| {network} | {:.0} % | {reached} of {} | {:.1} % ({}, N = {}, S = {}, {}) |\n",
                100.0 * lowest.goal,
                rows().count(),
                100.0 * lowest.share_of_ideal,
                lowest.model.name(),
                lowest.devices,
                lowest.stride,
                lowest.guidance.name()
            ))
        };
        let lines: String = networks.iter().filter_map(line).collect();
        format!("| network | goal | rows that reach it | lowest share of the ideal |\n|---|--:|--:|---|\n{lines}")
    }
}

fn row(row: &ScalingRow) -> String {
    let cut = match (row.components, row.plan.contains("nested")) {
        (1, _) => "1".to_owned(),
        (components, true) => format!("{components} nested"),
        (components, false) => format!("{components} contiguous"),
    };
    let predicted = match row.bytes_per_step {
        0.0 => String::new(),
        bytes => format!("{:.4}", row.predicted_bytes_per_step / bytes),
    };
    format!(
        "| {} | {} | {} | {} | {} | {cut} | {} | {:.2} | {:.2}x | {:.2}x | {:.2}x | {:.1} % | {:.1} | {predicted} | {:.1} |\n",
        row.model.name(),
        row.network,
        row.devices,
        row.stride,
        row.guidance.name(),
        row.encoding,
        row.step_ms,
        row.speed_up,
        row.ideal_speed_up,
        row.ideal_with_links,
        100.0 * row.share_of_ideal,
        row.bytes_per_step / 1e6,
        row.dilation
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::GuidanceWay;
    use super::*;

    pub(in super::super) fn sample(devices: u16, network: Network, share: f64) -> ScalingRow {
        ScalingRow {
            model: SimulatedModel::Sdxl,
            network,
            devices,
            stride: 1,
            guidance: GuidanceWay::Batched,
            components: devices,
            plan: "2 components (nested), stride 1".to_owned(),
            encoding: "full".to_owned(),
            dilation: 2.0,
            seconds: 1.0,
            step_ms: 20.0,
            speed_up: share * f64::from(devices),
            ideal_speed_up: devices.into(),
            ideal_with_links: devices.into(),
            share_of_ideal: share,
            goal: network.goal(),
            bytes_per_step: 2e6,
            predicted_bytes_per_step: 2e6,
            busy: vec![1.0],
            turnaround_ms: 0.1,
        }
    }

    pub(in super::super) fn report(rows: Vec<ScalingRow>) -> ScalingReport {
        ScalingReport { hardware: "a CPU, 2 cores".to_owned(), version: "0.1.0", steps: 50, capacity: None, rows }
    }

    #[test]
    fn the_row_that_is_furthest_from_its_ideal_stands_for_its_network() {
        let (inside, linked) = (Network::Inside, Network::Links { gbit_per_s: 1.0, delay_ms: 2.0 });
        let rows = vec![sample(2, inside, 0.98), sample(4, inside, 0.96), sample(2, linked, 0.91)];
        let text = report(rows).markdown();
        assert!(text.contains("| inside | 97 % | 1 of 2 | 96.0 % (sdxl, N = 4, S = 1, batched) |"), "{text}");
        assert!(text.contains("| 1gbit-2ms | 90 % | 1 of 1 | 91.0 % (sdxl, N = 2, S = 1, batched) |"), "{text}");
    }

    #[test]
    fn rows_are_as_wide_as_their_head() {
        let text = report(vec![sample(2, Network::Inside, 0.98)]).markdown();
        let cells: Vec<usize> = text
            .lines()
            .rev()
            .filter(|line| line.starts_with("| sdxl") || line.starts_with("| model"))
            .map(|line| line.matches('|').count())
            .collect();
        assert!(cells.len() == 2 && cells[0] == cells[1], "{text}");
    }
}
