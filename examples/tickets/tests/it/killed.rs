//! Killed at any moment, it continues where it was.

use es_core::store::{EventStore as _, StreamId, Version};
use es_sqlite::SqliteBackend;

use crate::log;
use crate::program::BoxOffice;

const PLAY: [&str; 7] = ["play", "--flows", "200", "--deadline", "1s", "--database", "concert.db"];

#[tokio::test]
async fn a_run_that_is_killed_again_and_again_ends_with_nothing_open() {
    let office = BoxOffice::new();
    let store = SqliteBackend::open(office.path("concert.db")).await.expect("a new one");
    // From the first orders to the last tickets: about 1,000 events.
    for events in [20, 150, 300, 450, 600] {
        let mut running = office.start(&PLAY);
        while store.head().await.expect("it is readable beside a writer").0 < events {
            assert_eq!(running.ended(), None, "it ended before {events} events were stored");
            tokio::task::yield_now().await;
        }
        running.kill();
        log::totals(&store).await;
    }
    let ran = office.run(&PLAY).well();
    let totals = log::totals(&store).await;
    assert_eq!((totals[0], totals[3], totals[4]), (200, 0, 0), "{ran:?}");
    assert_eq!(ran.totals(), totals);
    assert_eq!(store.verify().await.expect("readable"), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_open_says_what_it_waits_for() {
    let office = BoxOffice::new();
    let store = SqliteBackend::open(office.path("concert.db")).await.expect("a new one");
    let database = ["--database", "concert.db"];
    let mut running = office.start(&[&["play", "--flows", "6", "--deadline", "20m"], &database[..]].concat());
    let asked = StreamId::new("payment-6").expect("a short name");
    while store.stream(&asked, Version(0), 1).await.expect("readable").is_empty() {
        assert_eq!(running.ended(), None, "order 6 is never paid");
        tokio::task::yield_now().await;
    }
    running.kill();
    let shown = office.run(&[&["show", "6"], &database[..]].concat()).well();
    let waits: Vec<&str> = shown.out.lines().skip_while(|line| *line != "the sale is open").skip(1).collect();
    let [answer @ .., timer, event] = &waits[..] else { panic!("{shown:?}") };
    // It was killed before or after the answer to the charge was taken in.
    let is_of_charge = |line: &&str| line.starts_with("it waits for the answer to charge of payment \"6\", ");
    assert!(answer.len() <= 1 && answer.iter().all(is_of_charge), "{shown:?}");
    assert_eq!(*event, "it waits for an event with its key or one of its associations");
    assert!(timer.starts_with("it waits for timer \"hold_over\", which fires at "), "{shown:?}");
}

#[tokio::test]
async fn ctrl_c_ends_it_in_words_and_the_next_run_completes_it() {
    let office = BoxOffice::new();
    let store = SqliteBackend::open(office.path("concert.db")).await.expect("a new one");
    let mut running = office.start(&PLAY);
    while store.head().await.expect("it is readable beside a writer").0 < 100 {
        assert_eq!(running.ended(), None, "it ended too early");
        tokio::task::yield_now().await;
    }
    let ran = running.interrupt();
    assert_eq!((ran.code, ran.err.as_str()), (Some(130), ""), "{ran:?}");
    assert!(ran.out.contains("the next run continues"), "{ran:?}");
    assert_eq!(office.run(&PLAY).well().totals(), log::totals(&store).await);
}
