// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Trace files; `FORMAT.md` describes them.

use std::io::{self, Read, Write};

use super::{Item, Side, Touch, Trace, MAX_ACCESSES, MAX_PAGES, MAX_TOUCHES};

const MAGIC: &[u8; 7] = b"vftrace";
const VERSION: u8 = 1;
const MAX_NAME: u64 = 4096;

const ITEM: u64 = 1;
const BARRIER: u64 = 1 << 1;
const HOST: u64 = 1 << 2;
const HEAD_BITS: u32 = 3;
const WRITE: u64 = 1;
const SEVERAL: u64 = 1 << 1;
const STEP_BITS: u32 = 2;

/// A file that is not a trace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not begin as one.
    #[error("this is not a trace file: it does not begin with 'vftrace'; traces are made by 'vfetch-sim record'")]
    Magic,
    /// Of another version.
    #[error(
        "the trace file has version {0}, this program reads version {VERSION}; record it anew"
    )]
    Version(u8),
    /// Something in it is wrong.
    #[error("byte {offset}: {what} ({place}); the file is damaged or was not made by 'vfetch-sim record'")]
    Malformed {
        /// Where the wrong field begins.
        offset: u64,
        /// What is wrong.
        what: String,
        /// Which field that is.
        place: String,
    },
}

struct Checksum(u64);

impl Checksum {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn update(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
}

struct Sink<W> {
    out: W,
    checksum: Checksum,
}

impl<W: Write> Sink<W> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            self.checksum.update(*byte);
        }
        self.out.write_all(bytes)
    }

    fn number(&mut self, mut value: u64) -> io::Result<()> {
        let mut buffer = [0; 10];
        let mut len = 0;
        for slot in &mut buffer {
            *slot = (value & 0x7f) as u8;
            value >>= 7;
            len += 1;
            if value == 0 {
                break;
            }
            *slot |= 0x80;
        }
        self.bytes(buffer.get(..len).unwrap_or_default())
    }
}

/// Writes `trace`. `out` should be buffered.
///
/// # Errors
///
/// Those of `out`.
pub(crate) fn write(trace: &Trace, out: impl Write) -> io::Result<()> {
    let mut sink = Sink {
        out,
        checksum: Checksum::new(),
    };
    sink.bytes(MAGIC)?;
    sink.bytes(&[VERSION])?;
    sink.number(u64::from(trace.pages))?;
    let mut name: String = trace.name.chars().filter(|c| !c.is_control()).collect();
    while name.len() as u64 > MAX_NAME {
        name.pop();
    }
    sink.number(name.len() as u64)?;
    sink.bytes(name.as_bytes())?;
    let mut previous = 0;
    for (index, item) in trace.items.iter().enumerate() {
        let touches = trace.touches_of(index);
        let mut head = ((touches.len() as u64) << HEAD_BITS) | ITEM;
        if item.barrier {
            head |= BARRIER;
        }
        if item.side == Side::Host {
            head |= HOST;
        }
        sink.number(head)?;
        for touch in touches {
            let step = i64::from(touch.page) - previous;
            previous = i64::from(touch.page);
            let zigzag = ((step << 1) ^ (step >> 63)) as u64;
            let several = touch.accesses() > 1;
            let mut word = zigzag << STEP_BITS;
            if touch.is_write() {
                word |= WRITE;
            }
            if several {
                word |= SEVERAL;
            }
            sink.number(word)?;
            if several {
                sink.number(u64::from(touch.accesses()) - 2)?;
            }
        }
    }
    sink.number(0)?;
    sink.number(trace.items.len() as u64)?;
    sink.number(trace.touches.len() as u64)?;
    sink.number(trace.accesses())?;
    let checksum = sink.checksum.0.to_le_bytes();
    sink.out.write_all(&checksum)?;
    sink.out.flush()
}

struct Source<R> {
    input: R,
    offset: u64,
    checksum: Checksum,
    /// Items and, of the last, touches that were begun.
    items: u64,
    touches: u64,
}

impl<R: Read> Source<R> {
    fn malformed(&self, offset: u64, what: impl Into<String>) -> ReadError {
        let place = match (self.items, self.touches) {
            (0, _) => "in the header".to_owned(),
            (item, 0) => format!("in the head of item {}", item - 1),
            (item, touch) => format!("in touch {} of item {}", touch - 1, item - 1),
        };
        ReadError::Malformed {
            offset,
            what: what.into(),
            place,
        }
    }

