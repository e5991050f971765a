//! Messages of other services are taken once: I1 to I9.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use es_core::store::Table;
use es_core::{Backend as _, EventStore as _, Timestamp};
use sagas::message::inbox::{InboxError, Lane, OperateError, Outcome, Verb};
use sagas::message::{Envelope, Sequence};
use sagas::reconcile::{self, Class, ReconcileError};
use serde_json::{Value, json};

use super::Subject;
use super::desk::{Desk, SHOP, Sent, lane, mail, operated, order, sent, take, until_answered};
use super::ground::Ground;

fn at(sequence: u64) -> Sequence {
    sequence.to_string().parse().unwrap()
}

/// What is missing: behind which message, and up to which.
fn missing(outcome: Outcome) -> (Option<u64>, u64) {
    let Outcome::Gap(gap) = outcome else { panic!("nothing is missing: {outcome:?}") };
    let n = |sequence: Sequence| sequence.to_string().parse().unwrap();
    (gap.after.map(n), n(gap.up_to))
}

fn ids(key: &str, n: std::ops::RangeInclusive<u64>) -> Vec<String> {
    n.map(|n| format!("{key}{n}")).collect()
}

/// I1
pub(super) async fn a_message_that_comes_again_or_too_soon_changes_nothing<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox();
    assert_eq!(take::<S>(&inbox, &order("a", 1)).await, Outcome::Taken);
    for n in 2..8 {
        // Two too soon, then the one that is next, then all of them again.
        for ahead in [n + 1, n + 2] {
            let outcome = take::<S>(&inbox, &order("a", ahead)).await;
            assert!(matches!(outcome, Outcome::Gap(_)), "{ahead} before {n}: {outcome:?}");
        }
        assert_eq!(take::<S>(&inbox, &order("a", n)).await, Outcome::Taken);
        for again in 1..=n {
            assert_eq!(take::<S>(&inbox, &order("a", again)).await, Outcome::Duplicate);
        }
        assert_eq!(take::<S>(&inbox, &mail(&format!("m{n}"))).await, Outcome::Taken);
        assert_eq!(take::<S>(&inbox, &mail(&format!("m{n}"))).await, Outcome::Duplicate);
    }
    // No time makes a repetition of a lane new.
    desk.clock.advance(Duration::from_hours(24 * 365 * 10));
    assert_eq!(take::<S>(&inbox, &order("a", 1)).await, Outcome::Duplicate);
    assert_eq!(desk.entered("a").await, ids("a", 1..=7));
    assert_eq!(desk.entered("mail").await, ids("m", 2..=7));
    assert_eq!(desk.orders.calls("a9"), 0, "who is too soon is not looked at");
}

/// I2
pub(super) async fn a_gap_is_noticed_and_filled_in_order<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let (inbox, log) = (desk.inbox(), Sent::default());
    assert_eq!(missing(take::<S>(&inbox, &order("a", 3)).await), (None, 20));
    assert_eq!(take::<S>(&inbox, &order("a", 1)).await, Outcome::Taken);
    assert_eq!(missing(take::<S>(&inbox, &order("a", 9)).await), (Some(10), 80));

    let filling = desk.inbox().log(log.clone());
    *log.0.lock().unwrap() = (1..=7).map(|n| order("a", n)).collect();
    assert_eq!(missing(take::<S>(&filling, &order("a", 9)).await), (Some(70), 80), "one is lost");
    assert_eq!(desk.entered("a").await, ids("a", 1..=7), "what there is was taken");
    log.0.lock().unwrap().push(order("a", 8));
    *log.1.lock().unwrap() = true;
    let away = filling.take(&order("a", 9)).await;
    assert!(!matches!(away, Ok(Outcome::Taken)), "{away:?}");
    *log.1.lock().unwrap() = false;
    assert_eq!(take::<S>(&filling, &order("a", 9)).await, Outcome::Taken);
    assert_eq!(desk.entered("a").await, ids("a", 1..=9));

    // What fails while a gap is filled parks the lane, and the one that came waits behind it.
    *log.0.lock().unwrap() = (1..=4).map(|n| order("b", n)).collect();
    desk.orders.fail(&["b2"]);
    assert_eq!(take::<S>(&filling, &order("b", 4)).await, Outcome::Parked { waiting: 3 });
    assert_eq!(desk.entered("b").await, ids("b", 1..=1));

    // A lane that begins where it is: what was before is not missed, what is lost later is.
    let from_here = desk.inbox().starts_anywhere();
    assert_eq!(take::<S>(&from_here, &order("c", 5)).await, Outcome::Taken);
    assert_eq!(take::<S>(&from_here, &order("c", 4)).await, Outcome::Duplicate);
    assert_eq!(missing(take::<S>(&from_here, &order("c", 7)).await), (Some(50), 60));
}

