// SPDX-License-Identifier: GPL-2.0

//! The engine answers as recorded, and the program notices when it does not, or when a file is not what it should be.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::Write;
use std::process::{Command, Output};

use vfetch_conformance::{check, Malformed, Outcome, Tally, Vector, HEADER};

const VECTORS: &[u8] = include_bytes!("../vectors.csv.gz");

/// A row whose answer is right: the whole of a small block, for threshold 0.
const ROW: &str = "managed,0,0,4,0,4,0,1,0,e";

fn run(contents: &[u8]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vectors");
    fs::write(&path, contents).unwrap();
    Command::new(env!("CARGO_BIN_EXE_vfetch-conformance"))
        .arg(&path)
        .output()
        .unwrap()
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().last().unwrap_or_default().to_owned()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn file(rows: &[&str]) -> Vec<u8> {
    let mut text = String::from(HEADER) + "\n";
    for row in rows {
        text += row;
        text.push('\n');
    }
    text.into_bytes()
}

#[test]
fn every_recorded_answer_is_the_same() {
    let mut failures = Vec::new();
    let tally = check(VECTORS, |line, outcome| {
        if outcome != Outcome::Same {
            failures.push((line, outcome));
        }
    })
    .unwrap();
    assert_eq!(failures.first(), None);
    assert_eq!(
        tally,
        Tally {
            passed: 4000,
            failed: 0
        }
    );
}

#[test]
fn the_program_counts_plain_and_compressed_rows() {
    let compressed = run(VECTORS);
    assert!(compressed.status.success(), "{}", errors(&compressed));
    assert_eq!(last_line(&compressed), "4000 passed, 0 failed");
    let plain = run(&file(&[ROW, ROW]));
    assert!(plain.status.success(), "{}", errors(&plain));
    assert_eq!(last_line(&plain), "2 passed, 0 failed");
}

#[test]
fn a_different_answer_fails() {
    let output = run(&file(&[ROW, "managed,0,0,4,0,4,0,1,0,6", ROW]));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(last_line(&output), "2 passed, 1 failed");
    assert!(errors(&output).contains(":3: the engine answers otherwise"));
    // Pages that no answer can have.
    let output = run(&file(&["managed,0,0,4,0,4,0,1,0,1e"]));
    assert_eq!(last_line(&output), "0 passed, 1 failed");
}

#[test]
fn a_malformed_row_fails_and_its_line_is_named() {
    let output = run(&file(&[ROW, ROW, "managed,0,0,4"]));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(last_line(&output), "2 passed, 1 failed");
    assert!(
        errors(&output).contains(":4: malformed: 4 fields instead of 10"),
        "{}",
        errors(&output)
    );
}

#[test]
fn no_rows_fail() {
    for contents in [&b""[..], HEADER.as_bytes(), &file(&[])] {
        let output = run(contents);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(last_line(&output), "0 passed, 0 failed");
        assert!(errors(&output).contains("there are no rows"));
    }
}

#[test]
fn no_file_fails() {
    let output = Command::new(env!("CARGO_BIN_EXE_vfetch-conformance"))
        .arg("no/such/file")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(last_line(&output), "0 passed, 1 failed");
}

#[test]
fn a_file_that_is_cut_off_fails() {
    let output = run(&VECTORS[..VECTORS.len() - 20]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        last_line(&output).ends_with(" passed, 1 failed"),
        "{}",
        last_line(&output)
    );
}

#[test]
fn several_compressed_pieces_are_one_file() {
    let mut pieces = Vec::new();
    for piece in [file(&[ROW]), [ROW.as_bytes(), b"\n"].concat()] {
        let mut encoder = flate2::write::GzEncoder::new(&mut pieces, flate2::Compression::fast());
        encoder.write_all(&piece).unwrap();
        encoder.finish().unwrap();
    }
    let output = run(&pieces);
    assert_eq!(last_line(&output), "2 passed, 0 failed");
}

fn outcomes(contents: &[u8]) -> Vec<(u64, Outcome)> {
    let mut outcomes = Vec::new();
    check(contents, |line, outcome| outcomes.push((line, outcome))).unwrap();
    outcomes
}

#[test]
fn what_is_no_row_is_refused() {
    assert_eq!(
        outcomes(ROW.as_bytes()),
        [(1, Outcome::Malformed(Malformed::Header))]
    );
    let long = [&file(&[])[..], &[b'0'; 5000], b"\n", ROW.as_bytes()].concat();
    assert_eq!(
        outcomes(&long),
        [
            (2, Outcome::Malformed(Malformed::TooLong)),
            (3, Outcome::Same)
        ]
    );
    let binary = [&file(&[])[..], b"\xff\xfe\n", ROW.as_bytes(), b"\r\n"].concat();
    assert_eq!(
        outcomes(&binary),
        [
            (2, Outcome::Malformed(Malformed::NotText)),
            (3, Outcome::Same)
        ]
    );
    // An empty line is no row either.
    assert_eq!(outcomes(&file(&["", ROW])).len(), 2);
    assert_eq!(Vector::parse(""), Err(Malformed::Fields(1)));
}

#[test]
fn rows_outside_the_domain_are_refused() {
    assert!(Vector::parse(ROW).is_ok());
    let wide = "0".repeat(129);
    for row in [
        "Managed,0,0,4,0,4,0,1,0,e",
        "managed,101,0,4,0,4,0,1,0,e",
        "managed,256,0,4,0,4,0,1,0,e",
        "managed,-1,0,4,0,4,0,1,0,e",
        "managed,+1,0,4,0,4,0,1,0,e",
        "managed,,0,4,0,4,0,1,0,e",
        "managed, 0,0,4,0,4,0,1,0,e",
        "managed,0,16,4,0,4,0,1,0,e",
        "managed,0,1,512,0,4,0,1,0,e",
        "managed,0,0,513,0,4,0,1,0,e",
        "managed,0,0,4,0,5,0,1,0,e",
        "managed,0,0,4,3,2,0,0,0,0",
        "managed,0,0,4,0,4,10,1,0,e",
        "managed,0,0,4,0,4,0,10,0,e",
        "managed,0,0,4,0,4,0,1,10,e",
        "managed,0,0,4,1,4,0,1,0,e",
        "managed,0,0,4,0,3,0,8,0,e",
        "managed,0,0,4,0,4,0,1,0,",
        "managed,0,0,4,0,4,0,1,0,0xe",
        "managed,0,0,4,0,4,0,1,0,g",
        "managed,0,0,4,0,4,0,1,0,e,",
        &format!("managed,0,0,4,0,4,{wide},1,0,e"),
    ] {
        assert!(Vector::parse(row).is_err(), "{row}");
    }
}
