// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The program as a shell sees it, as far as that needs no function.

use std::{
    error::Error,
    io::Read,
    process::{Command, Output, Stdio},
};

type Result = std::result::Result<(), Box<dyn Error>>;

fn vfetch(line: &str) -> std::io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_vfetch"))
        .args(line.split_whitespace())
        .output()
}

#[test]
fn wrong_usage_is_status_2_and_told_on_stderr() -> Result {
    for line in [
        "",
        "frobnicate",
        "read",
        "read nvme0",
        "bench 0 --depth 0",
        "stats --count 1",
    ] {
        let output = vfetch(line)?;
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{line}"
        );
    }
    Ok(())
}

#[test]
fn help_and_version_are_status_0_and_on_stdout() -> Result {
    for line in ["--help", "-h", "--version", "help bench", "read --help"] {
        let output = vfetch(line)?;
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{line}"
        );
    }
    Ok(())
}

#[test]
fn a_function_that_cannot_be_is_an_error_with_advice_and_without_output() -> Result {
    // Whether or not the module is loaded here.
    let output = vfetch("info 4000000000")?;
    assert!(matches!(output.status.code(), Some(3 | 4)), "{output:?}");
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr)?;
    assert!(
        text.starts_with("vfetch: ") && text.contains("\n  "),
        "{text}"
    );
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    Ok(())
}

#[test]
fn with_json_the_error_is_an_object_on_stderr() -> Result {
    let output = vfetch("info 4000000000 --json")?;
    let error: serde_json::Value = serde_json::from_slice(&output.stderr)?;
    assert_eq!(
        error["status"].as_i64(),
        output.status.code().map(i64::from)
    );
    assert!(
        error["error"].is_string() && error["hint"].is_string(),
        "{error}"
    );
    Ok(())
}

#[test]
fn with_json_wrong_usage_is_an_object_too() -> Result {
    for line in [
        "--json read",
        "read --json --size 12q 0",
        "--json",
        "bnech --json",
    ] {
        let output = vfetch(line)?;
        assert_eq!(output.status.code(), Some(2), "{line}");
        let error: serde_json::Value = serde_json::from_slice(&output.stderr)?;
        assert_eq!(error["status"], 2, "{line}");
        let words = error["error"].as_str().ok_or("no words")?;
        assert!(
            !words.is_empty() && !words.contains("Usage") && !words.starts_with("error"),
            "{words}"
        );
    }
    assert_eq!(vfetch("read --help --json")?.status.code(), Some(0));
    Ok(())
}

#[test]
fn another_file_is_not_taken_for_a_space() -> Result {
    let output = vfetch("read fd:0 --length 4k")?;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr)?;
    assert!(
        text.contains("file descriptor 0 is not a vfetch node"),
        "{text}"
    );
    let output = vfetch("read fd:99 --length 4k")?;
    assert!(String::from_utf8(output.stderr)?.contains("Bad file descriptor"));
    Ok(())
}

#[test]
fn completions_name_the_commands() -> Result {
    for shell in ["bash", "zsh", "fish"] {
        let output = vfetch(&format!("completions {shell}"))?;
        let script = String::from_utf8(output.stdout)?;
        assert!(
            script.contains("bench") && script.contains("json"),
            "{shell}"
        );
    }
    Ok(())
}

#[test]
fn each_command_gets_a_manual_page() -> Result {
    let folder = tempfile::tempdir()?;
    let output = vfetch(&format!("man {}", folder.path().display()))?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for page in ["vfetch.1", "vfetch-list.1", "vfetch-bench.1"] {
        assert!(folder.path().join(page).exists(), "{page}");
    }
    Ok(())
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() -> Result {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vfetch"))
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    let status = child.wait()?;
    let mut text = String::new();
    child
        .stderr
        .take()
        .ok_or("no stderr")?
        .read_to_string(&mut text)?;
    assert_eq!((status.code(), text.as_str()), (Some(0), ""));
    Ok(())
}
