// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Turns `include/uapi/linux/vfetch.h` into Rust with the `bindgen` command:
//! the header is the only place where a structure, a number or the meaning of
//! a field is written down.

use std::{env, fmt::Write as _, fs, path::PathBuf, process::Command};

/// Names what is missing and ends the build.
fn fail(message: &str) -> ! {
    eprintln!("libvfetch: {message}");
    std::process::exit(1);
}

fn main() {
    let crate_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let include = crate_dir.join("../../include/uapi");
    let header = include.join("linux/vfetch.h");
    let wrapper = crate_dir.join("src/uapi.h");
    let jobs = include.join("linux/vfetch_job.h");
    for file in [&header, &jobs, &wrapper] {
        println!("cargo::rerun-if-changed={}", file.display());
        if !file.exists() {
            fail(&format!(
                "{} is not there; build in a checkout of vfetch",
                file.display()
            ));
        }
    }
    println!("cargo::rerun-if-env-changed=BINDGEN");

    let bindgen = env::var("BINDGEN").unwrap_or_else(|_| "bindgen".into());
    let output = Command::new(&bindgen)
        .args([
            "--allowlist-item",
            "(lib|LIB)?(vfetch|VFETCH)_.*",
            "--no-doc-comments",
            "--no-prepend-enum-name",
            "--with-derive-default",
            "--with-derive-eq",
            // Structures grow at the end, with the driver.
            "--with-attribute-custom-struct",
            "vfetch_(info|stats)=#[non_exhaustive]",
        ])
        .arg(&wrapper)
        .args(["--", "-I"])
        .arg(&include)
        .output()
        .unwrap_or_else(|error| {
            fail(&format!(
                "cannot run '{bindgen}': {error}. Install it (Debian: bindgen and clang; \
                 elsewhere: cargo install bindgen-cli), or name it in BINDGEN"
            ))
        });
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        fail(&format!(
            "'{bindgen}' refused {}; it needs libclang and the kernel's user-space headers \
             (Debian: clang and linux-libc-dev)",
            header.display()
        ));
    }

    let bindings = String::from_utf8(output.stdout).expect("bindgen prints UTF-8");
    let comments = read_comments(&fs::read_to_string(&header).expect("the header is readable"));
    fs::write(out_dir.join("uapi.rs"), document(&bindings, &comments))
        .expect("OUT_DIR is writable");
}

/// What the header says of a structure's fields.
struct Comment {
    structure: String,
    fields: Vec<(String, String)>,
}

/// Reads the kernel-doc comments: `struct NAME - …`, then `@field: …` lines
/// that may go on over the next ones, up to an empty line.
fn read_comments(header: &str) -> Vec<Comment> {
    let mut comments: Vec<Comment> = Vec::new();
    let mut in_fields = false;
    for line in header.lines() {
        let Some(text) = line.strip_prefix(" *").filter(|t| *t != "/").map(str::trim) else {
            in_fields = false;
            continue;
        };
        if let Some(name) = text.strip_prefix("struct ") {
            let structure = name.split(' ').next().unwrap_or_default().to_owned();
            comments.push(Comment {
                structure,
                fields: Vec::new(),
            });
            in_fields = true;
        } else if text.is_empty() {
            in_fields = false;
        } else if let (true, Some(comment)) = (in_fields, comments.last_mut()) {
            if let Some((name, meaning)) = text.strip_prefix('@').and_then(|t| t.split_once(": ")) {
                comment
                    .fields
                    .push((name.to_owned(), meaning.trim().to_owned()));
            } else if let Some((_, meaning)) = comment.fields.last_mut() {
                meaning.push(' ');
                meaning.push_str(text);
            }
        }
    }
    comments
}

/// Puts the header's words on the generated fields, and adds two lists for
/// programs that show counters: their names with meanings, and their values.
fn document(bindings: &str, comments: &[Comment]) -> String {
    let mut text = String::new();
    let mut current: Option<&Comment> = None;
    for line in bindings.lines() {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = rest.trim_end_matches([' ', '{', ';']);
            current = comments.iter().find(|c| c.structure == name);
        } else if line == "}" {
            current = None;
        } else if let (Some(comment), Some(rest)) = (current, line.trim().strip_prefix("pub ")) {
            let field = rest.split(':').next().unwrap_or_default();
            if let Some((_, meaning)) = comment.fields.iter().find(|(name, _)| name == field) {
                let meaning = meaning.replace('@', "");
                writeln!(text, "    #[doc = {meaning:?}]").expect("a String takes it");
            }
        }
        writeln!(text, "{line}").expect("a String takes it");
    }
    let counters: Vec<_> = comments
        .iter()
        .filter(|c| c.structure == "vfetch_stats")
        .flat_map(|c| &c.fields)
        .filter(|(name, _)| name != "flags")
        .collect();
    if counters.is_empty() {
        fail("no comment on struct vfetch_stats in the header");
    }
    let n = counters.len();
    writeln!(
        text,
        "pub(crate) const COUNTERS: [(&str, &str); {n}] = {counters:?};"
    )
    .expect("a String takes it");
    writeln!(
        text,
        "pub(crate) fn counter_values(s: &vfetch_stats) -> [u64; {n}] {{"
    )
    .expect("a String takes it");
    let values: Vec<_> = counters
        .iter()
        .map(|(name, _)| format!("u64::from(s.{name})"))
        .collect();
    writeln!(text, "[{}]\n}}", values.join(", ")).expect("a String takes it");
    text
}
