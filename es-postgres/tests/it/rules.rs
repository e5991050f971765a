//! The table of rules in `docs/rules.md` names tests of this crate that exist.

const FILES: [(&str, &str); 2] =
    [("history", include_str!("history.rs")), ("failover", include_str!("failover.rs"))];

#[test]
fn every_test_of_this_crate_in_the_table_exists() {
    let table = include_str!("../../../docs/rules.md");
    let names = table.split('`').filter_map(|name| name.strip_prefix("es_postgres::"));
    let named: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    let exists = |name: &str| {
        FILES.iter().any(|(file, text)| {
            let test = name.strip_prefix(&format!("{file}::"));
            test.is_some_and(|test| text.contains(&format!("async fn {test}()")))
        })
    };
    let unknown: Vec<&str> = named.iter().copied().filter(|name| !exists(name)).collect();
    assert!(unknown.is_empty() && !named.is_empty(), "{unknown:#?} of {named:#?}");
}
