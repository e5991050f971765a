//! Differences between the books.

use crate::program::Town;

#[tokio::test]
async fn a_difference_is_named_by_its_class_and_is_a_failure() {
    let town = Town::new().await;
    let mut worker = town.worker("saga");
    for n in 1..=5 {
        assert_eq!(worker.transfer(&format!("t-{n} a-{n} b-{n} 500")), "settled");
    }
    worker.end();
    assert_eq!(town.run(&["reconcile"]).well().last(), "reconciliation clean");
    let lines = "delete from ledger where transfer = 't-1'";
    assert_eq!((town.execute("a", lines).await, town.execute("b", lines).await), (1, 1));
    assert_eq!(town.execute("b", "delete from ledger where transfer = 't-2'").await, 1);
    assert_eq!(town.execute("b", "update ledger set cents = 600 where transfer = 't-3'").await, 1);
    let again = "insert into ledger values ('t-4', 'received', 4, 500)";
    assert_eq!(town.execute("a", again).await, 1);
    let begun = "insert into ledger values ('t-6', 'sent', 6, 500)";
    assert_eq!(town.execute("a", begun).await, 1);
    let ran = town.run(&["reconcile"]);
    ran.complains(1, &[" differences"]);
    for line in [
        "missing-left t-1: settled, sent nothing, given back nothing, received nothing",
        "missing-right t-2: settled, sent 5.00 at a-2, given back nothing, received nothing",
        "mismatch t-3: settled, sent 5.00 at a-3, given back nothing, received 6.00 at b-3",
        "duplicate t-4: sent 5.00 at a-4, given back nothing, received 5.00 at a-4 and 5.00 at b-4",
        "pending t-6: not over, sent 5.00 at a-6, given back nothing, received nothing",
        "mismatch a-6: it has sent 0.00 and received 0.00, its ledger 5.00 and 0.00",
    ] {
        assert!(ran.out.lines().any(|own| own == line), "no {line:?} in {}", ran.out);
    }
}
