// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which workload, at which size: `NAME[:KEY=VALUE,…][+NAME…]`.

use std::{fmt, fmt::Write as _, path::Path, str::FromStr};

use anyhow::Context;

use super::{Kind, KINDS};
use crate::{record::Recorder, trace::Trace};

/// One workload with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Phase {
    kind: usize,
    set: Vec<(String, String)>,
}

/// Workloads that run one after the other in one space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    phases: Vec<Phase>,
}

/// A specification that means nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpecError {
    /// No workload has the name.
    #[error("there is no workload '{0}'; there are: {names}", names = names())]
    Name(String),
    /// Not `key=value`.
    #[error(
        "'{0}' is not KEY=VALUE; a workload is NAME[:KEY=VALUE,…], e.g. stencil:mib=64,seed=2"
    )]
    Setting(String),
    /// The workload has no such parameter.
    #[error("{workload} has no parameter '{key}'; it has: {has}")]
    Key {
        /// Which workload.
        workload: &'static str,
        /// What was given.
        key: String,
        /// What it has.
        has: String,
    },
    /// Not a number that the parameter may be.
    #[error("{key}={value}: {key} is a whole number from {least} to {most}")]
    Value {
        /// The parameter.
        key: String,
        /// What was given.
        value: String,
        /// The least it may be.
        least: u64,
        /// The most it may be.
        most: u64,
    },
    /// Given twice.
    #[error("'{0}' is given twice")]
    Twice(String),
}

fn names() -> String {
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    names.join(", ")
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let phases = text
            .split('+')
            .map(|phase| phase.trim().parse())
            .collect::<Result<_, _>>()?;
        Ok(Self { phases })
    }
}

impl FromStr for Phase {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (name, settings) = text.split_once(':').unwrap_or((text, ""));
        let (index, kind) = KINDS
            .iter()
            .enumerate()
            .find(|(_, kind)| kind.name == name)
            .ok_or_else(|| SpecError::Name(name.to_owned()))?;
        let mut set: Vec<(String, String)> = Vec::new();
        for setting in settings.split(',').filter(|s| !s.is_empty()) {
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| SpecError::Setting(setting.to_owned()))?;
            if set.iter().any(|(known, _)| known == key) {
                return Err(SpecError::Twice(key.to_owned()));
            }
            check(kind, key, value)?;
            set.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self { kind: index, set })
    }
}

fn check(kind: &Kind, key: &str, value: &str) -> Result<(), SpecError> {
    if key == "file" && kind.file.is_some() {
        return Ok(());
    }
    let Some(param) = kind.params.iter().find(|param| param.name == key) else {
        let mut has: Vec<&str> = kind.params.iter().map(|param| param.name).collect();
        has.extend(kind.file.map(|_| "file"));
        return Err(SpecError::Key {
            workload: kind.name,
            key: key.to_owned(),
            has: has.join(", "),
        });
    };
    match value.parse::<u64>() {
        Ok(number) if (param.least..=param.most).contains(&number) => Ok(()),
        _ => Err(SpecError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            least: param.least,
            most: param.most,
        }),
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, phase) in self.phases.iter().enumerate() {
            if index > 0 {
                f.write_str("+")?;
            }
            f.write_str(KINDS[phase.kind].name)?;
            for (at, (key, value)) in phase.set.iter().enumerate() {
                write!(f, "{}{key}={value}", if at == 0 { ":" } else { "," })?;
            }
        }
        Ok(())
    }
}

/// The settings of a workload that runs.
#[derive(Debug)]
pub(crate) struct Values<'a> {
    kind: &'a Kind,
    set: &'a [(String, String)],
}

impl Values<'_> {
    fn given(&self, name: &str) -> Option<&str> {
        self.set
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Parameter `name`, as set or by default. Zero for one that the kind does not have.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.number(name)
            .or_else(|| Some(self.kind.params.iter().find(|p| p.name == name)?.default))
            .unwrap_or_default()
    }

    /// Parameter `name`, if it was set.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.given(name)?.parse().ok()
    }

    /// As [`get`](Self::get), as a size of memory.
    pub(crate) fn size(&self, name: &str) -> usize {
        self.get(name) as usize
    }

    /// The file, if one was given.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.given("file").map(Path::new)
    }
}

/// Runs the workload and records it.
///
/// # Errors
///
/// When it becomes too large, or a file is not what it should be.
pub(crate) fn record(spec: &Spec, window: usize) -> anyhow::Result<Trace> {
    let mut recorder = Recorder::new(window);
    for phase in &spec.phases {
        let kind = &KINDS[phase.kind];
        recorder.barrier();
        (kind.run)(
            &Values {
                kind,
                set: &phase.set,
            },
            &mut recorder,
        )
        .with_context(|| format!("workload {}", kind.name))?;
    }
    Ok(recorder.finish(spec.to_string())?)
}

/// All workloads and their parameters, for `vfetch-sim workloads`.
pub(crate) fn list() -> String {
    let mut text = String::new();
    for kind in KINDS {
        let _ = writeln!(text, "{:<10} {}", kind.name, kind.about);
        for p in kind.params {
            let _ = writeln!(text, "    {:<10} {} ({})", p.name, p.about, p.default);
        }
        if let Some(about) = kind.file {
            let _ = writeln!(text, "    {:<10} {about}", "file");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Spec>().unwrap_err().to_string()
    }

    #[test]
    fn specifications_are_read_and_written_alike() {
        for text in [
            "stencil",
            "bfs:mib=8,seed=3",
            "triad:mib=4+gather:seed=2+triad",
        ] {
            assert_eq!(text.parse::<Spec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn errors_say_what_there_is() {
        assert!(error("stencl").contains("no workload 'stencl'; there are: stencil, "));
        assert!(error("stencil:mib").contains("'mib' is not KEY=VALUE"));
        assert!(error("stencil:size=3").contains("stencil has no parameter 'size'; it has: mib"));
        assert!(error("stencil:file=x").contains("no parameter 'file'"));
        assert!(error("stencil:mib=0").contains("mib is a whole number from 1 to 65536"));
        assert!(error("stencil:mib=big").contains("mib=big: mib is a whole number"));
        assert!(error("stencil:mib=1,mib=2").contains("given twice"));
        assert!(error("triad+").contains("no workload ''"));
    }

    #[test]
    fn phases_have_arrays_of_their_own_and_wait_for_each_other() {
        let one = record(&"triad:mib=1".parse().unwrap(), 64).unwrap();
        let two = record(&"triad:mib=1+triad:mib=1".parse().unwrap(), 64).unwrap();
        assert!(two.pages >= 2 * one.pages);
        assert_eq!(two.working_set(), 2 * one.working_set());
        assert!(two.items[one.items.len()].barrier);
    }
}
