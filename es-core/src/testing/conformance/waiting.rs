//! What operators asked for and waits for something that is away: K11, P21.

use std::time::Duration;

use tokio::time::Instant;

use super::double::{Double, Line};
use super::patient::ask;
use super::payments::{
    Kind, Ledger, Poison, World, answered, eventually, parked, payment, retry, rows, until,
};
use super::{LIMIT, Subject, settle, start};
use crate::processor::{ParkedFilter, Processor, ProcessorError, ProcessorOptions, ProcessorState};
use crate::store::{Backend, Position};
use crate::{App, ErrorKind};

const TABLE: &str = "ledger/1~1/afresh";
const SHORT: Duration = Duration::from_millis(1);
/// How long it is counted what is done while nothing can be.
const A_WHILE: Duration = Duration::from_secs(2);
/// Longer than any of these rules takes.
const LONG: Duration = Duration::from_hours(1);

async fn started<B: Backend + Clone>(line: &Double<B>, options: ProcessorOptions) -> App {
    start(|| App::on(line.clone()).view::<Ledger>().processors(options).workers(1)).await
}

/// One payment into each account, which was taken in, and needs a partner that is away by now.
async fn needs_partner<S: Subject>(world: &World<S>, app: &App, away: &Poison, accounts: &[String]) {
    let failing = Poison::new();
    failing.mend();
    away.mend();
    for account in accounts {
        world.put(account, vec![failing.payment_while(away, 1)]).await;
    }
    settle(app).await;
    // A store that has failed for longer than the processor is patient has had some set aside.
    let processor = Kind::View.of(app);
    for sequence in parked(processor).await {
        while retry(processor, &sequence.key).await.is_some() {}
    }
    away.relapse();
}

/// Asks for rows to be rebuilt, which stands.
async fn stands<S: Subject>(world: &World<S>, processor: &Processor, keys: &[String]) {
    let asked = async || {
        let rows = rows(&world.store, TABLE).await;
        keys.iter().all(|key| rows.iter().any(|(asked, _)| asked == key))
    };
    while !asked().await {
        drop(processor.rebuild_keys(keys, SHORT).await);
    }
}

/// How many rounds began: each of them reads the log from its start.
fn rounds<B>(line: &Double<B>) -> usize {
    line.reads().iter().filter(|after| **after == Position(0)).count()
}

fn fails(state: &ProcessorState, text: &str) -> bool {
    matches!(state, ProcessorState::Failing { error, .. } if error.contains(text))
}

/// K11
pub async fn keys_that_wait_hold_up_no_other_that_is_asked<S: Subject>(subject: S) {
    let (world, away) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let options = ProcessorOptions::default().retries(4, Duration::from_millis(50), LONG).patience(LONG);
    let app = started(&line, options).await;
    let processor = Kind::View.of(&app);
    world.pay("b", 1..=2).await;
    let accounts: Vec<String> = (0..30).map(|i| format!("a{i:02}")).collect();
    needs_partner(&world, &app, &away, &accounts).await;
    stands(&world, processor, &accounts).await;
    until(processor, |status| fails(&status.state, "away")).await;
    let other = ["b".to_owned()];
    answered(|| processor.rebuild_keys(&other, LIMIT)).await.expect("it waits for nobody");
    away.mend();
    eventually(async || match rows(&world.store, TABLE).await.len() {
        0 => Ok(()),
        n => Err(format!("{n} are left")),
    })
    .await;
    for account in accounts {
        assert_eq!(world.tally(&account).await.expect("a row").n, 1, "account {account}");
    }
}

/// K11
pub async fn what_waits_is_looked_up_again_once_something_is_asked<S: Subject>(subject: S) {
    const NEW: i64 = 100;
    let (world, away) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let options = ProcessorOptions::default().retries(4, Duration::from_millis(50), LONG).patience(LONG);
    let app = started(&line, options).await;
    let processor = Kind::View.of(&app);
    let accounts: Vec<String> = (0..5).map(|i| format!("a{i}")).collect();
    needs_partner(&world, &app, &away, &accounts).await;
    stands(&world, processor, &accounts).await;
    until(processor, |status| fails(&status.state, "away")).await;
    let before = (line.scans_of(TABLE), rounds(&line));
    for n in 1..=NEW {
        world.pay("b", n..=n).await;
        settle(&app).await;
    }
    // One for each round, and one at the end of a pass.
    let (looks, rounds) = (line.scans_of(TABLE) - before.0, rounds(&line) - before.1);
    assert!(looks < 2 * rounds + 40, "{looks} looks, {rounds} rounds, {NEW} new events");
    let other = ["b".to_owned()];
    answered(|| processor.rebuild_keys(&other, LIMIT)).await.expect("it waits for nobody");
}

