//! The SQL of the undo log, put together.

/// The form of the tables and functions that this program knows: another one with each change of either.
pub(super) const FORMAT: i32 = 3;

/// What a row is written as, and what its text is read as, goes by settings of the session. These are the same in all of
/// them. `search_path` also keeps names that another schema has from being found.
const PINNED: &str = "set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' \
     set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' \
     set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off' \
     set standard_conforming_strings = 'on'";

const TABLES: &str = include_str!("../sql/undo/tables.sql");
const ACTS: &str = include_str!("../sql/undo/acts.sql");
const FUNCTIONS: [&str; 3] = [
    include_str!("../sql/undo/capture.sql"),
    include_str!("../sql/undo/track.sql"),
    include_str!("../sql/undo/restore.sql"),
];
const TRIGGER: &str = include_str!("../sql/undo/trigger.sql");
const LOCK: &str = include_str!("../sql/undo/lock.sql");
const AGAIN: &str = include_str!("../sql/undo/again.sql");
const FROM_1: [&str; 2] =
    [include_str!("../sql/undo/from_1.sql"), include_str!("../sql/undo/from_1_end.sql")];

/// What makes the tables and functions.
pub(super) fn make() -> String {
    format!("{TABLES}{ACTS}{}", functions())
}

/// What makes them of those of an earlier program, in a transaction.
pub(super) fn upgrade(from: i32) -> String {
    let ([begins, ends], functions) = (FROM_1, functions());
    let make = match from {
        1 => format!("{ACTS}{LOCK}{begins}{AGAIN}{functions}{ends}"),
        _ => format!("{LOCK}{AGAIN}{functions}"),
    };
    format!("{make}update es_undo.about set format = {FORMAT};\n")
}

fn functions() -> String {
    let made = FUNCTIONS.concat().replace("{trigger}", TRIGGER);
    // Once more within a text that is quoted.
    made.replace("{quoted_pinned}", &PINNED.replace('\'', "''")).replace("{pinned}", PINNED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_placeholder_is_left() {
        let made = make();
        assert!(!made.contains("pinned}") && !made.contains("{trigger}"));
        // A function that writes or reads row text has the settings. These have not: triggers call them, or they name
        // `pg_catalog` themselves.
        let functions = made.matches("create function").count()
            + made.matches("create or replace function es_undo.keep").count();
        let bare = [
            "begin(of_run",
            "shape_of(of_tab",
            "busy(of_tab",
            "lock_keys(of_tab",
            "only_own(of_tab",
            "note(of_tab",
            "refuse(of_tab",
            "meet(of_tab",
            "wait_for(later",
            "release(of_run",
            "mend(of_run",
        ];
        assert!(bare.iter().all(|name| made.contains(&format!("create function es_undo.{name}"))));
        assert_eq!(made.matches(PINNED).count(), functions - bare.len());
    }
}
