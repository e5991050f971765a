//! The program of the peers: a workspace of its own, built when it is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

pub fn program() -> anyhow::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked"]).current_dir(&folder);
    // One of them brings a server whose protocol is compiled from its description.
    if Command::new("protoc").arg("--version").output().is_ok_and(|out| out.status.success()) {
        cargo.args(["--features", "umadb"]);
    }
    ensure!(cargo.status()?.success(), "the peers do not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| folder.join("target"), PathBuf::from);
    let program = target.join("release/bench-peers");
    program.canonicalize().with_context(|| format!("{} is missing", program.display()))
}

/// The version of a crate, as one of the two lock files has it.
pub fn version(name: &str) -> Option<&'static str> {
    let locks = [include_str!("../../Cargo.lock"), include_str!("../../peers/Cargo.lock")];
    let of = format!("name = \"{name}\"\nversion = \"");
    locks.into_iter().find_map(|lock| lock.split_once(&of)?.1.split('"').next())
}
