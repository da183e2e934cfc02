// SPDX-License-Identifier: GPL-2.0

//! Files of recorded decisions: any bytes, plain and compressed, never more than an error; and a row that is one means the
//! same when it is written again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vfetch_conformance::{check, Vector, HEADER};

fuzz_target!(|data: &[u8]| {
    let mut lines = 0;
    if let Ok(tally) = check(data, |line, _| {
        assert!(line > lines);
        lines = line;
    }) {
        assert!(tally.passed + tally.failed <= lines);
    }
    // The rest of a file whose header is right.
    let file = [HEADER.as_bytes(), b"\n", data].concat();
    let tally = check(file.as_slice(), |_, _| {}).unwrap_or_default();
    assert!(tally.passed + tally.failed <= data.len() as u64 + 1);
    if let Ok(row) = std::str::from_utf8(data) {
        if let Ok(vector) = Vector::parse(row) {
            assert_eq!(
                Vector::parse(
                    &row.to_uppercase()
                        .replace("MANAGED", "managed")
                        .replace("ATS", "ats")
                ),
                Ok(vector)
            );
        }
    }
});
