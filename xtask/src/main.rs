//! What a person runs: `cargo xtask test`, `cargo xtask check`, `cargo xtask bench`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::Parser;

/// Tasks of this workspace
#[derive(Debug, Parser)]
enum Task {
    /// Every test of the workspace: units, rules on every backend, examples, documentation
    Test,
    /// What else must hold: formatting, lints, documentation
    Check,
    /// The benchmarks, in release mode; `bench/README.md` says what they measure
    Bench {
        /// Only the measures whose name contains this
        filter: Option<String>,
    },
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Test => cargo(&["test", "--workspace", "--all-features"], &[]),
        Task::Check => {
            cargo(&["fmt", "--all", "--check"], &[])?;
            cargo(
                &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
                &[],
            )?;
            let docs = ["doc", "--workspace", "--no-deps", "--all-features"];
            cargo(&docs, &[("RUSTDOCFLAGS", "-D warnings")])?;
            cargo(&["check", "--manifest-path", "bench/Cargo.toml"], &[])
        }
        Task::Bench { filter } => {
            let mut args = vec!["run", "--release", "--manifest-path", "bench/Cargo.toml", "--"];
            args.extend(filter.as_deref());
            cargo(&args, &[])
        }
    }
}

/// Runs cargo at the root of the workspace.
fn cargo(args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask stands in the workspace")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(args).envs(env.iter().copied()).current_dir(root).status();
    let status = status.context("cargo does not start; install Rust with rustup")?;
    ensure!(status.success(), "cargo {} failed", args.join(" "));
    Ok(())
}