/// I2
pub(super) async fn a_gap_that_may_be_filled_soon_is_not_told_at_once<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let log = Sent::default();
    let inbox = desk.inbox().log(log.clone());
    assert_eq!(take::<S>(&inbox, &order("a", 1)).await, Outcome::Taken);
    // Its log does not have the second one yet.
    for _ in 0..3 {
        let early = inbox.take(&order("a", 3)).await;
        assert!(matches!(early, Err(InboxError::Log(_) | InboxError::Store(_))), "{early:?}");
    }
    log.0.lock().unwrap().push(order("a", 2));
    assert_eq!(take::<S>(&inbox, &order("a", 3)).await, Outcome::Taken);
    // It never has it, or does not answer.
    for is_away in [false, true] {
        *log.1.lock().unwrap() = is_away;
        let key = if is_away { "b" } else { "c" };
        assert_eq!(
            missing(take::<S>(&inbox, &order(key, 2)).await),
            (None, 10),
            "the sender is told in the end"
        );
    }
}

/// I2
pub(super) async fn what_a_log_gives_that_is_no_message_blames_no_other<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let log = Sent::default();
    let inbox = desk.inbox().log(log.clone());
    let mut bad = order("a", 1);
    bad.specversion = "0.3".to_owned();
    log.0.lock().unwrap().push(bad);
    let blamed = inbox.take(&order("a", 2)).await;
    assert!(matches!(blamed, Err(InboxError::Log(_) | InboxError::Store(_))), "{blamed:?}");
    log.0.lock().unwrap()[0] = order("a", 1);
    assert_eq!(take::<S>(&inbox, &order("a", 2)).await, Outcome::Taken);
}

/// I3
pub(super) async fn a_consumer_that_dies_before_it_answers_takes_nothing_twice<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    for n in 1..=20 {
        let dies = Arc::new(desk.inbox());
        let (order, mail) = (order("a", n), mail(&format!("m{n}")));
        for message in [&order, &mail] {
            let task = tokio::spawn({
                let (dies, message) = (dies.clone(), message.clone());
                async move { dies.take(&message).await.map(|_| ()) }
            });
            // Wherever it is; sometimes after its commit.
            tokio::time::sleep(Duration::from_millis(n * 3 % 40)).await;
            task.abort();
            drop(task.await);
        }
        let next = desk.elsewhere().await;
        for message in [&order, &mail] {
            let outcome = take::<S>(&next, message).await;
            assert!(matches!(outcome, Outcome::Taken | Outcome::Duplicate), "{outcome:?}");
            assert_eq!(take::<S>(&next, message).await, Outcome::Duplicate);
        }
    }
    assert_eq!(desk.entered("a").await, ids("a", 1..=20));
    assert_eq!(desk.entered("mail").await, ids("m", 1..=20));
}

/// I4
pub(super) async fn two_consumers_at_once_take_each_message_once<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let mut tasks = tokio::task::JoinSet::new();
    let inboxes = [Arc::new(desk.inbox()), Arc::new(desk.elsewhere().await)];
    for key in ["a", "b"] {
        for inbox in &inboxes {
            let inbox = inbox.clone();
            tasks.spawn(async move {
                let mut taken = Vec::new();
                for n in 1..=12 {
                    for message in [order(key, n), mail(&format!("{key}m{n}"))] {
                        match take::<S>(&inbox, &message).await {
                            Outcome::Taken => taken.push(message.id),
                            Outcome::Duplicate => {}
                            other => panic!("{}: {other:?}", message.id),
                        }
                    }
                }
                taken
            });
        }
    }
    let mut taken = BTreeMap::<String, usize>::new();
    while let Some(of_one) = tasks.join_next().await {
        of_one.unwrap().into_iter().for_each(|id| *taken.entry(id).or_default() += 1);
    }
    assert!(taken.len() == 48 && taken.values().all(|n| *n == 1), "one of them is told so: {taken:?}");
    for key in ["a", "b"] {
        assert_eq!(desk.entered(key).await, ids(key, 1..=12));
    }
    let mut mails = desk.entered("mail").await;
    mails.sort();
    mails.dedup();
    assert_eq!((mails.len(), desk.entered("mail").await.len()), (24, 24));
}

