//! Which versions of PostgreSQL are on this machine.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the folder of the programs to the tests; a person may set it too.
pub(crate) const BIN: &str = "ES_POSTGRES_BIN";
/// Where what is fetched is unpacked, in the workspace.
const OURS: &str = "target/postgresql";
/// The same for root in a workspace that nobody else may enter.
const SHARED: &str = "/usr/local/lib/postgresql";
/// The oldest major version that es-postgres is tested on.
const OLDEST: u32 = 15;

/// The programs of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installation {
    pub(crate) major: u32,
    /// The folder of `initdb` and `postgres`.
    bin: String,
}

impl Installation {
    pub(crate) fn bin(&self) -> &str {
        &self.bin
    }

    /// What is in this folder, if it starts and is not too old.
    pub(crate) fn at(bin: &Path) -> Option<Self> {
        let real = fs::canonicalize(bin.join("postgres")).ok()?;
        // On PATH there may be two links; the other programs are where they lead to.
        let bin = real.parent().filter(|real| real.join("initdb").is_file()).unwrap_or(bin);
        bin.join("initdb").is_file().then_some(())?;
        let asked = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
        let major = asked.status.success().then(|| major(&String::from_utf8_lossy(&asked.stdout)))??;
        (major >= OLDEST).then_some(Self { major, bin: bin.to_str()?.to_owned() })
    }
}

impl fmt::Display for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL {}", self.major)
    }
}

/// One installation of each version, first the one that tests use where nothing is said.
///
/// The places are those that `es_postgres::testing` documents.
pub(crate) fn found(root: &Path) -> Vec<Installation> {
    let named = env::var_os(BIN).filter(|bin| !bin.is_empty()).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = named.into_iter().chain(env::split_paths(&path)).collect();
    places.extend(folders(Path::new("/usr/lib/postgresql"), ""));
    places.push("/usr/local/pgsql/bin".into());
    places.extend(folders(Path::new("/usr"), "pgsql-"));
    places.extend(folders(Path::new("/opt/homebrew/opt"), "postgresql"));
    places.extend(folders(Path::new("/usr/local/opt"), "postgresql"));
    places.extend(pg_config());
    places.extend(folders(Path::new(SHARED), ""));
    places.extend(folders(&root.join(OURS), ""));

    let mut found: Vec<Installation> = Vec::new();
    for installation in places.iter().filter_map(|place| Installation::at(place)) {
        if found.iter().all(|other| other.major != installation.major) {
            found.push(installation);
        }
    }
    found
}

/// Where this program unpacks what it fetches, a folder for each major version.
///
/// Root's server runs as another user, who may not enter the folders of root.
pub(crate) fn unpacked(root: &Path) -> PathBuf {
    if is_root() && !is_open(root) { SHARED.into() } else { root.join(OURS) }
}

pub(crate) fn is_root() -> bool {
    let asked = Command::new("id").arg("-u").output();
    asked.is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

/// Whether everybody may enter this folder.
fn is_open(folder: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let open =
            |folder: &Path| fs::metadata(folder).is_ok_and(|about| about.permissions().mode() & 0o001 != 0);
        folder.ancestors().all(open)
    }
    #[cfg(not(unix))]
    {
        folder.exists()
    }
}

fn pg_config() -> Option<PathBuf> {
    let asked = Command::new("pg_config").arg("--bindir").output().ok()?;
    asked.status.success().then(|| String::from_utf8_lossy(&asked.stdout).trim_end().into())
}

/// `place/{prefix}*/bin`, the highest version first.
fn folders(place: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let mut folders: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?.trim_start_matches('@');
            Some((version.split('.').next()?.parse().unwrap_or(0), entry.path().join("bin")))
        })
        .collect();
    folders.sort_by(|a, b| b.cmp(a));
    folders.into_iter().map(|(_, bin)| bin).collect()
}

/// The major version in what `postgres --version` prints.
fn major(printed: &str) -> Option<u32> {
    let version = printed.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_is_printed() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 19devel\n"), Some(19));
        assert_eq!(major("no version\n"), None);
    }
}
