// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch read` and `vfetch write`.

use std::{
    fmt::Write as _,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, IsTerminal, Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{bail, Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use libvfetch::{Host, PAGE_BYTES};
use serde::Serialize;

use crate::{
    cli::{ReadArgs, SpaceArgs, WriteArgs},
    exit::Mismatch,
    memory::{Buffer, Memory},
    output::{Output, WholeFile},
    pattern::{check_zeros, Pattern},
    units,
};

/// Transfers that take longer get a progress bar.
const LONG: Duration = Duration::from_secs(1);

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    function: String,
    direction: &'static str,
    offset: u64,
    bytes: u64,
    requests: u64,
    /// In read and write, without checks and files.
    elapsed_ns: f64,
    megabytes_per_s: f64,
    /// Of the link's rate; absent where nothing was transferred.
    link_share: Option<f64>,
    /// What the data was compared with, and was equal to.
    verified: Option<&'static str>,
}

impl Report {
    fn new(
        memory: &dyn Memory,
        direction: &'static str,
        offset: u64,
        clock: &Clock,
    ) -> Result<Self> {
        let elapsed_ns = units::nanoseconds(clock.elapsed);
        let megabytes_per_s = units::megabytes_per_s(clock.bytes, elapsed_ns);
        let link = f64::from(memory.info()?.link_bytes_per_us.max(1));
        Ok(Self {
            function: memory.name(),
            direction,
            offset,
            bytes: clock.bytes,
            requests: clock.requests,
            elapsed_ns,
            megabytes_per_s,
            link_share: Some(megabytes_per_s / link),
            verified: None,
        })
    }

    fn show(&self) -> String {
        let mut text = format!(
            "{}: {} {} at offset {} in {} requests: {}, {}",
            self.function,
            self.direction,
            units::bytes(self.bytes),
            self.offset,
            self.requests,
            units::time(self.elapsed_ns),
            units::rate(self.megabytes_per_s),
        );
        if let Some(share) = self.link_share {
            let _ = write!(text, ", {} of link", units::percent(share));
        }
        if let Some(with) = self.verified {
            let _ = write!(text, "\n{}: {with}", self.function);
        }
        text.push('\n');
        text
    }
}

/// Sums up the time of requests.
#[derive(Debug, Default)]
struct Clock {
    elapsed: Duration,
    bytes: u64,
    requests: u64,
}

impl Clock {
    fn time(
        &mut self,
        bytes: usize,
        request: impl FnOnce() -> libvfetch::Result<()>,
    ) -> libvfetch::Result<()> {
        let start = Instant::now();
        request()?;
        self.elapsed += start.elapsed();
        self.bytes += bytes as u64;
        self.requests += 1;
        Ok(())
    }
}

/// A bar on stderr, when that is a terminal and the transfer takes long.
struct Progress {
    bar: ProgressBar,
    /// Until when it is not shown; absent once it is, or never will be.
    from: Option<Instant>,
}

impl Progress {
    fn new(what: &str, bytes: Option<u64>, out: Output) -> Self {
        let (bar, template) = match bytes {
            Some(n) => (
                ProgressBar::with_draw_target(Some(n), ProgressDrawTarget::hidden()),
                "{msg} {wide_bar} {bytes}/{total_bytes} {eta}",
            ),
            None => (
                ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
                "{msg} {spinner} {bytes}",
            ),
        };
        // The template is a constant; without it the bar has its default look.
        let bar = ProgressStyle::with_template(template)
            .map(|s| bar.clone().with_style(s))
            .unwrap_or(bar);
        let shown = !out.is_json() && io::stderr().is_terminal();
        Self {
            bar: bar.with_message(what.to_owned()),
            from: shown.then(|| Instant::now() + LONG),
        }
    }

    /// `bytes` more are done.
    fn inc(&mut self, bytes: usize) {
        self.bar.inc(bytes as u64);
        if self.from.is_some_and(|from| Instant::now() >= from) {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.from = None;
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// The page boundary at or above `bytes`.
fn round_up(bytes: u64) -> Result<u64> {
    bytes
        .checked_next_multiple_of(PAGE_BYTES)
        .context("offset and length are too large")
}

/// The blocks of `offset..offset + length`.
fn blocks(offset: u64, length: u64, block: usize) -> impl Iterator<Item = (u64, usize)> {
    let step = block as u64;
    (0..length.div_ceil(step)).map(move |i| {
        let done = i * step;
        let n = usize::try_from(length - done).map_or(block, |left| left.min(block));
        (offset + done, n)
    })
}

/// What `read` expects.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Anything,
    Zeros,
    Pattern(Pattern),
}

impl Expected {
    fn check(self, data: &[u8], offset: u64, place: &str) -> Result<(), Mismatch> {
        match self {
            Self::Anything => Ok(()),
            Self::Zeros => check_zeros(data, offset, place),
            Self::Pattern(pattern) => pattern.check(data, offset, place),
        }
    }

    fn words(self) -> Option<&'static str> {
        match self {
            Self::Anything => None,
            Self::Zeros => Some("all zeros, as a new space must be"),
            Self::Pattern(_) => Some("verified: the pattern is there"),
        }
    }
}

/// What is told of a part that is not inside the space.
fn beyond(offset: u64, length: Option<u64>, size: u64) -> String {
    let part = length.map_or(String::new(), |l| format!("a --length of {l} from "));
    format!("{part}offset {offset} is beyond the space's end at {size}: give a larger --size, or less of the rest")
}

/// Sizes the space and says which part is meant: offset and length.
fn read_part(memory: &dyn Memory, args: &SpaceArgs) -> Result<u64> {
    let size = match (args.size, memory.info()?.space_bytes, args.length) {
        (Some(size), ..) => {
            memory.set_size(size)?;
            size
        }
        (None, 0, Some(length)) => {
            let size = round_up(
                args.offset
                    .checked_add(length)
                    .context("offset and length are too large")?,
            )?;
            memory.set_size(size)?;
            size
        }
        (None, 0, None) => bail!("a new space is empty: give it a --size, e.g. --size 16m"),
        (None, size, _) => size,
    };
    match size.checked_sub(args.offset) {
        Some(left) if left > 0 && args.length.is_none_or(|l| l <= left) => {
            Ok(args.length.unwrap_or(left))
        }
        _ => bail!(beyond(args.offset, args.length, size)),
    }
}

fn read_from(
    memory: &dyn Memory,
    args: &ReadArgs,
    sink: &mut dyn Write,
    out: Output,
) -> Result<Report> {
    let SpaceArgs {
        offset,
        block_size,
        seed,
        ..
    } = args.space;
    let fresh = memory.info()?.space_bytes == 0;
    let length = read_part(memory, &args.space)?;
    let pattern = Pattern::new(seed);
    let expected = match (args.fill || args.verify, fresh) {
        (true, _) => Expected::Pattern(pattern),
        (false, true) => Expected::Zeros,
        (false, false) => Expected::Anything,
    };
    let place = memory.name();
    let mut buffer = Buffer::new(block_size);
    if args.fill {
        let mut bar = Progress::new("filling", Some(length), out);
        for (at, n) in blocks(offset, length, block_size) {
            let data = &mut buffer.slice_mut()[..n];
            pattern.fill(data, at);
            memory.write_all_at(data, at)?;
            bar.inc(n);
        }
        bar.finish();
    }
    let mut clock = Clock::default();
    let mut bar = Progress::new("reading", Some(length), out);
    for (at, n) in blocks(offset, length, block_size) {
        let data = &mut buffer.slice_mut()[..n];
        clock.time(n, || memory.read_exact_at(data, at))?;
        expected.check(data, at, &place)?;
        sink.write_all(data).context("cannot write the output")?;
        bar.inc(n);
    }
    bar.finish();
    sink.flush().context("cannot write the output")?;
    let mut report = Report::new(memory, "read", offset, &clock)?;
    report.verified = expected.words();
    if matches!(expected, Expected::Zeros) {
        report.link_share = None;
    }
    Ok(report)
}

/// `vfetch read`.
pub(crate) fn read(host: &Host, args: &ReadArgs, out: Output) -> Result<()> {
    let space = args.space.target.open(host)?;
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    if to_stdout && io::stdout().is_terminal() {
        bail!("binary data does not go to a terminal: pipe it, or name a file with --output");
    }
    let report = match &args.output {
        None => read_from(&space, args, &mut io::sink(), out)?,
        Some(_) if to_stdout => read_from(&space, args, &mut io::stdout().lock(), out)?,
        Some(path) => {
            let mut file = WholeFile::create(path)?;
            let report = read_from(&space, args, &mut file, out)?;
            file.finish()?;
            report
        }
    };
    if to_stdout {
        // The data has stdout.
        let text = if out.is_json() {
            serde_json::to_string(&report)? + "\n"
        } else {
            report.show()
        };
        eprint!("{text}");
        return Ok(());
    }
    out.print(&report, Report::show)?;
    Ok(())
}

/// Where `write` gets its data.
enum Source {
    Pattern(Pattern),
    Stream(Box<dyn Read>),
}

impl Source {
    /// Fills `buffer` with what belongs at `offset`; less only at the end.
    fn fill(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Pattern(pattern) => {
                pattern.fill(buffer, offset);
                Ok(buffer.len())
            }
            Self::Stream(stream) => {
                let mut done = 0;
                while done < buffer.len() {
                    match stream.read(&mut buffer[done..]) {
                        Ok(0) => break,
                        Ok(n) => done += n,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(done)
            }
        }
    }
}

/// Enough to tell, afterwards, whether a block is the one that was written.
fn fingerprint(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish()
}

/// Writes `length` bytes, or all there is. The space grows as needed unless it was given a size.
fn write_to(
    memory: &dyn Memory,
    args: &WriteArgs,
    source: &mut Source,
    length: Option<u64>,
    out: Output,
) -> Result<Report> {
    let SpaceArgs {
        offset,
        block_size,
        size,
        ..
    } = args.space;
    let mut room = memory.info()?.space_bytes;
    let grows = size.is_none();
    if let Some(size) = size {
        if length.is_some_and(|l| offset.checked_add(l).is_none_or(|end| end > size)) {
            bail!(beyond(offset, length, size));
        }
        memory.set_size(size)?;
        room = size;
    } else if let Some(length) = length {
        let need = round_up(
            offset
                .checked_add(length)
                .context("offset and length are too large")?,
        )?;
        if need > room {
            memory.set_size(need)?;
            room = need;
        }
    }
    let mut buffer = Buffer::new(block_size);
    let mut clock = Clock::default();
    let mut written = Vec::new();
    let mut bar = Progress::new("writing", length, out);
    let mut at = offset;
    let end = length.map(|l| offset + l);
    loop {
        let want = match end {
            Some(end) => usize::try_from(end - at).map_or(block_size, |left| left.min(block_size)),
            None => block_size,
        };
        let data = &mut buffer.slice_mut()[..want];
        let n = source.fill(data, at).context("cannot read the input")?;
        if n == 0 {
            break;
        }
        let data = &data[..n];
        let next = at + n as u64;
        if next > room && grows {
            // Ahead, so that a long stream does not ask for each block.
            let more = round_up(next)?;
            let ahead = more.saturating_add(more - round_up(offset)?.min(more));
            room = match memory.set_size(ahead) {
                Ok(()) => ahead,
                Err(libvfetch::Error::NoRoom { .. }) => {
                    memory.set_size(more)?;
                    more
                }
                Err(error) => return Err(error.into()),
            };
        }
        clock.time(n, || memory.write_all_at(data, at))?;
        if args.verify {
            written.push((at, n, fingerprint(data)));
        }
        bar.inc(n);
        at = next;
    }
    bar.finish();
    if let Some(end) = end.filter(|end| at < *end) {
        bail!("the input ended {} bytes early", end - at);
    }
    if grows && length.is_none() && room > round_up(at)? {
        memory.set_size(round_up(at)?)?;
    }
    let mut report = Report::new(memory, "wrote", offset, &clock)?;
    if args.verify {
        read_back(memory, &written, source, &mut buffer, out)?;
        report.verified = Some("verified: read back, all is there");
    }
    Ok(report)
}

/// Compares what is in the space with what was `written`.
fn read_back(
    memory: &dyn Memory,
    written: &[(u64, usize, u64)],
    source: &Source,
    buffer: &mut Buffer,
    out: Output,
) -> Result<()> {
    let place = memory.name();
    let total = written.iter().map(|(_, n, _)| *n as u64).sum();
    let mut bar = Progress::new("verifying", Some(total), out);
    for &(at, n, expected) in written {
        let data = &mut buffer.slice_mut()[..n];
        memory.read_exact_at(data, at)?;
        if let Source::Pattern(pattern) = source {
            pattern.check(data, at, &place)?;
        }
        if fingerprint(data) != expected {
            return Err(Mismatch {
                place,
                offset: at,
                bytes: None,
                block: n,
            }
            .into());
        }
        bar.inc(n);
    }
    bar.finish();
    Ok(())
}

/// `vfetch write`.
pub(crate) fn write(host: &Host, args: &WriteArgs, out: Output) -> Result<()> {
    let space = args.space.target.open(host)?;
    let (mut source, length) = match &args.input {
        None => {
            let left = args
                .space
                .size
                .unwrap_or(space.info()?.space_bytes)
                .checked_sub(args.space.offset);
            let length = args.space.length.or(left.filter(|l| *l > 0));
            let Some(length) = length else {
                bail!(
                    "how much? Give --length or --size for a test pattern, or --input for a file"
                );
            };
            (Source::Pattern(Pattern::new(args.space.seed)), Some(length))
        }
        Some(path) if path == Path::new("-") => (
            Source::Stream(Box::new(io::stdin().lock())),
            args.space.length,
        ),
        Some(path) => {
            let file =
                File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            let meta = file
                .metadata()
                .with_context(|| format!("cannot look at {}", path.display()))?;
            if meta.is_dir() {
                bail!(
                    "{} is a folder; a tar of it can be piped to --input -",
                    path.display()
                );
            }
            let length = args.space.length.or(meta.is_file().then_some(meta.len()));
            (Source::Stream(Box::new(file)), length)
        }
    };
    let report = write_to(&space, args, &mut source, length, out)?;
    out.print(&report, Report::show)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        memory::tests::Ram,
    };

    fn read_args(line: &str) -> ReadArgs {
        let words = format!("vfetch read 0 {line}");
        match Cli::try_parse_from(words.split_whitespace())
            .unwrap()
            .command
        {
            Command::Read(args) => args,
            _ => panic!("another command"),
        }
    }

    fn write_args(line: &str) -> WriteArgs {
        let words = format!("vfetch write 0 {line}");
        match Cli::try_parse_from(words.split_whitespace())
            .unwrap()
            .command
        {
            Command::Write(args) => args,
            _ => panic!("another command"),
        }
    }

    fn read_ram(ram: &Ram, line: &str) -> Result<(Report, Vec<u8>)> {
        let mut data = Vec::new();
        let report = read_from(ram, &read_args(line), &mut data, Output::new(true))?;
        Ok((report, data))
    }

    fn write_ram(
        ram: &Ram,
        line: &str,
        input: &'static [u8],
        length: Option<u64>,
    ) -> Result<Report> {
        let mut source = Source::Stream(Box::new(input));
        write_to(
            ram,
            &write_args(line),
            &mut source,
            length,
            Output::new(true),
        )
    }

    #[test]
    fn a_new_space_must_read_as_zeros() {
        let (report, data) = read_ram(&Ram::new(1 << 20), "--size 64k --block-size 4k").unwrap();
        assert_eq!(
            (report.bytes, report.requests, data),
            (65536, 16, vec![0; 65536])
        );
        let lying = Ram {
            flip: Some(5000),
            ..Ram::new(1 << 20)
        };
        let error = read_ram(&lying, "--size 64k").unwrap_err();
        assert_eq!(error.downcast_ref::<Mismatch>().unwrap().offset, 5000);
    }

    #[test]
    fn fill_is_checked_while_reading() {
        let line = "--size 64k --fill --block-size 3000 --offset 10";
        assert!(read_ram(&Ram::new(1 << 20), line).is_ok());
        let lying = Ram {
            flip: Some(60_000),
            ..Ram::new(1 << 20)
        };
        assert!(read_ram(&lying, line).unwrap_err().is::<Mismatch>());
    }

    #[test]
    fn a_length_alone_sizes_a_new_space_by_the_page() {
        let ram = Ram::new(1 << 20);
        let (report, _) = read_ram(&ram, "--offset 4090 --length 10").unwrap();
        assert_eq!((report.bytes, ram.bytes.lock().unwrap().len()), (10, 8192));
    }

    #[test]
    fn reading_nothing_and_beyond_the_end_are_refused_with_advice() {
        let empty = read_ram(&Ram::new(1 << 20), "").unwrap_err();
        assert!(empty.to_string().contains("--size"), "{empty}");
        let beyond = read_ram(&Ram::new(1 << 20), "--size 4k --offset 4k").unwrap_err();
        assert!(beyond.to_string().contains("--size"), "{beyond}");
        let across = read_ram(&Ram::new(1 << 20), "--size 4k --length 8k").unwrap_err();
        assert!(across.to_string().contains("--length"), "{across}");
    }

    #[test]
    fn a_stream_grows_the_space_to_what_it_needs() {
        static INPUT: [u8; 50_000] = [7; 50_000];
        let ram = Ram::new(60 << 10);
        let report = write_ram(&ram, "--verify --block-size 4k", &INPUT, None).unwrap();
        assert_eq!(
            (report.bytes, report.verified),
            (50_000, Some("verified: read back, all is there"))
        );
        assert_eq!(ram.bytes.lock().unwrap().len(), 53_248);
    }

    #[test]
    fn a_stream_that_does_not_fit_is_refused_for_room() {
        static INPUT: [u8; 50_000] = [7; 50_000];
        let error = write_ram(&Ram::new(16 << 10), "--block-size 4k", &INPUT, None).unwrap_err();
        assert!(error.to_string().contains("no room"), "{error}");
    }

    #[test]
    fn verify_finds_a_write_that_was_not_done() {
        static INPUT: [u8; 9000] = [7; 9000];
        let ram = Ram {
            deaf_from: Some(4096),
            ..Ram::new(1 << 20)
        };
        let error = write_ram(&ram, "--verify --block-size 4k", &INPUT, Some(9000)).unwrap_err();
        assert_eq!(error.downcast_ref::<Mismatch>().unwrap().offset, 4096);
    }

    #[test]
    fn an_input_that_ends_early_is_an_error() {
        let error = write_ram(&Ram::new(1 << 20), "", b"abc", Some(10)).unwrap_err();
        assert!(error.to_string().contains("7 bytes early"), "{error}");
    }

    #[test]
    fn more_than_fits_is_refused_before_anything_is_written() {
        let ram = Ram::new(1 << 20);
        let error = write_ram(&ram, "--size 4k --offset 1k", &[7; 4096], Some(4096)).unwrap_err();
        assert!(error.to_string().contains("--size"), "{error}");
        assert!(ram.bytes.lock().unwrap().is_empty());
    }

    #[test]
    fn blocks_cover_the_part_and_no_more() {
        let parts: Vec<_> = blocks(10, 25, 10).collect();
        assert_eq!(parts, [(10, 10), (20, 10), (30, 5)]);
        assert_eq!(blocks(10, 0, 10).count(), 0);
    }
}
