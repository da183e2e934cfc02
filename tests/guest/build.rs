// SPDX-License-Identifier: GPL-2.0

//! Turns `include/vfetch_hw.h` into constants with the `bindgen` command: tests that talk to the device itself
//! take its numbers from where they are written down.

use std::{env, fs, path::PathBuf, process::Command};

fn main() {
    let top = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo")).join("../..");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo")).join("hw.rs");
    let header = top.join("include/vfetch_hw.h");
    let uapi = top.join("include/uapi");
    for file in [&header, &uapi.join("linux/vfetch_job.h")] {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    println!("cargo::rerun-if-env-changed=BINDGEN");
    let bindgen = env::var("BINDGEN").unwrap_or_else(|_| "bindgen".into());
    let output = Command::new(&bindgen)
        .args(["--allowlist-var", "VFETCH_.*", "--no-doc-comments"])
        .arg(&header)
        .args(["--", "-I"])
        .arg(&uapi)
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot run '{bindgen}': {error} (Debian: bindgen and clang)")
        });
    assert!(
        output.status.success(),
        "'{bindgen}' refused {}: {}",
        header.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    fs::write(out, output.stdout).expect("OUT_DIR is writable");
}