/// I5
pub(super) async fn a_message_that_fails_parks_its_lane_and_no_other<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox().room(3, 3);
    desk.orders.fail(&["a2", "m1"]);
    desk.orders.panic(&["b1"]);
    assert_eq!(take::<S>(&inbox, &order("a", 1)).await, Outcome::Taken);
    assert_eq!(take::<S>(&inbox, &order("a", 2)).await, Outcome::Parked { waiting: 1 });
    assert!(desk.orders.calls("a2") >= 2, "it was tried twice");
    assert_eq!(take::<S>(&inbox, &order("a", 2)).await, Outcome::Duplicate, "it is acknowledged");
    assert_eq!(take::<S>(&inbox, &order("a", 3)).await, Outcome::Parked { waiting: 2 });
    assert_eq!(take::<S>(&inbox, &order("b", 1)).await, Outcome::Parked { waiting: 1 });
    assert_eq!(take::<S>(&inbox, &mail("m1")).await, Outcome::Parked { waiting: 1 });
    assert_eq!(take::<S>(&inbox, &mail("m1")).await, Outcome::Duplicate);
    for outcome in [take::<S>(&inbox, &order("c", 1)).await, take::<S>(&inbox, &mail("m2")).await] {
        assert_eq!(outcome, Outcome::Taken, "others continue");
    }
    assert_eq!(missing(take::<S>(&inbox, &order("a", 5)).await), (Some(30), 40), "what waits has come");
    assert_eq!(desk.entered("a").await, ids("a", 1..=1));
    assert_eq!(desk.orders.calls("a3"), 0, "it waits for the one before it");

    // There is an end to what is kept.
    assert_eq!(take::<S>(&inbox, &order("a", 4)).await, Outcome::Parked { waiting: 3 });
    let full = sent::<S>(&inbox, &order("a", 5)).await;
    assert!(matches!(full, Err(InboxError::Full { .. })), "{full:?}");
    desk.orders.fail(&["d1"]);
    let full = sent::<S>(&inbox, &order("d", 1)).await;
    assert!(matches!(full, Err(InboxError::Full { .. })), "{full:?}");
    desk.orders.fail(&[]);
    assert_eq!(take::<S>(&inbox, &order("d", 1)).await, Outcome::Taken, "it was not acknowledged");

    let parked = until_answered(async || inbox.parked(None, 10).await).await;
    let mut seen: Vec<_> =
        parked.iter().map(|p| (p.lane.clone(), &*p.error, p.attempts, p.waiting)).collect();
    seen.sort();
    let panic = "a panic: it was told to panic";
    let (a, b, m) = (lane("a"), lane("b"), Lane::of_message("/mails", "m1"));
    let fail = "it was told to fail";
    assert_eq!(seen, [(m, fail, 2, Some(1)), (a, fail, 2, Some(3)), (b, panic, 2, Some(1))]);
    let (first, rest) = parked.split_first().unwrap();
    let behind = until_answered(async || inbox.parked(Some(&first.lane), 10).await).await;
    assert_eq!(behind, rest);
}

