// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Many workloads, capacities and links: a file says which, and all are run.

use std::{
    path::Path,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Mutex, PoisonError,
    },
};

use anyhow::{bail, Context};
use serde::{Deserialize, Serialize};

use crate::{
    experiment::{Cell, Load},
    machine::config::Costs,
    policy::Choice,
    trace::Builder,
    workload::{self, Spec},
};

/// What a matrix file says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Matrix {
    /// What it is called in reports.
    pub(crate) name: String,
    /// Memory, as shares of the working set.
    pub(crate) capacities: Vec<f64>,
    /// Links, in MB/s.
    pub(crate) links: Vec<u64>,
    /// As `--window`.
    #[serde(default = "window")]
    pub(crate) window: usize,
    /// What else differs from the usual costs.
    #[serde(default)]
    pub(crate) costs: Costs,
    pub(crate) workload: Vec<Workload>,
}

/// A workload of a matrix.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Workload {
    pub(crate) name: String,
    /// What its functions run.
    pub(crate) tenants: Vec<String>,
    /// Policies of which one is expected to be the best; none if nothing is expected.
    #[serde(default)]
    pub(crate) expect: Vec<String>,
}

fn window() -> usize {
    Builder::WINDOW
}

impl Matrix {
    /// Reads and checks a matrix file.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and where.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "cannot read the matrix '{}'; tools/vfetch-sim/matrix has some",
                path.display()
            )
        })?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let matrix: Self = toml::from_str(text)?;
        if matrix.capacities.is_empty() || matrix.links.is_empty() || matrix.workload.is_empty() {
            bail!("a matrix needs at least one capacity, link and workload");
        }
        for capacity in &matrix.capacities {
            if !(0.01..=100.0).contains(capacity) {
                bail!("capacity {capacity} is not a share from 0.01 to 100");
            }
        }
        if matrix.links.contains(&0) || matrix.window == 0 {
            bail!("links and the window are at least 1");
        }
        let mut names = std::collections::BTreeSet::new();
        for workload in &matrix.workload {
            let name = &workload.name;
            if !names.insert(name) {
                bail!("two workloads are called '{name}'");
            }
            if workload.tenants.is_empty() {
                bail!("workload '{name}' has no tenants");
            }
            workload.specs()?;
            for policy in &workload.expect {
                policy
                    .parse::<Choice>()
                    .with_context(|| format!("workload '{name}', expect"))?;
            }
        }
        Ok(matrix)
    }

    /// How many runs it is.
    pub(crate) fn runs(&self, policies: usize) -> usize {
        self.workload.len() * self.capacities.len() * self.links.len() * policies
    }

    /// Runs all of it with `jobs` threads, a workload each; `done` is called after each run. Cells are in the order of the file, whatever the
    /// threads do.
    ///
    /// # Errors
    ///
    /// The first of a workload that cannot be recorded.
    pub(crate) fn run(
        &self,
        policies: &[Choice],
        measure: bool,
        jobs: usize,
        done: impl Fn(&str) + Sync,
    ) -> anyhow::Result<Vec<Cell>> {
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<Option<anyhow::Result<Vec<Cell>>>>> =
            Mutex::new(self.workload.iter().map(|_| None).collect());
        std::thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, self.workload.len()) {
                scope.spawn(|| loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(workload) = self.workload.get(index) else {
                        break;
                    };
                    let cells = self
                        .run_workload(workload, policies, measure, &done)
                        .with_context(|| format!("workload '{}'", workload.name));
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results[index] = Some(cells);
                });
            }
        });
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut cells = Vec::new();
        for result in results.into_iter().flatten() {
            cells.extend(result?);
        }
        Ok(cells)
    }

    fn run_workload(
        &self,
        workload: &Workload,
        policies: &[Choice],
        measure: bool,
        done: &(impl Fn(&str) + Sync),
    ) -> anyhow::Result<Vec<Cell>> {
        let traces = workload
            .specs()?
            .iter()
            .map(|spec| workload::record(spec, self.window))
            .collect::<anyhow::Result<_>>()?;
        let mut load = Load::new(workload.name.clone(), traces);
        let mut cells = Vec::new();
        for link in &self.links {
            let costs = Costs {
                megabytes_per_s: *link,
                ..self.costs
            };
            for capacity in &self.capacities {
                cells.push(Cell::run(
                    &mut load,
                    *capacity,
                    &costs,
                    policies,
                    measure,
                    || done(&workload.name),
                )?);
            }
        }
        Ok(cells)
    }
}

impl Workload {
    fn specs(&self) -> anyhow::Result<Vec<Spec>> {
        self.tenants
            .iter()
            .map(|text| {
                text.parse()
                    .with_context(|| format!("workload '{}', tenant '{text}'", self.name))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = 'small'\ncapacities = [0.5, 1.25]\nlinks = [8000]\n\
        [[workload]]\nname = 'one'\ntenants = ['triad:mib=2']\nexpect = ['51']\n\
        [[workload]]\nname = 'two'\ntenants = ['cyclic:mib=2', 'kof512:mib=1']\n";

    fn error(text: &str) -> String {
        format!("{:#}", Matrix::parse(text).unwrap_err())
    }

    #[test]
    fn a_matrix_runs_the_same_whatever_the_threads_do() {
        let matrix = Matrix::parse(SMALL).unwrap();
        let policies = [Choice::NONE, Choice::Fixed(51), Choice::AUTO];
        assert_eq!(matrix.runs(policies.len()), 12);
        let count = AtomicUsize::new(0);
        let run = |jobs| {
            let cells = matrix
                .run(&policies, false, jobs, |_| {
                    count.fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
            serde_json::to_string(&cells).unwrap()
        };
        assert_eq!(run(1), run(4));
        assert_eq!(count.into_inner(), 24);
    }

    #[test]
    fn errors_say_where() {
        assert!(error(&SMALL.replace("0.5", "0")).contains("capacity 0 is not a share"));
        assert!(error(&SMALL.replace("'two'", "'one'")).contains("two workloads are called 'one'"));
        assert!(error(&SMALL.replace("triad:mib=2", "triad:x=2"))
            .contains("workload 'one', tenant 'triad:x=2': triad has no parameter 'x'"));
        assert!(error(&SMALL.replace("['51']", "['fast']")).contains("expect: there is no policy"));
        assert!(error(&SMALL.replace("links", "link")).contains("link"));
        assert!(error(&SMALL.replace("[8000]", "[]")).contains("at least one"));
    }

    #[test]
    fn the_committed_matrices_are_well_formed_and_share_no_seed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("matrix");
        let read = |name: &str| Matrix::read(&folder.join(name)).unwrap();
        let (tuning, report) = (read("tuning.toml"), read("report.toml"));
        let tenants = |m: &Matrix| -> std::collections::BTreeSet<String> {
            m.workload.iter().flat_map(|w| w.tenants.clone()).collect()
        };
        assert!(tenants(&tuning).is_disjoint(&tenants(&report)));
        let names =
            |m: &Matrix| -> Vec<String> { m.workload.iter().map(|w| w.name.clone()).collect() };
        assert_eq!(names(&tuning), names(&report));
        assert_eq!(tuning.capacities, report.capacities);
        read("quick.toml");
    }
}
