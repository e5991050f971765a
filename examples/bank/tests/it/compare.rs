//! The methods beside each other.

use crate::program::{METHODS, Town, run};

#[tokio::test]
async fn the_same_transfers_by_each_method_end_with_all_money_there() {
    let town = Town::new().await;
    let total = town.total().await;
    let ran = town.run(&["compare", "--count", "100"]).well();
    assert_eq!(
        ran.last(),
        "100 transfers by 5 methods: money conserved, 0 in doubt, reconciliation clean",
        "{ran:?}"
    );
    for method in METHODS {
        let row = ran.out.lines().find(|line| line.contains(&format!("│ {method} ")));
        let row = row.unwrap_or_else(|| panic!("no {method} in {ran:?}"));
        let cells: Vec<&str> = row.split(['│', '┆']).map(str::trim).collect();
        let number = |at: usize| cells[at].parse::<f64>().unwrap_or_else(|_| panic!("{row}"));
        // One in 25 asks for too much; some come while bank b is closed.
        assert!(number(2) + number(3) == 100.0 && number(3) >= 4.0, "{row}");
        assert!((4..=7).all(|at| number(at) > 0.0) && number(4) <= number(5), "{row}");
        assert!(cells[8].contains(" snapshots"), "{row}");
        assert_eq!(cells[8].contains("reserved in"), method == "tcc", "{row}");
    }
    assert_eq!(town.total().await, total);
    assert_eq!(town.run(&["reconcile"]).well().last(), "reconciliation clean");
}

#[test]
fn without_databases_the_program_brings_its_own() {
    let ran = run(&["compare", "--count", "20", "--by", "saga"]).well();
    let last = "20 transfers by 1 method: money conserved, 0 in doubt, reconciliation clean";
    assert_eq!(ran.last(), last, "{ran:?}");
}