    fn byte(&mut self) -> Result<u8, ReadError> {
        let mut byte = [0];
        match self.input.read_exact(&mut byte) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.malformed(self.offset, "the file ends here, too early"));
            }
            Err(error) => return Err(error.into()),
        }
        self.offset += 1;
        let [byte] = byte;
        self.checksum.update(byte);
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, ReadError> {
        let start = self.offset;
        let mut value = 0_u64;
        for place in 0..10 {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if place == 9 && bits > 1 {
                return Err(self.malformed(start, "a number of more than 64 bits"));
            }
            value |= bits << (7 * place);
            if byte & 0x80 == 0 {
                if byte == 0 && place > 0 {
                    return Err(self.malformed(start, "a number with a superfluous byte"));
                }
                return Ok(value);
            }
        }
        Err(self.malformed(start, "a number of more than 10 bytes"))
    }

    fn limited(&mut self, what: &str, least: u64, most: u64) -> Result<u64, ReadError> {
        let start = self.offset;
        let value = self.number()?;
        if value < least || value > most {
            return Err(self.malformed(start, format!("{what} is {value}, not {least} to {most}")));
        }
        Ok(value)
    }
}

/// Reads a trace. `input` should be buffered; all of it is read.
///
/// # Errors
///
/// Those of `input`, and what `FORMAT.md` says a reader refuses.
pub(crate) fn read(input: impl Read) -> Result<Trace, ReadError> {
    let mut source = Source {
        input,
        offset: 0,
        checksum: Checksum::new(),
        items: 0,
        touches: 0,
    };
    for expected in MAGIC {
        match source.byte() {
            Ok(byte) if byte == *expected => {}
            Ok(_) | Err(ReadError::Malformed { .. }) => return Err(ReadError::Magic),
            Err(error) => return Err(error),
        }
    }
    let version = source.byte()?;
    if version != VERSION {
        return Err(ReadError::Version(version));
    }
    let pages = source.limited("the number of pages", 1, u64::from(MAX_PAGES))? as u32;
    let length = source.limited("the length of the name", 0, MAX_NAME)?;
    let start = source.offset;
    let name = (0..length)
        .map(|_| source.byte())
        .collect::<Result<Vec<u8>, _>>()?;
    let name = String::from_utf8(name)
        .ok()
        .filter(|name| !name.chars().any(char::is_control))
        .ok_or_else(|| source.malformed(start, "the name is not printable UTF-8"))?;
    let mut trace = Trace {
        name,
        pages,
        ..Trace::default()
    };
    let mut accesses = 0_u64;
    let mut page = 0_i64;
    loop {
        let start = source.offset;
        source.touches = 0;
        source.items += 1;
        let head = source.number()?;
        if head == 0 {
            break;
        }
        if head & ITEM == 0 {
            return Err(source.malformed(start, format!("{head:#x} is no head of an item")));
        }
        let touches = head >> HEAD_BITS;
        if touches > MAX_TOUCHES - trace.touches.len() as u64 {
            return Err(source.malformed(
                start,
                format!("{touches} more touches exceed the limit of {MAX_TOUCHES}"),
            ));
        }
        for _ in 0..touches {
            source.touches += 1;
            let touch = read_touch(&mut source, pages, page)?;
            page = i64::from(touch.page);
            accesses += u64::from(touch.accesses());
            trace.touches.push(touch);
        }
        trace.items.push(Item {
            end: trace.touches.len(),
            barrier: head & BARRIER != 0,
            side: if head & HOST == 0 {
                Side::Device
            } else {
                Side::Host
            },
        });
    }
    let totals = [
        ("items", trace.items.len() as u64),
        ("touches", trace.touches.len() as u64),
        ("accesses", accesses),
    ];
    for (what, found) in totals {
        let start = source.offset;
        let said = source.number()?;
        if said != found {
            return Err(source.malformed(
                start,
                format!("the file has {found} {what} and says that it has {said}"),
            ));
        }
    }
    let found = source.checksum.0;
    let start = source.offset;
    let mut said = [0; 8];
    for slot in &mut said {
        *slot = source.byte()?;
    }
    let said = u64::from_le_bytes(said);
    if said != found {
        return Err(source.malformed(
            start,
            format!("the checksum is {said:#018x} and should be {found:#018x}"),
        ));
    }
    let mut more = [0];
    if source.input.read(&mut more)? != 0 {
        return Err(source.malformed(source.offset, "more bytes follow the checksum"));
    }
    Ok(trace)
}