/// I5
pub(super) async fn a_parked_lane_that_cannot_be_read_is_in_no_others_way<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox().room(5, 3);
    let ground = Ground::on(subject, desk.backend.clone(), desk.clock.clone());
    desk.orders.fail(&["a", "b", "c", "d", "e", "m1"]);
    for key in ["a", "b", "c"] {
        assert_eq!(take::<S>(&inbox, &order(key, 1)).await, Outcome::Parked { waiting: 1 });
    }
    let damage = async |table: &str, key: &str| {
        let table = Table::<Value>::new(format!("inbox.{table}.desk")).unwrap();
        let all = until_answered(async || table.all(&desk.backend).await).await;
        let row = all.into_iter().find(|row| row.value["key"] == *key).unwrap();
        ground.overwrite(&table, &row.key, &json!("?")).await;
    };
    damage("parked", "a").await;
    damage("marks", "b").await;
    damage("parked", "c").await;
    damage("marks", "c").await;
    assert_eq!(take::<S>(&inbox, &order("d", 1)).await, Outcome::Parked { waiting: 1 });
    assert_eq!(take::<S>(&inbox, &mail("m1")).await, Outcome::Parked { waiting: 1 });
    damage("parked", "m1").await;
    let full = sent::<S>(&inbox, &order("e", 1)).await;
    assert!(matches!(full, Err(InboxError::Full { .. })), "they count: {full:?}");
    let parked = until_answered(async || inbox.parked(None, 5).await).await;
    let mut seen: Vec<_> = parked
        .iter()
        .map(|p| (&*p.lane.key, p.failed, p.waiting, p.error.contains("cannot be read")))
        .collect();
    seen.sort();
    // Of one nobody can tell which it is.
    let at_first = Some(at(10));
    let [a, b] = [("a", None, None, true), ("b", at_first, None, false)];
    assert_eq!(seen, [a, b, ("d", at_first, Some(1), false), ("m1", None, None, true)]);
    let shown = until_answered(async || inbox.show(&lane("a"), 5).await).await.unwrap();
    assert_eq!(shown.messages[0].message, order("a", 1));
    // An operator makes room.
    drop(operated(async || inbox.discard_all(&lane("d"), "ada", "a test order").await).await);
    assert_eq!(take::<S>(&inbox, &order("e", 1)).await, Outcome::Parked { waiting: 1 });
}

/// I5
pub(super) async fn what_is_not_the_messages_fault_parks_nothing<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox();
    desk.orders.busy(&["a1", "m1"]);
    for message in [order("a", 1), mail("m1")] {
        // It is the store that fails sometimes, before the bank is asked.
        while desk.orders.calls(&message.id) < 3 {
            let busy = inbox.take(&message).await;
            assert!(matches!(busy, Err(InboxError::Busy(_) | InboxError::Store(_))), "{busy:?}");
        }
    }
    assert_eq!(until_answered(async || inbox.parked(None, 10).await).await, []);
    assert_eq!(desk.entered("a").await, [] as [String; 0], "what it had done is undone");
    desk.orders.busy(&[]);
    for message in [order("a", 1), mail("m1")] {
        assert_eq!(take::<S>(&inbox, &message).await, Outcome::Taken);
    }
}

/// I6
pub(super) async fn a_retry_takes_what_waits_in_order<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox();
    desk.orders.fail(&["a1", "a4", "m1"]);
    for n in 1..=6 {
        assert_eq!(take::<S>(&inbox, &order("a", n)).await, Outcome::Parked { waiting: n });
    }
    assert_eq!(take::<S>(&inbox, &mail("m1")).await, Outcome::Parked { waiting: 1 });
    for (actor, reason) in [("", "why"), ("ada", "  "), ("ada", &*"x".repeat(1_001))] {
        let refused = operated(async || inbox.retry(&lane("a"), actor, reason).await).await;
        assert!(matches!(refused, Err(OperateError::Refused { .. })), "{refused:?}");
    }
    let retry =
        async || operated(async || inbox.retry(&lane("a"), "ada", "the account is there").await).await;
    let failed = retry().await.unwrap();
    assert_eq!((failed.done, failed.error.as_deref()), (0, Some("it was told to fail")));
    desk.orders.fail(&["a4"]);
    // An answer of the store may be lost between two messages: then it is asked for again.
    for _ in 0..100 {
        retry().await.unwrap();
        if desk.entered("a").await.len() >= 3 {
            break;
        }
    }
    assert_eq!(desk.entered("a").await, ids("a", 1..=3));
    let shown = until_answered(async || inbox.show(&lane("a"), 10).await).await.unwrap();
    assert_eq!((shown.parked.failed, shown.parked.waiting), (Some(at(40)), Some(3)));
    assert_eq!(shown.messages.iter().map(|m| &*m.message.id).collect::<Vec<_>>(), ids("a", 4..=6));
    assert_eq!(shown.messages[0].message, order("a", 4), "it is kept whole");
    assert!(shown.operations.iter().all(|o| o.by.actor == "ada" && o.verb == Verb::Retry));
    assert_eq!(shown.operations.iter().map(|o| o.done).sum::<u64>(), 3, "what was done is known");

    desk.orders.fail(&[]);
    assert_eq!(take::<S>(&inbox, &order("a", 7)).await, Outcome::Parked { waiting: 4 });
    until_gone(&inbox, &lane("a")).await;
    until_gone(&inbox, &Lane::of_message("/mails", "m1")).await;
    assert_eq!(take::<S>(&inbox, &order("a", 8)).await, Outcome::Taken);
    assert_eq!(take::<S>(&inbox, &mail("m1")).await, Outcome::Duplicate);
    assert_eq!(desk.entered("a").await, ids("a", 1..=8));
    assert_eq!(desk.entered("mail").await, ids("m", 1..=1));
    let refused = retry().await;
    assert!(matches!(refused, Err(OperateError::Refused { .. })), "nothing waits: {refused:?}");
}

