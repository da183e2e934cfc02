// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The program as its users run it.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test may panic")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn sim(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vfetch-sim"))
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

fn ok(folder: &Path, args: &[&str]) -> String {
    let output = sim(folder, args);
    let (out, err) = said(&output);
    assert!(output.status.success(), "{args:?}: {err}");
    assert_eq!(err, "", "{args:?}");
    out
}

fn fails(folder: &Path, args: &[&str]) -> String {
    let output = sim(folder, args);
    let (_, err) = said(&output);
    assert!(!output.status.success(), "{args:?}");
    assert!(!err.contains("panicked"), "{err}");
    err
}

#[test]
fn a_replay_says_what_the_run_said_and_both_say_it_twice() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let how = [
        "--policy",
        "none,51,auto,leap",
        "--capacity",
        "0.5,1.25",
        "--no-measure",
    ];
    let run = |json: bool| {
        let mut args = vec!["run", "triad:mib=3,rounds=2", "--with", "kof512:mib=1"];
        args.extend(how);
        args.extend(json.then_some("--json"));
        ok(folder, &args)
    };
    assert_eq!(run(false), run(false));
    assert_eq!(run(true), run(true));
    ok(folder, &["record", "triad:mib=3,rounds=2", "-o", "a.vft"]);
    ok(folder, &["record", "kof512:mib=1", "-o", "b.vft"]);
    let mut args = vec!["replay", "a.vft", "b.vft"];
    args.extend(how);
    assert_eq!(ok(folder, &args), run(false));
    let stats = ok(folder, &["stats", "a.vft"]);
    assert_eq!(stats, ok(folder, &["stats", "triad:mib=3,rounds=2"]));
    assert!(stats.contains("working set"));
}

#[test]
fn what_was_measured_is_in_the_json() {
    let folder = tempfile::tempdir().unwrap();
    let text = ok(
        folder.path(),
        &["run", "cyclic:mib=4", "-p", "none,51", "--json"],
    );
    let cells: serde_json::Value = serde_json::from_str(&text).unwrap();
    let row = &cells[0]["rows"][1];
    assert_eq!(row["policy"], "51");
    assert!(row["coverage"].as_f64().unwrap() > 0.5);
    assert!(row["decision_host_ns"][1].as_u64().unwrap() > 0);
    assert!(cells[0]["oracle"]["time_ns"].as_u64().unwrap() <= row["time_ns"].as_u64().unwrap());
}

#[test]
fn errors_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(fails(folder, &["run", "stencl"]).contains("there are: stencil"));
    assert!(fails(folder, &["run", "triad", "-p", "fast"]).contains("there are: none"));
    assert!(fails(folder, &["run", "triad", "-c", "0"]).contains("a share from 0.01"));
    assert!(fails(folder, &["run", "bfs:file=no.txt"]).contains("cannot open the graph 'no.txt'"));
    assert!(fails(folder, &["replay", "no.vft"]).contains("'vfetch-sim record' makes traces"));
    assert!(fails(folder, &["stats", "neither"]).contains("neither a file nor a workload"));
    fs::write(folder.join("bad.vft"), b"vftrace\x01\x05\x00\x0b\x80").unwrap();
    let error = fails(folder, &["replay", "bad.vft"]);
    assert!(
        error.contains("bad.vft: byte 12: the file ends here, too early (in touch 0 of item 0)"),
        "{error}"
    );
    fs::write(
        folder.join("bad.mtx"),
        "%%MatrixMarket matrix coordinate real general\n2 2 1\n3 1 1\n",
    )
    .unwrap();
    let error = fails(folder, &["run", "spmv:file=bad.mtx"]);
    assert!(error.contains("line 3: entry (3, 1) is outside"), "{error}");
}

#[test]
fn a_graph_from_a_file_is_searched() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut text = String::from("# a ring\n");
    for v in 0..3000 {
        text.push_str(&format!("{v}\t{}\n", (v + 1) % 3000));
    }
    fs::write(folder.join("ring.txt"), text).unwrap();
    let out = ok(folder, &["stats", "bfs:file=ring.txt,sources=1"]);
    // A level finds two vertices, and is a barrier.
    assert!(out.contains("150") && out.contains("barriers"), "{out}");
}

#[test]
fn a_matrix_makes_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(
        folder.join("m.toml"),
        "name = 'small & <quick>'\ncapacities = [0.5, 1.25]\nlinks = [8000, 25000]\n\
         [[workload]]\nname = 'triad'\ntenants = ['triad:mib=2']\nexpect = ['always-max']\n\
         [[workload]]\nname = 'two'\ntenants = ['cyclic:mib=2', 'kof512:mib=1']\n",
    )
    .unwrap();
    let args = [
        "matrix",
        "m.toml",
        "--out",
        "out",
        "--no-measure",
        "--jobs",
        "2",
    ];
    let out = ok(folder, &args);
    assert!(out.contains("of 8 cells tell policies apart"), "{out}");
    assert!(out.contains("triad: expected always-max; best is"), "{out}");
    let read = |name: &str| fs::read_to_string(folder.join("out").join(name)).unwrap();
    let results = read("results.json");
    let json: serde_json::Value = serde_json::from_str(&results).unwrap();
    assert_eq!(json["cells"].as_array().unwrap().len(), 8);
    assert_eq!(json["matrix"]["costs"]["batch_ns"], 30_000);
    for picture in [
        "heatmap-8000.svg",
        "heatmap-25000.svg",
        "timelines.svg",
        "standings.svg",
    ] {
        assert!(read(picture).trim_end().ends_with("</svg>"));
    }
    assert!(read("report.html").contains("small &amp; &lt;quick&gt;"));
    ok(folder, &args);
    assert_eq!(read("results.json"), results);
    assert!(fails(folder, &["matrix", "m.toml", "-w", "x"]).contains("it has: triad, two"));
    assert!(fails(folder, &["matrix", "no.toml"]).contains("cannot read the matrix 'no.toml'"));
}

#[test]
fn lists_name_everything() {
    let folder = tempfile::tempdir().unwrap();
    let workloads = ok(folder.path(), &["workloads"]);
    for name in ["stencil", "mesh", "conv2d", "kof512", "banded"] {
        assert!(workloads.contains(&format!("\n{name}")) || workloads.starts_with(name));
    }
    let policies = ok(folder.path(), &["policies"]);
    for name in [
        "none",
        "always-max",
        "auto",
        "readahead",
        "leap",
        "best-offset",
    ] {
        assert!(policies.contains(name));
    }
}

/// `gather.vft` was made in the guest: `vfetch record 1 -o gather.vft --policy none -- vfetch demo 1 --job gather --size 1m --capacity 1 --policy
/// none`. The host writes 258 pages, then a job touches each of them.
#[test]
fn what_the_module_recorded_is_read_and_replayed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let stats: serde_json::Value =
        serde_json::from_str(&ok(&folder, &["stats", "gather.vft", "--json"])).unwrap();
    let numbers = [
        "pages",
        "working_set_pages",
        "host_items",
        "items",
        "barriers",
    ];
    assert_eq!(
        numbers.map(|n| stats[n].as_u64().unwrap()),
        [512, 258, 258, 516, 1]
    );
    let args = [
        "replay",
        "gather.vft",
        "--policy",
        "none,51",
        "--no-measure",
        "--json",
    ];
    let cells: serde_json::Value = serde_json::from_str(&ok(&folder, &args)).unwrap();
    let faults = |row: usize| cells[0]["rows"][row]["faults"].as_u64().unwrap();
    assert_eq!(faults(0), 258);
    assert!(faults(1) < 200, "{} faults under 51", faults(1));
}
