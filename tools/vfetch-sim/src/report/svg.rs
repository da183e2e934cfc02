// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Pictures: just enough SVG.

use std::fmt::Write as _;

use super::three;
use crate::{experiment::Cell, machine::result::Timeline, policy::Choice};

/// For text in XML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            body: String::new(),
        }
    }

    fn rect(&mut self, x: f64, y: f64, w: f64, h: f64, fill: &str, title: &str) {
        let _ = writeln!(
            self.body,
            "<rect x='{x:.1}' y='{y:.1}' width='{w:.1}' height='{h:.1}' fill='{fill}'><title>{}</title></rect>",
            escape(title)
        );
    }

    fn text(&mut self, x: f64, y: f64, size: f64, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.body,
            "<text x='{x:.1}' y='{y:.1}' font-size='{size}' text-anchor='{anchor}'>{}</text>",
            escape(text)
        );
    }

    fn line(&mut self, points: &[(f64, f64)], color: &str, width: f64) {
        let mut path = String::new();
        for (x, y) in points {
            let _ = write!(path, "{x:.1},{y:.1} ");
        }
        let _ = writeln!(
            self.body,
            "<polyline points='{path}' fill='none' stroke='{color}' stroke-width='{width}'/>"
        );
    }

    fn finish(self) -> String {
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{w:.0}' height='{h:.0}' viewBox='0 0 {w:.0} {h:.0}' \
             font-family='DejaVu Sans, Helvetica, Arial, sans-serif' fill='#222'>\n\
             <rect width='100%' height='100%' fill='#fff'/>\n{}</svg>\n",
            self.body,
            w = self.width,
            h = self.height
        )
    }
}

/// From pale yellow to dark red, for 0 to 1.
fn shade(value: f64) -> String {
    const STOPS: [[f64; 3]; 5] = [
        [255.0, 255.0, 229.0],
        [254.0, 217.0, 118.0],
        [253.0, 141.0, 60.0],
        [215.0, 28.0, 36.0],
        [90.0, 0.0, 38.0],
    ];
    let at = value.clamp(0.0, 1.0) * 4.0;
    let low = (at.floor() as usize).min(3);
    let part = at - low as f64;
    let [r, g, b] =
        [0, 1, 2].map(|i| (STOPS[low][i] + (STOPS[low + 1][i] - STOPS[low][i]) * part).round());
    format!("#{:02x}{:02x}{:02x}", r as u8, g as u8, b as u8)
}

/// The slowdown that has the darkest shade.
const DARKEST: f64 = 8.0;