/// Retries a lane until it is not parked.
pub(super) async fn until_gone<B: es_core::Backend, C: sagas::message::inbox::Consumer<B::Tx>>(
    inbox: &sagas::message::inbox::Inbox<B, C>,
    lane: &Lane,
) {
    for _ in 0..1_000 {
        if until_answered(async || inbox.show(lane, 1).await).await.is_none() {
            return;
        }
        drop(operated(async || inbox.retry(lane, "ada", "again").await).await);
    }
    panic!("{lane} stays parked");
}

/// I6
pub(super) async fn messages_that_arrive_during_a_retry_keep_the_order<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let (inbox, other) = (Arc::new(desk.inbox()), desk.elsewhere().await);
    desk.orders.fail(&["a1"]);
    for n in 1..=5 {
        assert_eq!(take::<S>(&inbox, &order("a", n)).await, Outcome::Parked { waiting: n });
    }
    desk.orders.fail(&[]);
    let sender = tokio::spawn({
        let inbox = inbox.clone();
        async move {
            for n in 6..=20 {
                let outcome = take::<S>(&inbox, &order("a", n)).await;
                assert!(matches!(outcome, Outcome::Taken | Outcome::Parked { .. }), "{n}: {outcome:?}");
            }
        }
    });
    // Two operators at once.
    let lane = lane("a");
    tokio::join!(until_gone(&other, &lane), until_gone(&*inbox, &lane));
    sender.await.unwrap();
    until_gone(&other, &lane).await;
    assert_eq!(desk.entered("a").await, ids("a", 1..=20));
}

/// I6
pub(super) async fn a_retry_that_fails_after_its_lane_was_parked_again_loses_nothing<S: Subject>(
    subject: &S,
) {
    let desk = Desk::open(subject).await;
    if desk.backend.has_one_writer() {
        // There a consumer keeps everything else from being done.
        return;
    }
    let (inbox, lane) = (desk.inbox(), lane("a"));
    desk.orders.fail(&["a1", "a2", "a3"]);
    for n in 1..=2 {
        assert_eq!(take::<S>(&inbox, &order("a", n)).await, Outcome::Parked { waiting: n });
    }
    drop(operated(async || inbox.discard(&lane, at(10), "ada", "a test order").await).await);
    desk.orders.hold(&["a2"]);
    let meanwhile = async {
        while desk.orders.calls("a2") == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(operated(async || inbox.discard_all(&lane, "ada", "more of them").await).await);
        assert_eq!(take::<S>(&inbox, &order("a", 3)).await, Outcome::Parked { waiting: 1 });
        assert_eq!(take::<S>(&inbox, &order("a", 4)).await, Outcome::Parked { waiting: 2 });
        drop(operated(async || inbox.retry(&lane, "ada", "and now?").await).await);
        desk.orders.hold(&[]);
    };
    let retry = operated(async || inbox.retry(&lane, "bob", "again").await);
    let (_, failed) = tokio::join!(meanwhile, retry);
    failed.unwrap();
    let shown = until_answered(async || inbox.show(&lane, 10).await).await.unwrap();
    assert_eq!((shown.parked.failed, shown.parked.waiting), (Some(at(30)), Some(2)), "{shown:?}");
    desk.orders.fail(&[]);
    until_gone(&inbox, &lane).await;
    assert_eq!(take::<S>(&inbox, &order("a", 5)).await, Outcome::Taken);
    assert_eq!(desk.entered("a").await, ids("a", 3..=5));
}

