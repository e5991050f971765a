//! A copy of the journal in each bank's own database.

use crate::program::Town;

#[tokio::test]
async fn a_statement_is_what_the_journal_says_and_goes_on_where_it_ended() {
    let town = Town::new().await;
    let transfer = async |method, line| {
        let mut worker = town.worker(method);
        let said = worker.transfer(line);
        worker.end();
        said
    };
    assert_eq!(transfer("saga", "t-1 a-7 b-9 500").await, "settled");
    let declined = transfer("process", "t-2 b-9 a-7 99999999").await;
    let first = "t-1: 5.00 dollars to b-9, settled";
    let second = format!("t-2: 999,999.99 dollars from b-9, {declined}");
    let said = town.run(&["statement", "a-7"]).well().out;
    assert_eq!(said.lines().collect::<Vec<_>>(), [first, &second, "a-7 has 2 transfers"]);

    // What was copied before is not written again, and what is newer there is not taken back.
    let newer = "update advices set version = 1000, outcome = 'newer' where transfer = 't-1'";
    assert_eq!(town.execute("a", newer).await, 1);
    assert_eq!(transfer("two-phase", "t-3 b-9 a-7 700").await, "settled");
    let said = town.run(&["statement", "a-7"]).well().out;
    let third = "t-3: 7.00 dollars from b-9, settled";
    let newer = "t-1: 5.00 dollars to b-9, newer";
    assert_eq!(said.lines().collect::<Vec<_>>(), [newer, &second, third, "a-7 has 3 transfers"]);

    // The other bank's copy was brought in step as well.
    let said = town.run(&["statement", "b-9"]).well().out;
    assert!(said.starts_with("t-1: 5.00 dollars from a-7, settled\n"), "{said}");
    assert!(said.ends_with("b-9 has 3 transfers\n"), "{said}");
}