/// Policies by workload and capacity: time over that of the fastest policy. `cells` are those of one link, grouped by workload.
pub(super) fn heat_map(cells: &[&Cell], title: &str) -> String {
    const W: f64 = 15.0;
    const H: f64 = 17.0;
    const GAP: f64 = 5.0;
    const LEFT: f64 = 118.0;
    const TOP: f64 = 142.0;
    let policies: Vec<&str> = cells
        .first()
        .map(|cell| cell.rows.iter().map(|row| row.policy.as_str()).collect())
        .unwrap_or_default();
    let groups: Vec<&[&Cell]> = cells
        .chunk_by(|a, b| a.place.workload == b.place.workload)
        .collect();
    let width = LEFT + cells.len() as f64 * W + groups.len() as f64 * GAP + 90.0;
    let rows = policies.len() as f64 + 1.0;
    let height = TOP + rows * H + 96.0;
    let mut svg = Svg::new(width.max(560.0), height);
    svg.text(10.0, 20.0, 15.0, Anchor::Start, title);
    svg.text(
        10.0,
        37.0,
        11.0,
        Anchor::Start,
        "Run time over that of the cell's fastest policy; a dot: within 1 % of it.",
    );
    svg.text(
        10.0,
        51.0,
        11.0,
        Anchor::Start,
        "Columns of a group: memory, as a share of the working set.",
    );
    let mut x = LEFT;
    for group in &groups {
        let middle = x + group.len() as f64 * W / 2.0;
        let name = &group[0].place.workload;
        let _ = writeln!(
            svg.body,
            "<text x='{middle:.1}' y='{:.1}' font-size='11' transform='rotate(-38 {middle:.1} {:.1})'>{}</text>",
            TOP - 8.0,
            TOP - 8.0,
            escape(name)
        );
        for cell in *group {
            let best = cell
                .rows
                .iter()
                .map(|row| row.time_ns)
                .min()
                .unwrap_or(1)
                .max(1) as f64;
            let place = format!("{name}, memory {}", cell.place.capacity);
            for (index, policy) in policies.iter().enumerate() {
                let Some(row) = cell.row(policy) else {
                    continue;
                };
                let slow = row.time_ns as f64 / best;
                let y = TOP + index as f64 * H;
                let tip = format!(
                    "{policy}: {}x the fastest, {}x the oracle ({place})",
                    three(slow),
                    three(row.slowdown)
                );
                svg.rect(
                    x,
                    y,
                    W - 1.0,
                    H - 1.0,
                    &shade(slow.log2() / DARKEST.log2()),
                    &tip,
                );
                if slow <= 1.01 {
                    let _ = writeln!(
                        svg.body,
                        "<circle cx='{:.1}' cy='{:.1}' r='2.2' fill='#333'/>",
                        x + (W - 1.0) / 2.0,
                        y + (H - 1.0) / 2.0
                    );
                }
            }
            let y = TOP + (rows - 1.0) * H + 4.0;
            let slow = best / cell.oracle.time_ns.max(1) as f64;
            let tip = format!(
                "the fastest policy is {}x the oracle ({place})",
                three(slow)
            );
            svg.rect(
                x,
                y,
                W - 1.0,
                H - 1.0,
                &shade(slow.log2() / DARKEST.log2()),
                &tip,
            );
            let (tx, ty) = (x + W / 2.0 + 3.0, y + H + 27.0);
            let _ = writeln!(
                svg.body,
                "<text x='{tx:.1}' y='{ty:.1}' font-size='9' transform='rotate(-90 {tx:.1} {ty:.1})'>{}</text>",
                cell.place.capacity
            );
            x += W;
        }
        x += GAP;
    }
    for (index, policy) in policies.iter().enumerate() {
        let y = TOP + index as f64 * H + 12.0;
        svg.text(LEFT - 6.0, y, 11.0, Anchor::End, policy);
    }
    let y = TOP + (rows - 1.0) * H + 16.0;
    svg.text(LEFT - 6.0, y, 11.0, Anchor::End, "fastest / oracle");
    let y = height - 22.0;
    for step in 0..=60 {
        let part = f64::from(step) / 60.0;
        svg.rect(
            LEFT + f64::from(step) * 4.0,
            y - 12.0,
            4.0,
            10.0,
            &shade(part),
            "",
        );
    }
    for (slow, label) in [
        (1.0_f64, "1x"),
        (2.0, "2x"),
        (4.0, "4x"),
        (8.0, "8x or more"),
    ] {
        let x = LEFT + slow.log2() / DARKEST.log2() * 240.0;
        svg.text(x, y + 10.0, 10.0, Anchor::Middle, label);
    }
    svg.finish()
}

const COLORS: [(&str, &str); 4] = [
    ("none", "#888888"),
    ("51", "#e69f00"),
    ("always-max", "#d55e00"),
    ("auto", "#0072b2"),
];

