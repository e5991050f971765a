//! What is true of a transfer, by whichever method.

use std::collections::BTreeMap;

use crate::program::{METHODS, Ran, Town};

async fn for_each<F: Future<Output = ()>>(check: impl Fn(&'static str) -> F) {
    futures::future::join_all(METHODS.map(check)).await;
}

#[tokio::test]
async fn a_transfer_moves_the_money_once_whoever_asks_again() {
    for_each(async |method| {
        let town = Town::new().await;
        let (from, to) = (town.account("a-17").await.0, town.account("b-4").await.0);
        let mut worker = town.worker(method);
        assert_eq!(worker.transfer("t-1 a-17 b-4 500"), "settled", "{method}");
        assert_eq!(worker.transfer("t-1 a-17 b-4 500"), "settled", "{method}");
        let other = worker.transfer("t-1 a-17 b-4 501");
        assert!(
            other.starts_with("failed") && other.contains("that of another transfer"),
            "{method}: {other}"
        );
        worker.end();
        // Another program, and the other direction.
        let mut worker = town.worker(method);
        assert_eq!(worker.transfer("t-1 a-17 b-4 500"), "settled", "{method}");
        assert_eq!(worker.transfer("t-2 b-4 a-17 200"), "settled", "{method}");
        worker.end();
        let now = (town.account("a-17").await, town.account("b-4").await);
        assert_eq!(now, ((from - 300, 0), (to + 300, 0)), "{method}");
        assert_eq!(town.run(&["reconcile"]).well().last(), "reconciliation clean", "{method}");
    })
    .await;
}

#[tokio::test]
async fn what_the_second_bank_refuses_leaves_nothing_behind() {
    for_each(async |method| {
        let town = Town::new().await;
        let before = (town.account("a-17").await, town.account("b-4").await);
        town.run(&["close", "b"]).well();
        let mut worker = town.worker(method);
        let closed = "declined: the bank takes no transfers now";
        assert_eq!(worker.transfer("t-1 a-17 b-4 500"), closed, "{method}");
        assert_eq!(worker.transfer("t-2 b-4 a-17 1"), "settled", "{method}: it sends");
        town.run(&["open", "b"]).well();
        assert_eq!(worker.transfer("t-1 a-17 b-4 500"), closed, "{method}: a key has one outcome");
        assert_eq!(worker.transfer("t-3 a-17 b-4 1"), "settled", "{method}");
        let missing = worker.transfer("t-4 a-17 b-4000 500");
        assert_eq!(missing, "declined: there is no such account", "{method}");
        worker.end();
        assert_eq!((town.account("a-17").await, town.account("b-4").await), before, "{method}");
        assert_eq!(town.run(&["reconcile"]).well().last(), "reconciliation clean", "{method}");
    })
    .await;
}

#[tokio::test]
async fn nobody_sends_more_than_there_is_however_many_try() {
    for_each(async |method| {
        let town = Town::new().await;
        let (has, _) = town.account("a-9").await;
        let mut worker = town.worker(method);
        let overdrawn = "declined: the account has not that much";
        assert_eq!(worker.transfer(&format!("t-0 a-9 b-4 {}", has + 1)), overdrawn, "{method}");
        // Five at once, of which three fit.
        let each = has / 3;
        for n in 1..=5 {
            worker.ask(&format!("t-{n} a-9 b-{n} {each}"));
        }
        let said: Vec<String> = (1..=5).map(|_| worker.hear()).collect();
        let settled = said.iter().filter(|said| said.ends_with(" settled")).count();
        let declined = said.iter().filter(|said| said.ends_with(overdrawn)).count();
        assert_eq!((settled, declined), (3, 2), "{method}: {said:?}");
        worker.end();
        assert_eq!(town.account("a-9").await, (has - 3 * each, 0), "{method}");
        assert_eq!(town.run(&["reconcile"]).well().last(), "reconciliation clean", "{method}");
    })
    .await;
}

#[tokio::test]
async fn money_is_conserved_among_those_who_want_the_same_accounts_at_once() {
    for_each(async |method| {
        let town = Town::new().await;
        let total = town.total().await;
        let mut workers = [town.worker(method), town.worker(method)];
        // Each is asked of both programs, under one key.
        for n in 0..40 {
            let (from, to) = if n % 2 == 0 { ("a", "b") } else { ("b", "a") };
            for worker in &mut workers {
                worker.ask(&format!("t-{n} {from}-{} {to}-{} {}", n % 3 + 1, n % 4 + 1, n + 1));
            }
        }
        let mut outcomes = BTreeMap::<String, String>::new();
        for worker in &mut workers {
            for _ in 0..40 {
                let said = worker.hear();
                let (key, what) = said.split_once(' ').expect("a key, and what came of it");
                let before = outcomes.insert(key.to_owned(), what.to_owned());
                assert!(before.is_none_or(|before| before == what), "{method}: {said}");
            }
        }
        // Rows that are not decided are kept from others by the undo log: who waits for them in vain gives up.
        let is_right =
            |what: &String| what == "settled" || method == "undo-log" && what.contains(" failed: ");
        assert!(outcomes.values().all(is_right), "{method}: {outcomes:?}");
        assert_eq!(outcomes.len(), 40);
        for worker in workers {
            worker.end();
        }
        assert_eq!(town.total().await, total, "{method}");
        assert_eq!(town.run(&["reconcile"]).well().last(), "reconciliation clean", "{method}");
    })
    .await;
}

/// One of the two has it, and the other one is refused or says the same; the money moves once.
async fn are_one_transfer(one: &'static str, other: &'static str) {
    const TRANSFERS: i32 = 8;
    let (town, mut before) = (Town::new().await, Vec::new());
    let total = town.total().await;
    for n in 1..=TRANSFERS {
        before.push(town.account(&format!("a-{n}")).await.0);
    }
    let mut workers = [town.worker(one), town.worker(other)];
    for n in 1..=TRANSFERS {
        workers.iter_mut().for_each(|worker| worker.ask(&format!("t-{n} a-{n} b-{n} 500")));
    }
    let mut said = BTreeMap::<String, Vec<String>>::new();
    for worker in &mut workers {
        for _ in 0..TRANSFERS {
            let heard = worker.hear();
            let (key, what) = heard.split_once(' ').expect("a key, and what came of it");
            said.entry(key.to_owned()).or_default().push(what.to_owned());
        }
    }
    for worker in workers {
        worker.end();
    }
    for (n, before) in (1..=TRANSFERS).zip(before) {
        let said = &said[&format!("t-{n}")];
        let settled = said.iter().filter(|what| *what == "settled").count();
        let others = said.iter().filter(|what| what.contains("another method is at it")).count();
        assert!(settled > 0 && settled + others == 2, "{one} and {other}: t-{n}: {said:?}");
        let now = town.account(&format!("a-{n}")).await;
        assert_eq!(now, (before - 500, 0), "{one} and {other}: t-{n}: {said:?}");
    }
    assert_eq!(town.total().await, total, "{one} and {other}");
    assert_eq!(town.run(&["reconcile"]).well().last(), "reconciliation clean", "{one} and {other}");
}

#[tokio::test]
async fn two_methods_at_once_under_one_key_are_one_transfer() {
    for (n, one) in METHODS.iter().enumerate() {
        for other in &METHODS[n + 1..] {
            are_one_transfer(one, other).await;
        }
    }
}

#[tokio::test]
async fn a_person_is_told_what_came_of_it() {
    let town = Town::new().await;
    let (has, _) = town.account("a-17").await;
    let transfer = |cents| {
        ["transfer", "--by", "saga", "--from", "a-17", "--to", "b-4", "--key", "rent", "--cents", cents]
    };
    let ran = town.run(&transfer("500")).well();
    let [first, second, _] = ran.out.lines().collect::<Vec<_>>()[..] else { panic!("{ran:?}") };
    assert_eq!(first, "5.00 dollars from a-17 to b-4, by saga: settled");
    assert!(second.starts_with("a-17 has ") && second.ends_with(" dollars"), "{ran:?}");
    assert_eq!(town.run(&transfer("500")).well().out, ran.out, "the key acts once");
    assert_eq!(town.account("a-17").await.0, has - 500);
    town.run(&transfer("600")).complains(1, &["that of another transfer"]);
    let much = town.run(&["transfer", "--by", "tcc", "--from", "a-17", "--to", "b-4", "--cents", "99999999"]);
    assert_eq!(much.code, Some(1));
    assert!(much.out.contains("by tcc: declined: the account has not that much"), "{much:?}");
}

/// Runs `transfer` under a key.
fn under_a_key(town: &Town, by: &str, key: &str, from: &str, to: &str) -> Ran {
    town.run(&["transfer", "--by", by, "--from", from, "--to", to, "--cents", "500", "--key", key])
}

#[tokio::test]
async fn a_key_that_is_over_is_so_for_every_method_and_in_both_directions() {
    let town = Town::new().await;
    let before = (town.account("a-17").await, town.account("b-4").await);
    // Declined by one, and asked for by the others once the bank takes it.
    town.run(&["close", "b"]).well();
    let declined = under_a_key(&town, "two-phase", "rent", "a-17", "b-4");
    assert!(declined.code == Some(1) && declined.out.contains("declined"), "{declined:?}");
    town.run(&["open", "b"]).well();
    for method in METHODS {
        let again = under_a_key(&town, method, "rent", "a-17", "b-4");
        assert!(again.code == Some(1) && again.out.contains("declined"), "{method}: {again:?}");
    }
    assert_eq!((town.account("a-17").await, town.account("b-4").await), before);
    // Settled by one: it is neither paid again nor another way round.
    assert!(under_a_key(&town, "saga", "wage", "a-17", "b-4").well().out.contains("settled"));
    let ((from, _), (to, _)) = before;
    let after = ((from - 500, 0), (to + 500, 0));
    for method in METHODS {
        assert!(under_a_key(&town, method, "wage", "a-17", "b-4").well().out.contains("settled"), "{method}");
        under_a_key(&town, method, "wage", "b-4", "a-17").complains(1, &["that of another transfer"]);
    }
    assert_eq!((town.account("a-17").await, town.account("b-4").await), after);
    assert_eq!(town.run(&["reconcile"]).well().last(), "reconciliation clean");
}
