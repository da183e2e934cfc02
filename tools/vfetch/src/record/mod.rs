// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch record`: what a function's memory manager sees, for the simulator and for people.

mod touches;
mod vft;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    process::{Child, Command},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};

use anyhow::{bail, Context, Result};
use libvfetch::{Host, Records, Space, Trace, TraceKind};
use serde::Serialize;
use signal_hook::{consts::SIGINT, consts::SIGTERM, flag};

use crate::{
    cli::RecordArgs,
    output::{Output, WholeFile},
    policy::Restore,
    units::{bytes, grouped},
};
use touches::Touches;

/// How long a look at whether it is over may wait for records.
const PATIENCE: Duration = Duration::from_millis(100);
/// Records that are taken at once.
const ROOM: usize = 4096;

/// What was recorded.
#[derive(Debug, Serialize)]
struct Summary {
    node: u32,
    records: u64,
    /// Records that the driver had no room for.
    lost: u64,
    device_touches: usize,
    host_touches: usize,
    spaces: usize,
    pages: u64,
    file: Option<String>,
    file_bytes: Option<u64>,
}

impl Summary {
    fn show(&self) -> String {
        let mut text = format!(
            "vfetch{}: {} records; {} faults of the device and {} of the host in {} spaces\n",
            self.node,
            grouped(self.records),
            grouped(self.device_touches as u64),
            grouped(self.host_touches as u64),
            self.spaces
        );
        if let (Some(file), Some(size)) = (&self.file, self.file_bytes) {
            text += &format!(
                "{file}: a trace of {} pages, {}; 'vfetch-sim replay {file}' runs it\n",
                grouped(self.pages),
                bytes(size)
            );
        }
        text
    }
}

/// Where records go as they come.
struct Recorder {
    touches: Touches,
    events: Option<BufWriter<Box<dyn Write>>>,
    records: u64,
    lost: u64,
}

impl Recorder {
    fn new(events: Option<&Path>) -> Result<Self> {
        let out: Option<Box<dyn Write>> = match events {
            None => None,
            Some(path) if path == Path::new("-") => Some(Box::new(io::stdout())),
            Some(path) => {
                let file = File::create(path)
                    .with_context(|| format!("cannot create {}", path.display()))?;
                Some(Box::new(file))
            }
        };
        Ok(Self {
            touches: Touches::default(),
            events: out.map(BufWriter::new),
            records: 0,
            lost: 0,
        })
    }

    fn take(&mut self, some: &Records) -> Result<()> {
        if !some.timed_out {
            self.lost = some.lost;
        }
        self.records += some.records.len() as u64;
        for record in &some.records {
            self.touches.add(record)?;
            if let Some(events) = &mut self.events {
                serde_json::to_writer(&mut *events, record).map_err(io::Error::from)?;
                events.write_all(b"\n")?;
            }
        }
        if let (true, Some(events)) = (some.timed_out, &mut self.events) {
            // Nothing is going on: who watches shall see what went on.
            events.flush()?;
        }
        Ok(())
    }
}

/// A command that ends with this value.
struct Running(Option<Child>);

impl Running {
    fn start(words: &[String]) -> Result<Self> {
        let Some((program, rest)) = words.split_first() else {
            return Ok(Self(None));
        };
        let child = Command::new(program)
            .args(rest)
            .spawn()
            .with_context(|| format!("cannot run '{program}'"))?;
        Ok(Self(Some(child)))
    }

    /// Whether there was one and it has ended; an error when it failed.
    fn has_ended(&mut self) -> Result<bool> {
        let Some(child) = &mut self.0 else {
            return Ok(false);
        };
        match child.try_wait().context("waiting for the command")? {
            None => Ok(false),
            Some(status) => {
                self.0 = None;
                if !status.success() {
                    bail!("the command failed ({status}); nothing was written");
                }
                Ok(true)
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended just now.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Reads until `over`, and then what is left.
fn follow(
    trace: &Trace<'_>,
    recorder: &mut Recorder,
    mut over: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let mut stopped = false;
    loop {
        if !stopped && over()? {
            trace.stop()?;
            stopped = true;
        }
        match trace.read(ROOM, Some(PATIENCE)) {
            Ok(some) => {
                recorder.take(&some)?;
                if some.records.is_empty() && !some.timed_out {
                    // That was all; or the function is gone.
                    return Ok(());
                }
            }
            // A signal; whether it ends this is looked at above.
            Err(error) if error.errno() == Some(libvfetch::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes the simulator's file; how many pages it is of, and how many bytes it has.
fn save(path: &Path, name: &str, touches: &Touches) -> Result<(u64, u64)> {
    let (pages, all) = touches.laid_out()?;
    let mut file = Counted {
        to: BufWriter::new(WholeFile::create(path)?),
        bytes: 0,
    };
    vft::write(&mut file, name, pages, all)
        .with_context(|| format!("writing {}", path.display()))?;
    let Counted { to, bytes } = file;
    let whole = to.into_inner().map_err(io::IntoInnerError::into_error)?;
    whole.finish()?;
    Ok((pages, bytes))
}

/// Counts what is written.
struct Counted<W> {
    to: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.to.write(data)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

pub(crate) fn run(host: &Host, args: &RecordArgs, out: Output) -> Result<()> {
    let space: Space = args.target.open(host)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, interrupted.clone()).context("cannot catch signals")?;
    }
    let kinds: &[TraceKind] = if args.events.is_some() {
        &TraceKind::ALL
    } else {
        &[TraceKind::DeviceFaults, TraceKind::HostFault]
    };
    let mut recorder = Recorder::new(args.events.as_deref())?;
    let trace = space.trace(kinds, args.records)?;
    let restore = Restore::of(&space)?;
    if let Some(choice) = args.policy {
        space.set_policy(choice.apply(space.policy()?))?;
    }
    let mut command = Running::start(&args.command)?;
    let start = Instant::now();
    follow(&trace, &mut recorder, || {
        let late = args.time.is_some_and(|time| start.elapsed() >= time);
        Ok(late || interrupted.load(Ordering::Relaxed) || command.has_ended()?)
    })?;
    drop(command);
    drop(restore);
    if let Some(events) = &mut recorder.events {
        events.flush()?;
    }
    let (device_touches, host_touches) = recorder.touches.count();
    let mut summary = Summary {
        node: space.node(),
        records: recorder.records,
        lost: recorder.lost,
        device_touches,
        host_touches,
        spaces: recorder.touches.spaces(),
        pages: 0,
        file: None,
        file_bytes: None,
    };
    if let Some(path) = &args.output {
        if recorder.touches.is_empty() {
            bail!(
                "nothing faulted on vfetch{} meanwhile: there is nothing to write",
                space.node()
            );
        }
        let mut name = format!("vfetch{}", space.node());
        if recorder.lost > 0 {
            name += &format!(", {} records lost", recorder.lost);
        }
        let (pages, size) = save(path, &name, &recorder.touches)?;
        summary.pages = pages;
        summary.file = Some(path.display().to_string());
        summary.file_bytes = Some(size);
    }
    if recorder.lost > 0 {
        eprintln!(
            "vfetch: {} records were lost: the driver had no room for them; --records gives it more",
            recorder.lost
        );
    }
    if args.events.as_deref() == Some(Path::new("-")) {
        return Ok(());
    }
    out.print(&summary, Summary::show)?;
    Ok(())
}
