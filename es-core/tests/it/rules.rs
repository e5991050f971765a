//! The table of rules in `docs/rules.md` names tests that exist, and every test stands in it.

use std::collections::BTreeSet;

use es_core::testing::conformance::{OPERATED, RULES};

/// The tests of `tests/it` that the table may name beside the suites.
const OWN: [&str; 6] = [
    include_str!("kit.rs"),
    include_str!("workload.rs"),
    include_str!("warnings.rs"),
    include_str!("reactors.rs"),
    include_str!("gauges.rs"),
    include_str!("shown.rs"),
];

/// Every `name` in backticks that stands in the second column.
fn named() -> BTreeSet<String> {
    let table = include_str!("../../../docs/rules.md");
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| rule"));
    let tests = rows.filter_map(|row| row.split('|').nth(3));
    tests.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn every_test_in_the_table_exists() {
    let unknown: Vec<_> = named()
        .into_iter()
        .filter(|name| {
            // Those are checked by the tests of those crates.
            let is_own = !name.starts_with("sagas::") && !name.starts_with("es_postgres::");
            is_own
                && !RULES.iter().chain(OPERATED).any(|rule| rule == name)
                && !OWN.iter().any(|file| file.contains(&format!("fn {name}()")))
        })
        .collect();
    assert!(unknown.is_empty(), "docs/rules.md names tests that do not exist: {unknown:#?}");
}

#[test]
fn every_test_of_the_suites_stands_in_the_table() {
    let named = named();
    let missing: Vec<_> = RULES.iter().chain(OPERATED).filter(|rule| !named.contains(**rule)).collect();
    assert!(missing.is_empty(), "docs/rules.md lacks: {missing:#?}");
}
