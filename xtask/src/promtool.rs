//! Gets `promtool`, which checks the alert rules, where it is missing: from Debian's package, unpacked and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::provide::{run, runs};
use crate::say;

/// The variable by which tests find it.
pub(crate) const PROMTOOL: &str = "PROMTOOL";
/// Where it is unpacked.
const OURS: &str = "target/promtool";

/// The program; empty where there is none: the tests then do without.
pub(crate) fn provided(root: &Path) -> String {
    let ours = root.join(OURS);
    let named = std::env::var(PROMTOOL).ok().filter(|named| !named.is_empty());
    let there = |program: &Path| runs(&program.to_string_lossy(), &["--version"]);
    let known = [named.map(PathBuf::from), Some("promtool".into()), Some(ours.join("promtool"))];
    if let Some(found) = known.into_iter().flatten().find(|program| there(program)) {
        return found.to_string_lossy().into_owned();
    }
    match fetch(&ours) {
        Ok(program) => program.to_string_lossy().into_owned(),
        Err(error) => {
            say(&format!("without promtool, so Prometheus does not check the alert rules: {error:#}"));
            String::new()
        }
    }
}

/// The service that the package would set up is of no use here, so one program is taken out of it.
fn fetch(ours: &Path) -> anyhow::Result<PathBuf> {
    say("fetching promtool from the package prometheus");
    let work = ours.join(format!(".fetch-{}", std::process::id()));
    fs::create_dir_all(&work)?;
    let done = unpack(&work).and_then(|program| {
        let to = ours.join("promtool");
        // In one step, so that nobody finds half of it.
        fs::rename(program, &to)?;
        Ok(to)
    });
    fs::remove_dir_all(work)?;
    done
}

fn unpack(work: &Path) -> anyhow::Result<PathBuf> {
    run(Command::new("apt-get").args(["download", "--quiet", "prometheus"]).current_dir(work))?;
    let files = fs::read_dir(work)?.flatten().map(|entry| entry.path());
    let package = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    let package = package.context("apt-get left no package of prometheus")?;
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(work))?;
    Ok(work.join("usr/bin/promtool"))
}