/// Faults over time, a small picture for each of `cells`.
pub(super) fn timelines(cells: &[&Cell], title: &str) -> String {
    const W: f64 = 300.0;
    const H: f64 = 120.0;
    const COLUMNS: usize = 3;
    const JOINED: usize = Timeline::BUCKETS / 64;
    let rows = cells.len().div_ceil(COLUMNS) as f64;
    let mut svg = Svg::new(COLUMNS as f64 * (W + 40.0) + 30.0, 74.0 + rows * (H + 56.0));
    svg.text(10.0, 20.0, 15.0, Anchor::Start, title);
    let mut x = 10.0;
    for (name, color) in COLORS {
        svg.line(&[(x, 40.0), (x + 24.0, 40.0)], color, 2.0);
        svg.text(x + 30.0, 44.0, 11.0, Anchor::Start, name);
        x += 110.0;
    }
    svg.text(
        x,
        44.0,
        11.0,
        Anchor::Start,
        "faults per ms of virtual time; each ends where its run ends",
    );
    for (index, cell) in cells.iter().enumerate() {
        let x0 = 50.0 + (index % COLUMNS) as f64 * (W + 40.0);
        let y0 = 84.0 + (index / COLUMNS) as f64 * (H + 56.0);
        let lines: Vec<(&str, Vec<(f64, f64)>)> = COLORS
            .iter()
            .filter_map(|(name, color)| {
                let row = cell.row(name)?;
                let t = row.timeline.as_ref()?;
                // At most 64 points: more are a smear.
                let ms = (t.bucket_ns * JOINED as u64) as f64 / 1e6;
                let mut points: Vec<(f64, f64)> = t
                    .faults
                    .chunks(JOINED)
                    .map(|faults| faults.iter().sum::<u64>() as f64 / ms)
                    .enumerate()
                    .map(|(i, rate)| ((i as f64 + 0.5) * ms, rate))
                    .collect();
                points.push((row.time_ns as f64 / 1e6, 0.0));
                Some((*color, points))
            })
            .collect();
        let all = || lines.iter().flat_map(|(_, points)| points);
        let most_x = all().map(|p| p.0).fold(1e-9, f64::max);
        let most_y = all().map(|p| p.1).fold(1e-9, f64::max);
        svg.text(x0, y0 - 8.0, 12.0, Anchor::Start, &cell.place.workload);
        svg.line(&[(x0, y0), (x0, y0 + H), (x0 + W, y0 + H)], "#999", 1.0);
        svg.text(x0 - 4.0, y0 + 9.0, 9.0, Anchor::End, &three(most_y));
        svg.text(x0 - 4.0, y0 + H, 9.0, Anchor::End, "0");
        svg.text(
            x0 + W,
            y0 + H + 13.0,
            9.0,
            Anchor::End,
            &format!("{} ms", three(most_x)),
        );
        for (color, points) in lines {
            let scaled: Vec<(f64, f64)> = points
                .iter()
                .map(|(x, y)| (x0 + x / most_x * W, y0 + H - y / most_y * H))
                .collect();
            svg.line(&scaled, color, 1.4);
        }
    }
    svg.finish()
}

/// Bars of each policy's standing.
pub(super) fn bars(standings: &[super::verdict::Standing], title: &str) -> String {
    const H: f64 = 20.0;
    const LEFT: f64 = 130.0;
    const W: f64 = 520.0;
    let mut svg = Svg::new(LEFT + W + 90.0, 60.0 + standings.len() as f64 * H);
    svg.text(10.0, 20.0, 15.0, Anchor::Start, title);
    let most = standings.iter().map(|s| s.to_oracle).fold(1.0, f64::max);
    for (index, s) in standings.iter().enumerate() {
        let y = 36.0 + index as f64 * H;
        let color = if s.policy == Choice::AUTO.to_string() {
            "#0072b2"
        } else if s.peer {
            "#bbbbbb"
        } else {
            "#e69f00"
        };
        let tip = format!("{}: {}x the oracle", s.policy, three(s.to_oracle));
        svg.text(LEFT - 6.0, y + 13.0, 11.0, Anchor::End, &s.policy);
        svg.rect(LEFT, y, s.to_oracle / most * W, H - 4.0, color, &tip);
        svg.text(
            LEFT + s.to_oracle / most * W + 5.0,
            y + 13.0,
            11.0,
            Anchor::Start,
            &three(s.to_oracle),
        );
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_go_from_pale_to_dark() {
        assert_eq!(shade(0.0), "#ffffe5");
        assert_eq!(shade(0.5), "#fd8d3c");
        assert_eq!(shade(1.0), "#5a0026");
        assert_eq!(shade(f64::INFINITY), shade(1.0));
    }

    #[test]
    fn names_cannot_break_a_picture() {
        assert_eq!(escape("a<b & \"c\""), "a&lt;b &amp; &quot;c&quot;");
    }
}
