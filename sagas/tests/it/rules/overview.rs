//! All transactions in one list, whatever their pattern: Z7 to Z9.

use std::collections::BTreeSet;
use std::time::Duration;

use es_core::App;
use sagas::Processes as _;
use sagas::overview::{Act, ActError, ActName, Filter, Listed, Pattern, Status, Transactions as _, Which};
use sagas::saga::{Outcome, RunStatus};
use sagas::tcc::{TccApp as _, Tccs as _};

use super::Subject;
use super::branches::{Bank, Transfer, transfer};
use super::ground::PATIENCE;
use super::play::{self, ByKey, Ledger, began};
use super::trip::{Play, Trips, definition, trip};

/// A node with a saga, a TCC and a process.
async fn all_patterns<'s, S: Subject>(subject: &'s S, bank: &Bank) -> Trips<'s, S> {
    let mut trips = Trips::open(subject).await;
    trips
        .join_with(
            |outside| definition(outside, 1),
            |app| app.tcc(transfer(bank, 1)).aggregate::<Ledger>().process::<ByKey>(),
        )
        .await;
    trips
}

/// All that a filter wants, in pages of this size, once every source could be asked.
async fn listed<S: Subject>(trips: &Trips<'_, S>, app: &App, filter: &Filter, limit: usize) -> Vec<Listed> {
    let all = app.transactions();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = all.page(filter, after.as_ref(), limit).await.unwrap();
        if !page.unasked.is_empty() {
            // A store that does not answer is named, and asked again.
            trips.ground.pause().await;
            continue;
        }
        assert!(page.transactions.len() <= limit);
        found.extend(page.transactions);
        match page.next {
            Some(next) => after = Some(next.to_string().into()),
            None => return found,
        }
    }
}

async fn names<S: Subject>(trips: &Trips<'_, S>, filter: &Filter) -> Vec<String> {
    let all = listed(trips, &trips.nodes[0], filter, 2).await;
    all.iter().map(|listed| listed.which.to_string()).collect()
}

