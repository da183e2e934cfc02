// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `vfetch`: looks at, exercises and measures the functions of the vfetch driver.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod advise;
mod bench;
mod check;
mod cli;
mod demo;
mod exit;
mod info;
mod limits;
mod list;
mod memory;
mod output;
mod pattern;
mod policy;
mod record;
mod residency;
mod stats;
mod target;
mod top;
mod transfer;
mod units;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn run(cli: &Cli) -> anyhow::Result<()> {
    let host = libvfetch::Host::system();
    let out = output::Output::new(cli.json);
    match &cli.command {
        Command::List => list::run(&host, out),
        Command::Info(args) => info::run(&host, args, out),
        Command::Stats(args) => stats::run(&host, args, out),
        Command::Read(args) => transfer::read(&host, args, out),
        Command::Write(args) => transfer::write(&host, args, out),
        Command::Bench(args) => bench::run(&host, args, out),
        Command::Check(args) => check::run(&host, args, out),
        Command::Demo(args) => demo::run(&host, args, out),
        Command::Policy(command) => policy::run(&host, command, out),
        Command::Limits(args) => limits::run(&host, args, out),
        Command::Residency(args) => residency::run(&host, args, out),
        Command::Advise(args) => advise::run(&host, args, out),
        Command::Top(args) => top::run(&host, args, out),
        Command::Record(args) => record::run(&host, args, out),
        Command::Completions(args) => cli::completions(args),
        Command::Man(args) => cli::man(args),
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // What is wrong may be what stands before it.
        Err(error) => return exit::usage(&error, std::env::args_os().any(|a| a == "--json")),
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error, cli.json),
    }
}
