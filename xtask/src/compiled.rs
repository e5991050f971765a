//! Where cargo has put the test programs that it compiled with the whole workspace.
//!
//! `cargo test --package` would compile one of them again: fewer crates ask for fewer features of what they share.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{cargo_of, root};

/// The test programs of a package that have one of these names.
pub(crate) fn tests(package: &str, names: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let args = ["test", "--workspace", "--all-features", "--no-run", "--message-format", "json"];
    let output = cargo_of(&args)?.stderr(Stdio::inherit()).output().context("cargo does not start")?;
    ensure!(output.status.success(), "cargo {} failed", args.join(" "));
    let manifest = root()?.join(package).join("Cargo.toml");
    let program = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let target = &message["target"];
        let is_wanted = message["manifest_path"].as_str().map(PathBuf::from).as_ref() == Some(&manifest)
            && target["kind"][0] == "test"
            && names.iter().any(|name| target["name"] == *name);
        is_wanted.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    };
    let found: Vec<PathBuf> = String::from_utf8(output.stdout)?.lines().filter_map(program).collect();
    ensure!(
        found.len() == names.len(),
        "cargo names {} of the test programs {names:?} of {package}",
        found.len()
    );
    Ok(found)
}
