//! Where the programs of PostgreSQL are.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ServerError;

/// The folder of `initdb` and `postgres`: the one that was named, or the first that has them.
pub(super) fn find(named: Option<&PathBuf>) -> Result<PathBuf, ServerError> {
    if let Some(bin) = named {
        return holds(bin).ok_or_else(|| not_there(bin, "`ServerOptions::bin`"));
    }
    if let Some(bin) = env::var_os("ES_POSTGRES_BIN").filter(|bin| !bin.is_empty()) {
        let bin = PathBuf::from(bin);
        return holds(&bin).ok_or_else(|| not_there(&bin, "ES_POSTGRES_BIN"));
    }
    first(on_path().into_iter().chain(installed()).chain(pg_config()).chain(unpacked())).ok_or_else(|| {
        let looked = "PATH, /usr/lib/postgresql, /usr/local/pgsql, Homebrew's folders, `pg_config --bindir` \
                      and target/postgresql";
        ServerError::NotFound { looked: looked.to_owned() }
    })
}

fn not_there(bin: &Path, origin: &'static str) -> ServerError {
    ServerError::NotThere { bin: bin.to_owned(), origin }
}

fn first(mut folders: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    folders.find_map(|bin| holds(&bin))
}

/// The folder where the programs really are: what is on PATH may be two links beside nothing else.
fn holds(bin: &Path) -> Option<PathBuf> {
    let both = ["initdb", "postgres"].iter().all(|program| bin.join(program).is_file());
    if !both {
        return None;
    }
    let real = fs::canonicalize(bin.join("postgres")).ok()?.parent()?.to_owned();
    if real.join("initdb").is_file() { Some(real) } else { fs::canonicalize(bin).ok() }
}

fn on_path() -> Vec<PathBuf> {
    env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

/// Where packages put them, newest first within a place.
fn installed() -> Vec<PathBuf> {
    let mut found = versions(Path::new("/usr/lib/postgresql"), "");
    found.push("/usr/local/pgsql".into());
    found.extend(versions(Path::new("/usr/local/lib/postgresql"), ""));
    found.extend(versions(Path::new("/usr"), "pgsql-"));
    found.extend(versions(Path::new("/opt/homebrew/opt"), "postgresql"));
    found.extend(versions(Path::new("/usr/local/opt"), "postgresql"));
    found.into_iter().map(|folder| folder.join("bin")).collect()
}

fn pg_config() -> Option<PathBuf> {
    let asked = Command::new("pg_config").arg("--bindir").stdin(Stdio::null()).output().ok()?;
    let bin = String::from_utf8(asked.stdout).ok()?;
    asked.status.success().then(|| bin.trim_end().into())
}

/// Where `cargo xtask` unpacks them: in the folder of the workspace, which is here or above.
fn unpacked() -> Vec<PathBuf> {
    let here = env::current_dir().unwrap_or_default();
    let places = here.ancestors().map(|folder| folder.join("target/postgresql"));
    places.flat_map(|place| versions(&place, "")).map(|folder| folder.join("bin")).collect()
}

/// Folders named by a version after this prefix, newest first; one without a version comes last.
fn versions(place: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(place) else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let rest = name.strip_prefix(prefix)?;
            let version = rest.trim_start_matches('@');
            match version.split('.').next()?.parse() {
                Ok(major) => Some((major, entry.path())),
                Err(_) if rest.is_empty() => Some((0, entry.path())),
                Err(_) => None,
            }
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("initdb"), "").unwrap();
        fs::write(folder.join("postgres"), "").unwrap();
    }

    #[test]
    fn the_newest_version_comes_first_by_number() {
        let place = tempfile::tempdir().unwrap();
        for name in ["9.6", "15", "18", "common", "postgresql@16"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        let names = |found: Vec<PathBuf>| -> Vec<String> {
            found.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(versions(place.path(), "")), ["18", "15", "9.6"]);
        assert_eq!(names(versions(place.path(), "postgresql")), ["postgresql@16"]);
    }

    #[test]
    fn a_folder_with_one_of_two_programs_is_passed_over() {
        let place = tempfile::tempdir().unwrap();
        let (half, full) = (place.path().join("half"), place.path().join("full"));
        programs(&full);
        fs::create_dir(&half).unwrap();
        fs::write(half.join("postgres"), "").unwrap();
        let found = first([half, full.clone()].into_iter());
        assert_eq!(found, Some(fs::canonicalize(full).unwrap()));
    }

    #[test]
    fn links_lead_to_the_folder_with_all_programs() {
        let place = tempfile::tempdir().unwrap();
        let (real, links) = (place.path().join("real"), place.path().join("links"));
        programs(&real);
        fs::create_dir(&links).unwrap();
        for program in ["initdb", "postgres"] {
            std::os::unix::fs::symlink(real.join(program), links.join(program)).unwrap();
        }
        assert_eq!(holds(&links), Some(fs::canonicalize(real).unwrap()));
    }
}
