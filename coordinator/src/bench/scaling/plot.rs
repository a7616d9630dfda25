//! The speed-ups within a host as a picture: an SVG, written here because nothing in it needs more than lines, marks and words.

use std::fmt::Write;

use super::{GuidanceWay, Network, ScalingReport, ScalingRow, SimulatedModel};

/// Width and height of a panel's axes, in pixels.
const PANEL: (f64, f64) = (430.0, 360.0);

/// Left of the first panel's axes, above them, and from one panel to the next.
const MARGIN: (f64, f64, f64) = (56.0, 64.0, 510.0);

/// Below the axes: their names, and the legend's lines.
const BELOW: f64 = 156.0;

/// Stride, guidance, colour.
const SERIES: [(u32, GuidanceWay, &str); 4] = [
    (1, GuidanceWay::Batched, "#1f77b4"),
    (2, GuidanceWay::Batched, "#d95f02"),
    (1, GuidanceWay::Split, "#1b9e77"),
    (2, GuidanceWay::Split, "#7b3294"),
];

/// The axes of a panel.
struct Axes {
    left: f64,
    /// The largest numbers of devices and of times faster.
    most: (f64, f64),
}

impl ScalingReport {
    /// A panel for each model: speed-up over devices within a host, ideals dashed, published figures as crosses.
    #[must_use]
    pub fn svg(&self) -> String {
        let models: Vec<SimulatedModel> =
            SimulatedModel::ALL.into_iter().filter(|&model| self.inside(model).next().is_some()).collect();
        let width = MARGIN.0 + MARGIN.2 * models.len().max(1) as f64;
        let height = MARGIN.1 + PANEL.1 + BELOW;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, (MARGIN.0, 22.0), "Speed-up over one device, within one host", "font-size=\"16\"");
        for (index, model) in models.into_iter().enumerate() {
            self.panel(&mut svg, model, MARGIN.0 + MARGIN.2 * index as f64);
        }
        self.legend(&mut svg, MARGIN.1 + PANEL.1 + 62.0);
        svg.push_str("</svg>\n");
        svg
    }

    fn inside(&self, model: SimulatedModel) -> impl Iterator<Item = &ScalingRow> {
        self.rows.iter().filter(move |row| row.model == model && row.network == Network::Inside)
    }

    fn panel(&self, svg: &mut String, model: SimulatedModel, left: f64) {
        let devices = self.inside(model).map(|row| row.devices).max().unwrap_or(1).max(2);
        let times = self.inside(model).map(|row| row.ideal_with_links.max(row.speed_up)).fold(2.0, f64::max);
        let axes = Axes { left, most: (devices.into(), times.ceil()) };
        axes.draw(svg, model.title());
        for (stride, guidance, colour) in SERIES {
            let rows: Vec<&ScalingRow> =
                self.inside(model).filter(|row| row.stride == stride && row.guidance == guidance).collect();
            let points =
                |of: fn(&ScalingRow) -> f64| rows.iter().map(|row| (f64::from(row.devices), of(row))).collect();
            axes.line(
                svg,
                points(|row| row.ideal_with_links),
                &format!("stroke=\"{colour}\" stroke-dasharray=\"5 4\""),
            );
            axes.line(svg, points(|row| row.speed_up), &format!("stroke=\"{colour}\" stroke-width=\"2\""));
            for row in &rows {
                let (x, y) = axes.place(f64::from(row.devices), row.speed_up);
                circle(svg, (x, y), colour);
            }
        }
        for &(devices, stride, speed_up) in model.published_speed_ups() {
            let colour = SERIES.iter().find(|series| series.0 == stride).map_or("black", |series| series.2);
            cross(svg, axes.place(f64::from(devices), speed_up), colour);
        }
    }

    fn legend(&self, svg: &mut String, top: f64) {
        for (index, (stride, guidance, colour)) in SERIES.into_iter().enumerate() {
            let (x, y) = (MARGIN.0 + 250.0 * (index % 2) as f64, top + 20.0 * (index / 2) as f64);
            rule(svg, (x, y - 4.0), (x + 26.0, y - 4.0), &format!("stroke=\"{colour}\" stroke-width=\"2\""));
            circle(svg, (x + 13.0, y - 4.0), colour);
            let guidance = if guidance == GuidanceWay::Split { ", guidance split" } else { "" };
            text(svg, (x + 34.0, y), &format!("stride {stride}{guidance}"), "");
        }
        let (x, y) = (MARGIN.0, top + 42.0);
        rule(svg, (x, y - 4.0), (x + 26.0, y - 4.0), "stroke=\"#555\" stroke-dasharray=\"5 4\"");
        text(svg, (x + 34.0, y), "what the plan allows", "");
        cross(svg, (x + 263.0, y - 4.0), SERIES[0].2);
        cross(svg, (x + 279.0, y - 4.0), SERIES[1].2);
        text(svg, (x + 292.0, y), "published: AsyncDiff, A5000s with NVLink, 50 steps (arXiv 2406.06911)", "");
        let how = format!(
            "Simulated devices with the published times of one A5000 ({} steps, warm-up 1), real tensors and links.",
            self.steps
        );
        text(svg, (x, y + 26.0), &how, "fill=\"#555\" font-size=\"12\"");
    }
}