/// K11
pub async fn those_who_wait_have_nothing_looked_up_again_and_again<S: Subject>(subject: S) {
    const REQUESTS: &str = "ledger/1~1/requests";
    const CALLERS: u32 = 20;
    let (world, [failing, away]) = (World::<S>::new(&subject).await, [(); 2].map(|()| Poison::new()));
    let line = Double::new(world.store.0.clone());
    // They pause for at least half of that.
    let pause = Duration::from_secs(4);
    let app = started(&line, ProcessorOptions::default().retries(0, pause, LONG).patience(LONG)).await;
    let processor = Kind::View.of(&app);
    let accounts: Vec<String> = (0..3).map(|i| format!("a{i}")).collect();
    needs_partner(&world, &app, &away, &accounts).await;
    for i in 0..CALLERS {
        world.put(&format!("b{i}"), vec![failing.payment_while(&away, 1)]).await;
    }
    settle(&app).await;
    failing.mend();
    stands(&world, processor, &accounts).await;
    let calling = futures::future::select_all((0..CALLERS).map(|i| {
        let key = format!("b{i}");
        Box::pin(async move {
            // Each of them looks at another time, twice a second, and wakes the range.
            tokio::time::sleep(i * Duration::from_millis(500) / CALLERS).await;
            loop {
                match processor.retry(&key, LIMIT).await {
                    Err(ProcessorError::Asked { .. }) => tokio::time::sleep(A_WHILE).await,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
                    Ok(left) => panic!("its partner is away: {left:?}"),
                }
            }
        })
    }));
    let looking = async {
        let asked = usize::try_from(CALLERS).expect("few");
        eventually(async || match rows(&world.store, REQUESTS).await.len() {
            n if n == asked => Ok(()),
            n => Err(format!("{n} are asked for")),
        })
        .await;
        until(processor, |status| fails(&status.state, "away")).await;
        let looks = || line.scans_of(REQUESTS) + line.scans_of(TABLE);
        let before = looks();
        tokio::time::sleep(A_WHILE).await;
        let looks = looks() - before;
        // Some for each time that all of it is tried.
        assert!(looks < 3 * asked, "{looks} looks in {A_WHILE:?} for {CALLERS} who wait");
    };
    tokio::select! {
        () = looking => {}
        _ = calling => {}
    }
}

/// K11
pub async fn a_rebuild_that_waits_has_no_more_than_half_of_the_time<S: Subject>(subject: S) {
    const ROUNDS: usize = 10;
    let (world, away, takes) = (World::<S>::new(&subject).await, Poison::new(), Duration::from_millis(50));
    let line = Double::new(world.store.0.clone());
    let app = started(&line, ProcessorOptions::default().retries(0, SHORT, SHORT).patience(SHORT)).await;
    let processor = Kind::View.of(&app);
    let accounts = ["a".to_owned()];
    needs_partner(&world, &app, &away, &accounts).await;
    stands(&world, processor, &accounts).await;
    // Whether the store takes writes is asked in each round.
    line.set(Line::Slow(takes));
    until(processor, |status| fails(&status.state, "away")).await;
    let (begun, before) = (Instant::now(), rounds(&line));
    eventually(async || match rounds(&line) - before {
        n if n > ROUNDS => Ok(()),
        n => Err(format!("{n} rounds")),
    })
    .await;
    let (took, least) = (begun.elapsed(), takes * 2 * 9);
    assert!(took >= least, "{ROUNDS} rounds in {took:?}, each of which takes {takes:?}");
}

/// K11
pub async fn a_key_between_many_that_wait_is_rebuilt_in_its_turn<S: Subject>(subject: S) {
    const WAIT: usize = 30;
    let (world, away) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let options = ProcessorOptions::default().retries(4, Duration::from_millis(50), LONG).patience(LONG);
    let app = started(&line, options).await;
    let processor = Kind::View.of(&app);
    let mut accounts: Vec<String> = (0..WAIT).map(|i| format!("a{i:02}")).collect();
    needs_partner(&world, &app, &away, &accounts).await;
    world.pay("a15b", 1..=2).await;
    settle(&app).await;
    accounts.push("a15b".to_owned());
    ask(|| processor.pause()).await;
    until(processor, |status| matches!(status.state, ProcessorState::Paused { .. })).await;
    stands(&world, processor, &accounts).await;
    let before = rounds(&line);
    line.set(Line::HoldsCommits(TABLE));
    ask(|| processor.resume()).await;
    eventually(async || if line.held() > 0 { Ok(()) } else { Err("none is answered".to_owned()) }).await;
    // Each that waits halves the next round.
    let tried = rounds(&line) - before;
    assert!(tried <= WAIT * 5 / 6, "it is answered after {tried} rounds");
    line.set(Line::Up);
}