/// I6
pub(super) async fn what_is_discarded_is_gone_and_stays_known<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox();
    desk.orders.fail(&["a1", "m1"]);
    for n in 1..=4 {
        assert_eq!(take::<S>(&inbox, &order("a", n)).await, Outcome::Parked { waiting: n });
    }
    let discard = async |number| {
        operated(async || inbox.discard(&lane("a"), number, "ada", "a test order").await).await
    };
    let refused = discard(at(15)).await;
    assert!(matches!(refused, Err(OperateError::Refused { .. })), "{refused:?}");
    // A lost answer makes it be asked for twice: then the second one is refused.
    drop(discard(at(10)).await);
    let shown = until_answered(async || inbox.show(&lane("a"), 10).await).await.unwrap();
    assert_eq!(shown.messages.iter().map(|m| m.sequence).collect::<Vec<_>>(), [20, 30, 40].map(at));
    assert_eq!(shown.operations.len(), 1, "{:?}", shown.operations);
    let operation = &shown.operations[0];
    assert_eq!((operation.verb, operation.done), (Verb::Discard { sequence: at(10) }, 1));
    assert_eq!((&*operation.by.actor, &*operation.by.reason), ("ada", "a test order"));
    assert_eq!(take::<S>(&inbox, &order("a", 5)).await, Outcome::Parked { waiting: 4 }, "it waits on");

    assert_eq!(take::<S>(&inbox, &mail("m1")).await, Outcome::Parked { waiting: 1 });
    let mail_lane = Lane::of_message("/mails", "m1");
    for lane in [lane("a"), mail_lane.clone()] {
        drop(operated(async || inbox.discard_all(&lane, "ada", "a test order").await).await);
    }
    assert_eq!(until_answered(async || inbox.parked(None, 10).await).await, []);
    let operations = until_answered(async || inbox.operations(&lane("a"), 10).await).await;
    let discarded = operations.iter().filter(|o| o.verb == Verb::DiscardAll);
    assert_eq!(discarded.map(|o| o.done).sum::<u64>(), 4, "{operations:?}");
    for n in 1..=5 {
        assert_eq!(take::<S>(&inbox, &order("a", n)).await, Outcome::Duplicate);
    }
    assert_eq!(take::<S>(&inbox, &mail("m1")).await, Outcome::Duplicate);
    assert_eq!(take::<S>(&inbox, &order("a", 6)).await, Outcome::Taken, "the lane continues");
    assert_eq!(desk.entered("a").await, ids("a", 6..=6));
}

/// I6
pub(super) async fn what_waits_and_cannot_be_read_can_be_discarded<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox();
    let ground = Ground::on(subject, desk.backend.clone(), desk.clock.clone());
    let waiting = Table::<Value>::new("inbox.waiting.desk").unwrap();
    let damage = async |n: u64| {
        ground.overwrite(&waiting, &at(10 * n).to_string(), &json!("?")).await;
    };
    desk.orders.fail(&["a1"]);
    for n in 1..=4 {
        assert_eq!(take::<S>(&inbox, &order("a", n)).await, Outcome::Parked { waiting: n });
    }
    desk.orders.fail(&[]);
    damage(2).await;
    let shown = until_answered(async || inbox.show(&lane("a"), 10).await).await.unwrap();
    assert_eq!(shown.messages.iter().map(|m| m.sequence).collect::<Vec<_>>(), [10, 30, 40].map(at));
    assert_eq!(shown.unreadable.iter().map(|m| m.sequence).collect::<Vec<_>>(), [at(20)]);
    // What is before it is taken, and it says why it is not. Asked for twice: the last time may have had a lost answer.
    for _ in 0..2 {
        let retry = operated(async || inbox.retry(&lane("a"), "ada", "and now?").await).await.unwrap();
        assert!(retry.error.is_some_and(|why| why.contains("cannot be read")));
    }
    let shown = until_answered(async || inbox.show(&lane("a"), 10).await).await.unwrap();
    assert_eq!((shown.parked.failed, shown.parked.waiting), (Some(at(20)), Some(3)), "{shown:?}");
    // Of what was done there may be a row that cannot be read.
    let operations = Table::<Value>::new("inbox.operations.desk").unwrap();
    ground.overwrite(&operations, "", &json!("?")).await;
    let rest = until_answered(async || inbox.show(&lane("a"), 10).await).await.unwrap().operations;
    assert_eq!(rest.len() + 1, shown.operations.len(), "{rest:?}");
    assert_eq!(take::<S>(&inbox, &order("a", 5)).await, Outcome::Parked { waiting: 4 }, "it waits on");
    drop(operated(async || inbox.discard(&lane("a"), at(20), "ada", "damaged").await).await);
    until_gone(&inbox, &lane("a")).await;
    assert_eq!(desk.entered("a").await, ["a1", "a3", "a4", "a5"]);

    desk.orders.fail(&["a6"]);
    for n in 1..=2 {
        assert_eq!(take::<S>(&inbox, &order("a", 5 + n)).await, Outcome::Parked { waiting: n });
        damage(5 + n).await;
    }
    drop(operated(async || inbox.discard_all(&lane("a"), "ada", "damaged").await).await);
    assert_eq!(until_answered(async || inbox.parked(None, 10).await).await, []);
    assert_eq!(take::<S>(&inbox, &order("a", 8)).await, Outcome::Taken, "the lane continues");
}

