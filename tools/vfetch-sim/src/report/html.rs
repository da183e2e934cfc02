// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A report of one file: pictures and tables.

use std::{fmt::Write as _, fs, io, path::Path};

use super::{
    svg::{self, escape},
    three,
    verdict::Verdict,
};
use crate::{experiment::Cell, matrix::Matrix};

const STYLE: &str = "\
body{font:14px/1.45 'DejaVu Sans',Helvetica,Arial,sans-serif;margin:2em auto;max-width:1500px;padding:0 1em;color:#222;background:#fff}\
h1{font-size:22px}h2{font-size:17px;margin-top:2em}table{border-collapse:collapse;margin:1em 0}\
td,th{padding:2px 10px 2px 0;text-align:right;border-bottom:1px solid #eee;white-space:nowrap}\
td:first-child,th:first-child,.l{text-align:left}.bad{color:#b00020}.wide{overflow-x:auto}";

/// Writes `report.html` and its pictures, also as files of their own, into `folder`.
///
/// # Errors
///
/// When a file cannot be written.
pub(crate) fn write(
    folder: &Path,
    matrix: &Matrix,
    cells: &[Cell],
    verdict: &Verdict,
) -> io::Result<()> {
    let mut html = format!(
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>vfetch-sim: {name}</title>\
         <style>{STYLE}</style></head><body>\n<h1>vfetch-sim: {name}</h1>\n<p>{summary}</p>\n",
        name = escape(&matrix.name),
        summary = escape(&super::summary(verdict)).replace('\n', "<br>\n"),
    );
    let mut picture = |name: &str, svg: String| -> io::Result<()> {
        fs::write(folder.join(format!("{name}.svg")), &svg)?;
        let _ = writeln!(html, "<div class='wide'>{svg}</div>");
        Ok(())
    };
    picture(
        "standings",
        svg::bars(
            &verdict.standings,
            "Run time over the oracle's, geometric mean over all cells (grey: peers)",
        ),
    )?;
    for link in &matrix.links {
        let on_link = |cell: &&Cell| cell.place.link_megabytes_per_s == *link;
        let here: Vec<&Cell> = cells.iter().filter(on_link).collect();
        let rate = three(*link as f64 / 1000.0);
        picture(
            &format!("heatmap-{link}"),
            svg::heat_map(
                &here,
                &format!("Policies by workload and memory, link of {rate} GB/s"),
            ),
        )?;
    }
    if let (Some(link), Some(capacity)) = (matrix.links.first(), middle(&matrix.capacities)) {
        let here: Vec<&Cell> = cells
            .iter()
            .filter(|c| {
                c.place.link_megabytes_per_s == *link && (c.place.capacity - capacity).abs() < 1e-9
            })
            .collect();
        let rate = three(*link as f64 / 1000.0);
        picture(
            "timelines",
            svg::timelines(
                &here,
                &format!(
                    "Faults over time, memory {capacity} of the working set, link of {rate} GB/s"
                ),
            ),
        )?;
    }
    tables(&mut html, cells, verdict);
    html.push_str("</body></html>\n");
    fs::write(folder.join("report.html"), html)
}

fn middle(values: &[f64]) -> Option<f64> {
    values.get(values.len() / 2).copied()
}

fn tables(html: &mut String, cells: &[Cell], verdict: &Verdict) {
    html.push_str(
        "<h2>Cells</h2><table><tr><th>workload</th><th>memory</th><th>link</th><th class='l'>best fixed</th>\
         <th class='l'>worst fixed</th><th>spread</th><th class='l'>best peer</th><th>auto, gap</th>\
         <th>auto / oracle</th><th class='l'>why</th></tr>\n",
    );
    for c in &verdict.cells {
        let bad = if c.why.is_some() { " class='bad'" } else { "" };
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class='l'>{}</td><td class='l'>{}</td><td>{}</td>\
             <td class='l'>{}</td><td{bad}>{}</td><td>{}</td><td class='l'>{}</td></tr>",
            escape(&c.workload),
            c.capacity,
            c.link_megabytes_per_s,
            c.best_fixed,
            c.worst_fixed,
            three(c.spread),
            c.best_peer.as_deref().unwrap_or("-"),
            c.auto_gap.map_or("-".into(), |gap| format!("{:+.1} %", gap * 100.0)),
            c.auto_to_oracle.map_or("-".into(), three),
            escape(c.why.as_deref().unwrap_or("")),
        );
    }
    html.push_str("</table>\n<h2>Runs</h2>\n");
    for cell in cells {
        let _ = writeln!(
            html,
            "<details><summary>{}, memory {}, link {} MB/s</summary><pre>{}</pre></details>",
            escape(&cell.place.workload),
            cell.place.capacity,
            cell.place.link_megabytes_per_s,
            escape(&super::cell_table(cell))
        );
    }
}