impl Axes {
    fn place(&self, devices: f64, times: f64) -> (f64, f64) {
        let across = (devices - 1.0) / (self.most.0 - 1.0);
        (self.left + PANEL.0 * across, MARGIN.1 + PANEL.1 * (1.0 - times / self.most.1))
    }

    fn draw(&self, svg: &mut String, title: &str) {
        text(svg, (self.left, MARGIN.1 - 14.0), title, "font-weight=\"bold\"");
        let every = if self.most.1 > 10.0 { 2 } else { 1 };
        for times in (0..=self.most.1 as u32).step_by(every) {
            let (left, y) = self.place(1.0, times.into());
            rule(svg, (left, y), (left + PANEL.0, y), "stroke=\"#ddd\"");
            text(svg, (left - 8.0, y + 4.0), &format!("{times}x"), "text-anchor=\"end\"");
        }
        for devices in 1..=self.most.0 as u32 {
            let (x, y) = self.place(devices.into(), 0.0);
            rule(svg, (x, y), (x, y + 5.0), "stroke=\"#555\"");
            text(svg, (x, y + 20.0), &devices.to_string(), "text-anchor=\"middle\"");
        }
        let (left, bottom) = self.place(1.0, 0.0);
        rule(svg, (left, bottom), (left + PANEL.0, bottom), "stroke=\"#555\"");
        text(svg, (left + PANEL.0 / 2.0, bottom + 38.0), "devices", "text-anchor=\"middle\"");
    }

    /// Through points from left to right.
    fn line(&self, svg: &mut String, mut points: Vec<(f64, f64)>, style: &str) {
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        let places = points.into_iter().map(|(devices, times)| {
            let (x, y) = self.place(devices, times);
            format!("{x:.1},{y:.1}")
        });
        let places = places.collect::<Vec<_>>().join(" ");
        push(svg, &format!("<polyline points=\"{places}\" fill=\"none\" {style}/>"));
    }
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    let line =
        format!("<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {style}/>", from.0, from.1, to.0, to.1);
    push(svg, &line);
}

fn circle(svg: &mut String, (x, y): (f64, f64), colour: &str) {
    push(svg, &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"));
}

fn cross(svg: &mut String, (x, y): (f64, f64), colour: &str) {
    let style = format!("stroke=\"{colour}\" stroke-width=\"2.5\"");
    rule(svg, (x - 5.0, y - 5.0), (x + 5.0, y + 5.0), &style);
    rule(svg, (x - 5.0, y + 5.0), (x + 5.0, y - 5.0), &style);
}

/// The words are ours: nothing in them needs escaping.
fn text(svg: &mut String, (x, y): (f64, f64), words: &str, style: &str) {
    push(svg, &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{words}</text>"));
}

fn push(svg: &mut String, element: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "{element}");
}

#[cfg(test)]
mod tests {
    use super::super::markdown::tests::{report, sample};
    use super::*;

    #[test]
    fn what_was_measured_within_a_host_and_what_was_published_are_in_the_picture() {
        let linked = Network::Links { gbit_per_s: 1.0, delay_ms: 2.0 };
        let rows = vec![sample(1, Network::Inside, 1.0), sample(4, Network::Inside, 0.9), sample(8, linked, 0.9)];
        let svg = report(rows).svg();
        let count = |element: &str| svg.matches(element).count();
        // Two measured and four of the legend.
        assert_eq!(count("<circle"), 2 + 4);
        assert_eq!(count("stroke-width=\"2.5\""), 2 * (SimulatedModel::Sdxl.published_speed_ups().len() + 2));
        assert!(svg.contains(SimulatedModel::Sdxl.title()) && !svg.contains(SimulatedModel::Sd21.title()));
        // Four devices are the most within a host, at the right end; 3.6 of 4 times.
        let place = format!("cx=\"{:.1}\" cy=\"{:.1}\"", MARGIN.0 + PANEL.0, MARGIN.1 + PANEL.1 * 0.1);
        assert!(svg.contains(&place), "{place} in {svg}");
    }

    #[test]
    fn every_element_is_closed() {
        let svg = report(vec![sample(1, Network::Inside, 1.0), sample(2, Network::Inside, 1.0)]).svg();
        let is_closed = |line: &str| line.ends_with("/>") || line.ends_with("</text>");
        let inner: Vec<&str> = svg.lines().skip(1).filter(|line| *line != "</svg>").collect();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(inner.iter().all(|line| line.starts_with('<') && is_closed(line)), "{svg}");
    }
}