/// Until so many need a person.
async fn until_waiting<S: Subject>(trips: &Trips<'_, S>, n: usize) -> Vec<Listed> {
    let begun = tokio::time::Instant::now();
    loop {
        let found = listed(trips, &trips.nodes[0], &Filter::needs_person(), 2).await;
        if found.len() == n {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{found:#?}");
        trips.ground.pause().await;
    }
}

/// Asks for something, until that is answered.
async fn asked<S: Subject>(trips: &Trips<'_, S>, which: &Which, act: Act) -> Result<(), ActError> {
    let (all, mut is_first) = (trips.nodes[0].transactions(), true);
    loop {
        match all.ask(which, act.clone(), "ada", "because", Duration::from_secs(30)).await {
            Err(ActError::Store(_)) => is_first = false,
            // It was done the first time.
            Err(ActError::Declined { .. }) if !is_first => return Ok(()),
            answer => return answer,
        }
        trips.ground.pause().await;
    }
}

/// Z7
pub(super) async fn transactions_of_every_pattern_are_in_one_list<S: Subject>(subject: &S) {
    let bank = Bank::default();
    let trips = all_patterns(subject, &bank).await;
    let app = &trips.nodes[0];
    assert_eq!(trips.run("done", trip()).await, Outcome::Completed);
    trips.run("gone", trip().with("pay", &[Play::Refuses])).await;
    trips.begin("stuck", &trip().with("mail", &[Play::Fails])).await;
    trips.begin("waits", &trip().with("flight", &[Play::Waits])).await;
    bank.breaks("t", "confirm");
    trips.ground.ask(async || app.start_tcc("t", &Transfer { cents: 5 }).await).await;
    let bell = vec![play::Act::Bell(1_000, Vec::new())];
    let events = vec![began("fails", "one", vec![play::Act::Fail]), began("sleeps", "one", bell)];
    trips.ground.tell_to("stage-main", events).await;

    let waiting = until_waiting(&trips, 3).await;
    let is = |listed: &Listed| (listed.which.to_string(), listed.status);
    let expected = [r#"process by_key "fails""#, r#"saga trip "stuck""#, r#"tcc tcc.transfer "t""#];
    let expected: Vec<_> = expected.iter().map(|name| ((*name).to_owned(), Status::Parked)).collect();
    assert_eq!(waiting.iter().map(is).collect::<Vec<_>>(), expected);
    for listed in &waiting {
        assert!(listed.needs_person() && listed.since.is_some() && listed.begun.is_some(), "{listed:?}");
        assert!(listed.which.id.is_some() && listed.reason.is_some() && listed.error.is_some(), "{listed:?}");
    }
    assert!(waiting[0].reason.as_ref().is_some_and(|why| why.contains("it was told to fail")));
    let alike = Filter::open().failing_with(waiting[1].error.as_deref().unwrap());
    assert_eq!(names(&trips, &alike).await, [r#"saga trip "stuck""#]);

    // What goes on is there, too: who has it, and what wakes it.
    trips.until("waits", "it runs", |shown| shown.holder.is_some()).await;
    let running = Filter::open().with_status(Status::Running);
    assert_eq!(names(&trips, &running).await, [r#"process by_key "sleeps""#, r#"saga trip "waits""#]);
    let found = listed(&trips, app, &running, 10).await;
    assert!(found[0].wakes.is_some() && found[1].owner.is_some(), "{found:?}");
    let ended = Filter::open().with_status(Status::Done).with_status(Status::Undone);
    let found = listed(&trips, app, &ended.clone().of(Pattern::SAGA), 10).await;
    let mut found: Vec<_> = found.iter().map(|of| (&*of.which.key, of.status, of.reason.clone())).collect();
    found.sort();
    let why = "undone: pay was refused: pay is sold out".to_owned();
    assert_eq!(found, [("done", Status::Done, None), ("gone", Status::Undone, Some(why))]);
    assert_eq!(names(&trips, &ended.of(Pattern::PROCESS)).await, [""; 0]);
    assert_eq!(names(&trips, &Filter::open().of_kind("by_key")).await.len(), 2);
    let sagas = listed(&trips, app, &Filter::open().of(Pattern::SAGA), 10).await;
    let (first, last) = (sagas.iter().map(|of| of.begun).min(), sagas.iter().map(|of| of.begun).max());
    let old = |before| Filter::open().begun_before(before).of(Pattern::SAGA);
    assert_eq!(names(&trips, &old(first.unwrap().unwrap())).await, [""; 0]);
    let behind = last.unwrap().unwrap() + Duration::from_micros(1);
    assert_eq!(names(&trips, &old(behind)).await.len(), 2);

    let all = app.transactions();
    let counts = loop {
        let counts = all.counts(&Filter::open(), 1_000).await.unwrap();
        if counts.unasked.is_empty() {
            break counts;
        }
        trips.ground.pause().await;
    };
    assert!(!counts.more);
    assert_eq!(counts.of(Pattern::SAGA, Status::Parked) + counts.of(Pattern::SAGA, Status::Running), 2);
    assert_eq!(counts.of(Pattern::PROCESS, Status::Running), 1);
    assert_eq!(counts.of(Pattern::TCC, Status::Parked), 1);
    trips.outside.let_go();
    trips.end().await;
}

/// Z8
pub(super) async fn what_an_operator_wants_is_done_through_one_entry<S: Subject>(subject: &S) {
    let bank = Bank::default();
    let trips = all_patterns(subject, &bank).await;
    let app = &trips.nodes[0];
    let handle = trips.begin("stuck", &trip().with("mail", &[Play::Fails])).await;
    bank.breaks("t", "confirm");
    trips.ground.ask(async || app.start_tcc("t", &Transfer { cents: 5 }).await).await;
    trips.ground.tell_to("stage-main", vec![began("fails", "one", vec![play::Act::Fail])]).await;
    let waiting: Vec<Which> = until_waiting(&trips, 3).await.into_iter().map(|of| of.which).collect();
    let [process, saga, tcc] = &waiting[..] else { panic!("{waiting:?}") };
    let all = app.transactions();
    let why = trips.ground.ask(async || all.waits_for(process).await).await;
    assert!(why[0].contains("retry, skip input 1, or end the instance"), "{why:?}");

    // What a pattern does not know is said, with what it knows; and so is what is wrong with the request.
    let error = asked(&trips, process, Act::Abandon).await.unwrap_err();
    let ActError::NotKnown { pattern: Pattern::PROCESS, act: ActName::Abandon, knows } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(knows[..], [ActName::Retry, ActName::Skip, ActName::Cancel]);
    assert_eq!(error.to_string(), "a process knows no abandon: it knows retry, skip, cancel");
    let error = all.ask(saga, Act::Abandon, "ada", " ", Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, ActError::By(_)), "{error:?}");
    for nobody in [Which::new(Pattern::SAGA, "trip", "nobody"), Which::new(Pattern::SAGA, "nothing", "stuck")]
    {
        let error = asked(&trips, &nobody, Act::Abandon).await.unwrap_err();
        assert!(matches!(&error, ActError::Missing(which) if *which == nobody), "{error:?}");
    }
    let mut another = process.clone();
    another.id = saga.id;
    assert!(matches!(asked(&trips, &another, Act::Cancel).await.unwrap_err(), ActError::Missing(_)));
    let nothing = Act::Skip { part: "nothing".to_owned() };
    let error = loop {
        match all.ask(saga, nothing.clone(), "ada", "because", Duration::from_secs(30)).await {
            Err(ActError::Store(_)) => trips.ground.pause().await,
            answer => break answer.unwrap_err(),
        }
    };
    assert!(matches!(error, ActError::Declined { .. }), "{error:?}");

    // Tried out, nothing is done.
    let skip = Act::Skip { part: "1".to_owned() };
    let dry = async |which: &Which, act: &Act| {
        trips.ground.ask(async || all.dry_run(which, act.clone(), "ada", "because").await).await
    };
    assert!(dry(process, &skip).await.contains("skip input 1"));
    assert!(dry(saga, &Act::Abandon).await.contains("ended: abandoned"));
    until_waiting(&trips, 3).await;

    asked(&trips, process, skip).await.unwrap();
    until_waiting(&trips, 2).await;
    trips.outside.mend();
    bank.mend();
    let (both, retry) = ([saga.clone(), tcc.clone()], Act::Retry { part: None });
    for acted in all.ask_each(&both, &retry, "ada", "mended", PATIENCE).await {
        match acted.answer {
            Ok(()) => {}
            // Nobody has heard what became of it.
            Err(ActError::Store(_)) => asked(&trips, &acted.which, retry.clone()).await.unwrap(),
            Err(error) => panic!("{}: {error}", acted.which),
        }
    }
    assert_eq!(trips.end_of(&handle).await, Outcome::Completed);
    assert_eq!(trips.show("stuck").await.status, RunStatus::Ended);
    until_waiting(&trips, 0).await;
    trips.end().await;
}

/// Z9
pub(super) async fn a_list_of_many_is_read_in_pages_and_none_is_left_out<S: Subject>(subject: &S) {
    let trips = all_patterns(subject, &Bank::default()).await;
    let key = |n: usize| format!("i{n:04}");
    // More than are read at once; those that fail lie among those that do not.
    for commit in (0..1_200).collect::<Vec<_>>().chunks(300) {
        let acts = |n: usize| if n % 100 == 7 { vec![play::Act::Fail] } else { Vec::new() };
        let events = commit.iter().map(|n| began(&key(*n), "one", acts(*n))).collect();
        trips.ground.tell_to("stage-main", events).await;
    }
    for n in 0..5 {
        trips.begin(&format!("stuck{n}"), &trip().with("mail", &[Play::Fails])).await;
    }
    until_waiting(&trips, 17).await;
    let begun = tokio::time::Instant::now();
    loop {
        let found = listed(&trips, &trips.nodes[0], &Filter::open(), 100).await;
        let keys: BTreeSet<&str> = found.iter().map(|listed| &*listed.which.key).collect();
        assert_eq!(keys.len(), found.len(), "each once");
        if found.len() == 1_205 {
            break;
        }
        // The last of them may not have begun.
        assert!(found.len() < 1_205 && begun.elapsed() < PATIENCE, "{} are listed", found.len());
        trips.ground.pause().await;
    }
    let all = trips.nodes[0].transactions();
    let counts = all.counts(&Filter::needs_person(), 10).await.unwrap();
    let n: u64 = counts.all.iter().map(|count| count.n).sum();
    assert!(n <= 10 && (counts.more || !counts.unasked.is_empty()), "{counts:?}");
    let error = all.page(&Filter::open(), Some(&"nowhere".to_owned().into()), 10).await.unwrap_err();
    assert!(error.to_string().contains("no cursor"), "{error}");
    trips.end().await;
}
