//! What a person runs: `cargo xtask test`, `cargo xtask check`, `cargo xtask bench`, `cargo xtask postgres`.

mod compiled;
mod postgres;
mod promtool;
mod provide;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::Parser;

use postgres::{BIN, Installation};

/// Tasks of this workspace
#[derive(Debug, Parser)]
enum Task {
    /// Every test of the workspace: units, rules on every backend, examples, documentation
    ///
    /// PostgreSQL, and promtool for the alert rules, are provided where they are missing. es-postgres is tested again on each other version found.
    Test {
        /// On PostgreSQL 15 or so, and on 18: also fetch what is missing of it
        #[arg(long)]
        all_postgres: bool,
    },
    /// What else must hold: formatting, lints, documentation
    Check,
    /// The benchmarks, in release mode; `bench/README.md` says what they measure
    Bench {
        /// Only the measures whose name contains the first of them; then options, such as `postgres --write`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Provide PostgreSQL where it is missing, and say where it is
    Postgres {
        /// This major version, from a Python package, unless it is there
        #[arg(long)]
        major: Option<u32>,
    },
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Test { all_postgres } => test(all_postgres),
        Task::Check => {
            cargo(&["fmt", "--all", "--check"], NO_ENV)?;
            cargo(
                &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
                NO_ENV,
            )?;
            let docs = ["doc", "--workspace", "--no-deps", "--all-features"];
            cargo(&docs, &[("RUSTDOCFLAGS", "-D warnings")])?;
            // In the folder of this workspace: most of what it needs is there.
            cargo(&["check", "--manifest-path", "bench/Cargo.toml", "--target-dir", "target"], NO_ENV)
        }
        Task::Bench { args: wanted } => {
            let installation = provide::any(root()?)?;
            let mut args = vec!["run", "--release", "--manifest-path", "bench/Cargo.toml", "--"];
            args.extend(wanted.iter().map(String::as_str));
            cargo(&args, &[(BIN, installation.bin())])
        }
        Task::Postgres { major } => {
            let installation = match major {
                Some(major) => provide::major(root()?, major)?,
                None => provide::any(root()?)?,
            };
            say(&format!("{installation} in {}", installation.bin()));
            Ok(())
        }
    }
}

const NO_ENV: &[(&str, &str)] = &[];

/// The whole workspace on one PostgreSQL, then what speaks to it on every other.
fn test(all_postgres: bool) -> anyhow::Result<()> {
    let first = provide::any(root()?)?;
    if all_postgres {
        provide::major(root()?, provide::NEWEST)?;
    }
    let others: Vec<Installation> =
        postgres::found(root()?).into_iter().filter(|other| other.major != first.major).collect();
    let (threads, promtool) = (threads(), promtool::provided(root()?));
    let env = |on: &Installation| {
        [
            (BIN, on.bin().to_owned()),
            (promtool::PROMTOOL, promtool.clone()),
            ("RUST_TEST_THREADS", threads.clone()),
        ]
    };
    cargo(&["test", "--workspace", "--all-features"], &env(&first))?;
    for other in &others {
        say(&format!("es-postgres again, on {other}"));
        for test in compiled::tests("es-postgres", &["it", "operate"])? {
            let what = format!("{} on {other}", test.display());
            run(Command::new(test).current_dir(root()?.join("es-postgres")).envs(env(other)), &what)?;
        }
    }
    let also: String = others.iter().map(|other| format!("; es-postgres also on {other}")).collect();
    say(&format!("tested: the workspace on {first}{also}"));
    Ok(())
}

/// How many tests run at once: most of them wait for a server, a disk or a lease half of the time.
fn threads() -> String {
    std::env::var("RUST_TEST_THREADS").unwrap_or_else(|_| {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        (2 * cores).to_string()
    })
}

/// Runs cargo at the root of the workspace.
fn cargo(args: &[&str], env: &[(&str, impl AsRef<OsStr>)]) -> anyhow::Result<()> {
    run(
        cargo_of(args)?.envs(env.iter().map(|(name, value)| (name, value))),
        &format!("cargo {}", args.join(" ")),
    )
}

fn cargo_of(args: &[&str]) -> anyhow::Result<Command> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let _ = cargo.args(args).current_dir(root()?);
    Ok(cargo)
}

fn run(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{what} does not start"))?;
    ensure!(status.success(), "{what} failed");
    Ok(())
}

/// The folder of the workspace.
fn root() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask stands in the workspace")
}

/// One line for the person who runs this.
#[expect(clippy::print_stdout, reason = "a program for the terminal")]
fn say(line: &str) {
    println!("xtask: {line}");
}