/// P21
pub async fn a_rebuild_suspects_each_event_for_itself<S: Subject>(subject: S) {
    let (world, [first, second]) = (World::<S>::new(&subject).await, [(); 2].map(|()| Poison::new()));
    let line = Double::new(world.store.0.clone());
    let (patience, pause) = (Duration::from_secs(2), Duration::from_millis(100));
    let app = started(&line, ProcessorOptions::default().retries(0, pause, pause).patience(patience)).await;
    let processor = Kind::View.of(&app);
    for account in 0.. {
        [&first, &second].into_iter().for_each(Poison::mend);
        let keys = [account.to_string()];
        world.put(&keys[0], vec![first.payment(1, "store"), second.payment(2, "store")]).await;
        settle(&app).await;
        [&first, &second].into_iter().for_each(Poison::relapse);
        let refused = async || {
            let asked = rows(&world.store, TABLE).await;
            asked.iter().any(|(key, row)| *key == keys[0] && !row["failed"].is_null())
        };
        let (begun, before) = (Instant::now(), rounds(&line));
        stands(&world, processor, &keys).await;
        eventually(async || {
            if refused().await || rounds(&line) >= before + 3 { Ok(()) } else { Err("not tried".to_owned()) }
        })
        .await;
        first.mend();
        let mended = Instant::now();
        eventually(async || if refused().await { Ok(()) } else { Err("not blamed".to_owned()) }).await;
        // Else it was the first one that was blamed.
        if mended - begun < patience {
            assert!(mended.elapsed() >= patience, "it is blamed after {:?}", mended.elapsed());
            return;
        }
    }
}

/// P21
pub async fn what_is_asked_is_tried_some_times_before_it_is_blamed<S: Subject>(subject: S) {
    const RETRIES: u32 = 6;
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    // Each try is later than that.
    let options = ProcessorOptions::default().retries(RETRIES, SHORT, SHORT).patience(Duration::ZERO);
    let app = started(&line, options).await;
    let processor = Kind::View.of(&app);
    world.put("a", vec![poison.payment(1, "store"), payment(2)]).await;
    settle(&app).await;
    // Whether the store takes writes is asked each time.
    let asked = || line.commits("checkpoints").len();
    let tries = usize::try_from(RETRIES).expect("few") + 1;
    let before = asked();
    assert!(retry(processor, "a").await.is_some(), "it fails again");
    assert!(asked() - before >= tries, "{} tries of a retry", asked() - before);
    poison.mend();
    assert_eq!(retry(processor, "a").await, None);
    poison.relapse();
    let (before, keys) = (asked(), ["a".to_owned()]);
    let refused = answered(|| processor.rebuild_keys(&keys, LIMIT)).await;
    assert!(matches!(refused, Err(ProcessorError::RowFailed { .. })), "{refused:?}");
    assert!(asked() - before >= tries, "{} tries of a rebuild", asked() - before);
}

/// P21
pub async fn no_key_of_a_retry_is_blamed_at_its_first_try<S: Subject>(subject: S) {
    const KEYS: usize = 5;
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let options = ProcessorOptions::default().retries(1, SHORT, SHORT).patience(Duration::ZERO);
    let app = started(&line, options).await;
    let processor = Kind::View.of(&app);
    for key in 0..KEYS {
        world.put(&format!("a{key}"), vec![poison.payment(1, "store")]).await;
    }
    settle(&app).await;
    // Whether the store takes writes is asked each time.
    let before = line.commits("checkpoints").len();
    let all = ParkedFilter::all();
    let failed = ask(|| processor.retry_all(&all, LIMIT)).await.failed;
    assert_eq!(failed.len(), KEYS, "{failed:?}");
    let tries = line.commits("checkpoints").len() - before;
    assert!(tries >= 2 * KEYS, "{tries} tries of {KEYS} keys");
    // They are found by that, also when they were tried before.
    let suspects = ParkedFilter::all().error("in which the store took writes");
    assert!(
        failed.iter().all(|sequence| sequence.error.contains("in which the store took writes")),
        "{failed:?}"
    );
    poison.mend();
    assert_eq!(ask(|| processor.retry_all(&suspects, LIMIT)).await.failed, []);
    assert_eq!(parked(processor).await, []);
}

/// P21
pub async fn others_that_go_through_clear_no_suspicion_of_a_retry<S: Subject>(subject: S) {
    const OTHERS: usize = 3_000;
    let (world, store) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(world.store.0.clone());
    let patience = Duration::from_millis(500);
    let app = started(&line, ProcessorOptions::default().retries(0, SHORT, SHORT).patience(patience)).await;
    let processor = Kind::View.of(&app);
    world.put("a", vec![store.payment(1, "store")]).await;
    settle(&app).await;
    let attempts = async || parked(processor).await.iter().find(|of| of.key == "a").map(|of| of.attempts);
    let before = attempts().await.expect("it is parked");
    super::poisoned::ask(processor, "a").await;
    for other in 0..OTHERS {
        let (failing, key) = (Poison::new(), format!("b{other}"));
        world.put(&key, vec![failing.payment(1, "fails")]).await;
        settle(&app).await;
        failing.mend();
        assert_eq!(retry(processor, &key).await, None);
        if attempts().await.is_some_and(|attempts| attempts > before) {
            return;
        }
    }
    panic!("it is never blamed while others go through");
}
