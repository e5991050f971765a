//! The SQL of the undo log, put together.

/// The form of the tables that this program knows.
pub(super) const FORMAT: i32 = 1;

/// What a row is written as, and what its text is read as, goes by settings of the session. These are the same in all of
/// them. `search_path` also keeps names that another schema has from being found.
const PINNED: &str = "set search_path = pg_catalog, pg_temp set TimeZone = 'UTC' set DateStyle = 'ISO, YMD' \
     set IntervalStyle = 'postgres' set bytea_output = 'hex' set extra_float_digits = '1' set lc_monetary = 'C' \
     set xmloption = 'content' set array_nulls = 'on' set quote_all_identifiers = 'off'";

const PARTS: [&str; 4] = [
    include_str!("../sql/undo/tables.sql"),
    include_str!("../sql/undo/capture.sql"),
    include_str!("../sql/undo/track.sql"),
    include_str!("../sql/undo/restore.sql"),
];
const TRIGGER: &str = include_str!("../sql/undo/trigger.sql");

/// What makes the tables and functions.
pub(super) fn make() -> String {
    let made = PARTS.concat().replace("{trigger}", TRIGGER);
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
        let functions = made.matches("create function").count();
        let bare = [
            "undoing()",
            "begin(of_run",
            "lock_rows(of_tab",
            "note(of_tab",
            "refuse(of_tab",
            "meet(of_tab",
            "wait_for(later",
        ];
        assert!(bare.iter().all(|name| made.contains(&format!("create function es_undo.{name}"))));
        assert_eq!(made.matches(PINNED).count(), functions - bare.len());
    }
}