/// I7
pub(super) async fn another_message_under_the_same_name_is_refused<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox();
    let other = |mut message: Envelope| {
        message.data = json!({ "says": "something else" });
        message
    };
    assert_eq!(take::<S>(&inbox, &mail("m1")).await, Outcome::Taken);
    let refused = sent::<S>(&inbox, &other(mail("m1"))).await;
    assert!(matches!(refused, Err(InboxError::OtherContent { sequence: None, .. })), "{refused:?}");
    let mut traced = mail("m1");
    traced.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    assert_eq!(take::<S>(&inbox, &traced).await, Outcome::Duplicate, "how it came is not what it says");
    let mut elsewhere = other(mail("m1"));
    elsewhere.source = "/other mails".to_owned();
    assert_eq!(take::<S>(&inbox, &elsewhere).await, Outcome::Taken, "another source, another message");

    desk.orders.fail(&["m2"]);
    assert_eq!(take::<S>(&inbox, &mail("m2")).await, Outcome::Parked { waiting: 1 });
    let refused = sent::<S>(&inbox, &other(mail("m2"))).await;
    assert!(matches!(refused, Err(InboxError::OtherContent { .. })), "while it waits, too: {refused:?}");

    assert_eq!(take::<S>(&inbox, &order("a", 1)).await, Outcome::Taken);
    let mut same_place = order("a", 1);
    same_place.id = "b1".to_owned();
    let refused = sent::<S>(&inbox, &same_place).await;
    assert!(
        matches!(refused, Err(InboxError::OtherContent { sequence: Some(n), .. }) if n == at(10)),
        "{refused:?}"
    );
    same_place.source = format!("{SHOP}/restored");
    assert_eq!(take::<S>(&inbox, &same_place).await, Outcome::Taken, "a restored store has lanes of its own");
}

/// I8
pub(super) async fn messages_are_forgotten_after_a_while_but_not_what_waits<S: Subject>(subject: &S) {
    const DAY: Duration = Duration::from_hours(24);
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox().retention(2 * DAY);
    let forget = async || {
        let mut all = 0;
        // Nothing else forgets: what a lost answer has hidden is counted by what is left.
        while let n @ 1.. = until_answered(async || inbox.forget().await).await {
            assert!(n <= 200);
            all += n;
        }
        all
    };
    desk.orders.fail(&["parked", "retried"]);
    for id in ["parked", "retried"] {
        assert_eq!(take::<S>(&inbox, &mail(id)).await, Outcome::Parked { waiting: 1 });
    }
    for n in 1..=5 {
        assert_eq!(take::<S>(&inbox, &mail(&format!("m{n}"))).await, Outcome::Taken);
    }
    desk.clock.advance(DAY);
    assert_eq!(take::<S>(&inbox, &mail("m6")).await, Outcome::Taken);
    assert_eq!(forget().await, 0);
    desk.clock.advance(DAY + Duration::from_secs(1));
    desk.orders.fail(&["parked"]);
    until_gone(&inbox, &Lane::of_message("/mails", "retried")).await;
    assert!(forget().await <= 5);
    for (id, known) in [("m1", false), ("m5", false), ("m6", true), ("parked", true), ("retried", true)] {
        let again = take::<S>(&inbox, &mail(id)).await;
        assert_eq!(again == Outcome::Duplicate, known, "{id}: {again:?}");
    }
    desk.clock.advance(10 * DAY);
    forget().await;
    desk.orders.fail(&[]);
    assert_eq!(take::<S>(&inbox, &mail("parked")).await, Outcome::Duplicate, "it waits, however long");
    until_gone(&inbox, &Lane::of_message("/mails", "parked")).await;
    assert_eq!(desk.entered("mail").await.iter().filter(|id| *id == "parked").count(), 1);
    assert_eq!(take::<S>(&inbox, &mail("parked")).await, Outcome::Duplicate, "known from now on");
}

