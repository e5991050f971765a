//! Whom the server runs as: PostgreSQL refuses to run as root.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use super::ServerError;

/// A user without rights.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Whom to become for the server; nobody else, unless we are root.
pub(super) fn unprivileged() -> Result<Option<User>, ServerError> {
    // A file belongs to whom we act as; that is the one way to ask without unsafe code.
    let asked = tempfile::tempfile().and_then(|file| file.metadata());
    let root = asked.map_err(|source| io_error("make a temporary file", source))?.uid() == 0;
    if !root {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    choose(&passwd).map(Some).ok_or(ServerError::NoUser)
}

fn io_error(what: &str, source: io::Error) -> ServerError {
    ServerError::Supervisor { what: what.to_owned(), source: Some(source) }
}

fn choose(passwd: &str) -> Option<User> {
    let entry = |wanted: &str| {
        let mut fields = passwd
            .lines()
            .map(|line| line.split(':'))
            .find_map(|mut fields| (fields.next() == Some(wanted)).then_some(fields))?;
        // On macOS, `nobody` is -2.
        let mut id = || {
            fields.next()?.parse::<i64>().ok().map(|id| u32::try_from(id & 0xffff_ffff).unwrap_or_default())
        };
        let _password = id();
        let (uid, gid) = (id()?, id()?);
        (uid != 0).then(|| User { name: wanted.to_owned(), uid, gid })
    };
    entry("postgres").or_else(|| entry("nobody"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_is_taken_before_nobody() {
        let passwd =
            "root:x:0:0::/:/bin/sh\nnobody:x:65534:65533::/:/bin/sh\npostgres:x:101:104:PG,,,:/:/bin/bash\n";
        assert_eq!(choose(passwd), Some(User { name: "postgres".to_owned(), uid: 101, gid: 104 }));
    }

    #[test]
    fn nobody_is_taken_where_there_is_no_postgres() {
        let user = User { name: "nobody".to_owned(), uid: u32::MAX - 1, gid: u32::MAX - 1 };
        assert_eq!(choose("nobody:*:-2:-2:Unprivileged:/var/empty:/usr/bin/false"), Some(user));
    }

    #[test]
    fn root_by_another_name_is_refused() {
        assert_eq!(choose("postgres:x:0:0::/:/bin/sh"), None);
    }
}