fn read_touch<R: Read>(
    source: &mut Source<R>,
    pages: u32,
    previous: i64,
) -> Result<Touch, ReadError> {
    let start = source.offset;
    let word = source.number()?;
    let zigzag = word >> STEP_BITS;
    let step = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
    let page = previous
        .checked_add(step)
        .and_then(|page| u32::try_from(page).ok())
        .filter(|page| *page < pages)
        .ok_or_else(|| {
            source.malformed(
                start,
                format!("a step of {step} from page {previous} leaves the space of {pages} pages"),
            )
        })?;
    let accesses = if word & SEVERAL == 0 {
        1
    } else {
        source.limited(
            "the number of accesses, less 2,",
            0,
            u64::from(MAX_ACCESSES) - 2,
        )? as u32
            + 2
    };
    Ok(Touch::new(page, accesses, word & WRITE != 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::tests::{any_trace, trace_of},
        *,
    };

    fn encode(trace: &Trace) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(trace, &mut bytes).unwrap();
        bytes
    }

    fn small() -> Vec<u8> {
        encode(&trace_of(
            9,
            &[(false, false, vec![(0, 1, false), (8, 300, true)])],
        ))
    }

    fn error(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string()
    }

    #[test]
    fn the_bytes_are_those_of_the_description() {
        let bytes = small();
        let head: &[u8] = &[
            b'v',
            b'f',
            b't',
            b'r',
            b'a',
            b'c',
            b'e',
            1, // magic
            9,
            4,
            b't',
            b'e',
            b's',
            b't',         // pages, name
            (2 << 3) | 1, // an item of two touches
            0,            // page 0, one access, read
            0x43,
            0xaa,
            0x02, // eight pages on, several, write: 16 << 2 | 3; 298
            0,
            1,
            2,
            0xad,
            0x02, // end; 1 item, 2 touches, 301 accesses
        ];
        assert_eq!(&bytes[..head.len()], head);
        assert_eq!(bytes.len(), head.len() + 8);
    }

    #[test]
    fn a_neighbouring_touch_takes_one_byte() {
        let touches = |n: u32| {
            let t = (0..n).map(|p| (p, 1, false)).collect();
            encode(&trace_of(2000, &[(false, false, t)])).len()
        };
        assert_eq!(touches(1100) - touches(1000), 100);
    }

    #[test]
    fn what_is_no_trace_is_refused_with_a_reason() {
        assert!(error(b"").contains("not a trace file"));
        assert!(error(b"vftrac").contains("not a trace file"));
        assert!(error(b"PK\x03\x04 and so on").contains("not a trace file"));
        assert!(error(b"vftrace\x02").contains("version 2"));
        let pages = |p: &[u8]| error(&[b"vftrace\x01", p].concat());
        assert!(pages(&[0]).contains("byte 8: the number of pages is 0, not 1 to 268435456"));
        assert!(pages(&[0x80, 0x00]).contains("superfluous"));
        assert!(pages(&[0xff; 11]).contains("more than 64 bits"));
        assert!(pages(&[1, 0xff, 0x7f]).contains("byte 9: the length of the name is 16383"));
        assert!(pages(&[1, 2, 0xc3, 0x28]).contains("printable UTF-8"));
        assert!(pages(&[1, 1, 7]).contains("printable UTF-8"));
        assert!(pages(&[1, 0, 2]).contains("byte 10: 0x2 is no head of an item"));
        assert!(
            pages(&[1, 0, 0xf9, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).contains("exceed the limit")
        );
        assert!(pages(&[1, 0, 9, 8]).contains(
            "byte 11: a step of 1 from page 0 leaves the space of 1 pages (in touch 0 of item 0)"
        ));
        assert!(pages(&[1, 0, 9, 4]).contains("a step of -1 from page 0"));
        assert!(
            pages(&[1, 0, 9, 2, 0xff, 0xff, 0xff, 0xff, 0x7f]).contains("the number of accesses")
        );
        assert!(pages(&[1, 0, 0, 1]).contains("has 0 items and says that it has 1"));
    }

    #[test]
    fn damage_and_a_wrong_end_are_found() {
        let good = small();
        assert!(read(good.as_slice()).is_ok());
        for len in 0..good.len() {
            let text = error(&good[..len]);
            assert!(
                text.contains("too early") || text.contains("not a trace"),
                "{len}: {text}"
            );
        }
        let mut long = good.clone();
        long.push(0);
        assert!(error(&long).contains("more bytes follow"));
        for bit in 64..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(bad.as_slice()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_claimed_length_takes_no_memory() {
        // 2^30 touches, of which none is there.
        let bytes = [
            b"vftrace\x01".as_slice(),
            &[1, 0, 0x81, 0x80, 0x80, 0x80, 0x20],
        ]
        .concat();
        assert!(error(&bytes).contains("too early"));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(trace in any_trace()) {
            prop_assert_eq!(read(encode(&trace).as_slice()).unwrap(), trace);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut file = b"vftrace\x01\x20\x00".to_vec();
            file.extend(bytes);
            let _ = read(file.as_slice());
        }
    }
}