/// I9
pub(super) async fn odd_names_have_lanes_of_their_own<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let inbox = desk.inbox();
    let long = "ä".repeat(100);
    let keys = ["", " ", "a:b", "a%3Ab", "\u{10ffff}", "A", "a", &*long, &long[2..]];
    for (round, outcome) in [(1, Outcome::Taken), (2, Outcome::Taken)] {
        for (n, key) in keys.into_iter().enumerate() {
            let mut message = order("x", round);
            message.partitionkey = Some(key.to_owned());
            message.id = format!("{n}.{round}");
            // A ledger has a name.
            let named = |message: &Envelope| !message.partitionkey.as_deref().unwrap_or_default().is_empty();
            if named(&message) {
                assert_eq!(take::<S>(&inbox, &message).await, outcome, "{key:?}");
                assert_eq!(take::<S>(&inbox, &message).await, Outcome::Duplicate, "{key:?}");
            } else {
                let parked = take::<S>(&inbox, &message).await;
                assert!(matches!(parked, Outcome::Parked { .. }), "an empty key is a key: {parked:?}");
            }
            assert_eq!(desk.entered(key).await.len() as u64, if key.is_empty() { 0 } else { round });
        }
    }
    let mut bad = order("a", 1);
    bad.id = "a\0b".to_owned();
    let refused = sent::<S>(&inbox, &bad).await;
    assert!(matches!(refused, Err(InboxError::NoMessage { field: "id", .. })), "{refused:?}");
}

/// Z5
pub(super) async fn a_message_that_an_inbox_has_not_got_is_found_in_the_log<S: Subject>(subject: &S) {
    let desk = Desk::open(subject).await;
    let sent = Sent::default();
    let inbox = Arc::new(desk.inbox().log(sent.clone()));
    let long_ago = Timestamp::from_second(1).unwrap();
    let sends = |n: u64, time: Timestamp| {
        let mut message = order("a", n);
        message.time = Some(time);
        sent.0.lock().unwrap().push(message);
    };
    for n in 1..=3 {
        sends(n, long_ago);
        assert_eq!(take::<S>(&inbox, &order("a", n)).await, Outcome::Taken);
    }
    let log = reconcile::messages(desk.backend.clone(), "desk", &inbox).unwrap();
    let log = log.looks_again_after(Duration::ZERO);
    let report = until_answered(async || log.run().await).await;
    assert!(report.is_clean() && report.keys == 1, "{report}");
    // One that was sent long ago never came; one was sent a moment ago.
    let now = until_answered(async || desk.backend.now().await).await;
    sends(4, long_ago);
    sends(5, now);
    let report = until_answered(async || log.run().await).await;
    let [missing] = &report.first[..] else { panic!("{report}") };
    assert_eq!((missing.class, report.pending), (Class::MissingRight, 1));
    assert!(missing.key.contains("\"a4\"") && missing.key.contains("key \"a\""), "{missing}");
    for n in 4..=5 {
        assert_eq!(take::<S>(&inbox, &order("a", n)).await, Outcome::Taken);
    }
    assert!(until_answered(async || log.run().await).await.is_clean());
    // A sender that is away is no log without messages.
    *sent.1.lock().unwrap() = true;
    let error = log.run().await.unwrap_err();
    assert!(matches!(error, ReconcileError::Read(_) | ReconcileError::Store(_)), "{error}");
}
