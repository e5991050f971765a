//! Three-phase commit: Y1 to Y14.

use std::sync::Arc;

use es_core::id::Ids;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use sagas::saga::{Handle, IfItFailed, Outcome, RunShown, RunStatus, Verb, Why};
use sagas::three_phase::{Decision, ParticipantError, Standing, ThreePhases as _};
use serde_json::json;

use super::Subject;
use super::ground::PATIENCE;
use super::parties::{
    DEADLINE, DEAR, InMemory, LEFT, Participant, Parties, Play, RIGHT, Transfer, is_undecided,
};
use super::shaky::{Fault, Ledger as _, WithOther};

const IN_DOUBT: [Standing; 2] = [Standing::Voted; 2];

fn states(shown: &RunShown) -> Vec<&str> {
    shown.steps.iter().map(|step| &*step.state).collect()
}

fn is_parked(shown: &RunShown) -> bool {
    shown.status == RunStatus::Parked
}

fn resolve(participant: &str) -> Verb {
    Verb::Resolve { step: participant.to_owned(), output: sagas::Data::of(&json!(null)).unwrap() }
}

fn skip(participant: &str) -> Verb {
    Verb::Skip { step: participant.to_owned() }
}

fn undone_by(outcome: &Outcome, step: &str) -> bool {
    matches!(outcome, Outcome::Undone(Why::Refused { step: of, .. } | Why::Failed { step: of, .. }) if of == step)
}

/// Y1
pub(super) async fn all_participants_commit_or_all_abort<S: Subject>(subject: &S) {
    let parties = Parties::start(subject).await;
    let handle = parties.begin("a", 5).await;
    assert_eq!(parties.end_of(&handle).await, Outcome::Completed);
    assert_eq!(parties.standings(handle.run()).await, [Standing::Committed; 2]);
    assert_eq!(states(&parties.show("a").await), ["committed"; 2]);
    parties.is_whole("a", &Outcome::Completed).await;
    let decided = parties.ground.ask(async || parties.decisions.decided(handle.run()).await).await;
    assert_eq!(decided, Some(Decision::Commit));
    // One says no.
    let handle = parties.begin("b", DEAR).await;
    let outcome = parties.end_of(&handle).await;
    assert_eq!(outcome.to_string(), "undone: right was refused: too dear");
    assert_eq!(parties.standings(handle.run()).await, [Standing::Aborted; 2]);
    assert_eq!(parties.effects("b").await[1], [""; 0], "of what refuses nothing stays");
    parties.is_whole("b", &outcome).await;
    let decided = parties.ground.ask(async || parties.decisions.decided(handle.run()).await).await;
    assert_eq!(decided, Some(Decision::Abort));
    // Who is registered nowhere is said.
    let without = parties.ground.join(|app| app).await;
    let transfer = Transfer { key: "c".to_owned(), cents: 5 };
    let error = without.run_three_phase("c", transfer).await.unwrap_err().to_string();
    assert!(error.contains(".three_phase(..)"), "{error}");
    assert!(without.shutdown(PATIENCE).await);
    parties.end().await;
}

/// Y2
pub(super) async fn a_coordinator_that_dies_is_followed_after_each_phase<S: Subject>(subject: &S) {
    let mut parties = Parties::start(subject).await;
    let mut handles = Vec::new();
    for (verb, cents) in [("can-commit", 5), ("pre-commit", 5), ("do-commit", 5), ("abort", DEAR)] {
        parties.plays(LEFT, verb, verb, &[Play::Waits]);
        handles.push(parties.begin(verb, cents).await);
        parties.until_waiting(LEFT, verb, verb).await;
    }
    parties.join().await;
    parties.crash(0);
    for handle in &handles {
        let outcome = parties.end_of(handle).await;
        assert_eq!(outcome == Outcome::Completed, handle.key() != "abort", "{}: {outcome}", handle.key());
        parties.is_whole(handle.key(), &outcome).await;
    }
    parties.end().await;
}

/// Y3
pub(super) async fn one_that_waits_for_too_long_asks_for_what_it_knows<S: Subject>(subject: &S) {
    let parties = Parties::start(subject).await;
    // Before the pre-commit: nobody knows that all have voted.
    parties.holds(&[LEFT, RIGHT], "a", "pre-commit");
    let handle = parties.begin("a", 5).await;
    parties.until_waiting(LEFT, "a", "pre-commit").await;
    parties.until_waiting(RIGHT, "a", "pre-commit").await;
    assert_eq!(parties.standings(handle.run()).await, IN_DOUBT);
    assert_eq!(parties.terminate(&parties.left, handle.run()).await, Some(Decision::Abort));
    assert_eq!(parties.standings(handle.run()).await, [Standing::Aborted, Standing::Voted]);
    parties.let_go();
    let outcome = parties.end_of(&handle).await;
    assert!(undone_by(&outcome, LEFT), "{outcome}");
    assert_eq!(parties.standings(handle.run()).await, [Standing::Aborted; 2]);
    parties.is_whole("a", &outcome).await;
    // After it: one that knows, and one that has heard of it. Then there is nothing to ask any more.
    for (run, is_left) in [("b", true), ("c", false)] {
        parties.holds(&[RIGHT], run, "pre-commit");
        let handle = parties.begin(run, 5).await;
        parties.until_waiting(RIGHT, run, "pre-commit").await;
        parties.until_standing(handle.run(), [Standing::PreCommitted, Standing::Voted]).await;
        let who = if is_left { &parties.left } else { &parties.right };
        assert_eq!(parties.terminate(who, handle.run()).await, Some(Decision::Commit));
        assert_eq!(parties.terminate(who, handle.run()).await, None);
        parties.let_go();
        assert_eq!(parties.end_of(&handle).await, Outcome::Completed);
        parties.is_whole(run, &Outcome::Completed).await;
    }
    parties.end().await;
}

/// Y4
pub(super) async fn one_that_does_not_reach_the_journal_waits_and_never_mixes<S: Subject>(subject: &S) {
    let parties = Parties::start(subject).await;
    parties.holds(&[RIGHT], "a", "pre-commit");
    let handle = parties.begin("a", 5).await;
    parties.until_waiting(RIGHT, "a", "pre-commit").await;
    parties.until_standing(handle.run(), [Standing::PreCommitted, Standing::Voted]).await;
    parties.hide_journal(true);
    for who in [&parties.left, &parties.right] {
        let answer = who.terminate(handle.run()).await;
        assert!(is_undecided(&answer), "{answer:?}");
    }
    assert_eq!(parties.standings(handle.run()).await, [Standing::PreCommitted, Standing::Voted]);
    // They reach the journal again, and not each other: by themselves one would commit, and the other abort.
    parties.hide_journal(false);
    parties.part(true);
    let (left, right) = futures::join!(
        parties.terminate(&parties.left, handle.run()),
        parties.terminate(&parties.right, handle.run()),
    );
    assert!(left.is_some() && left == right, "{left:?} {right:?}");
    parties.let_go();
    let outcome = parties.end_of(&handle).await;
    assert_eq!(outcome == Outcome::Completed, left == Some(Decision::Commit), "{outcome}");
    parties.is_whole("a", &outcome).await;
    // A look finds what has waited for that long, and only that.
    parties.part(false);
    parties.holds(&[LEFT, RIGHT], "b", "pre-commit");
    let handle = parties.begin("b", 5).await;
    parties.until_waiting(LEFT, "b", "pre-commit").await;
    let now = es_core::clock::Clock::now(&parties.ground.clock);
    let came = parties.left.look(now, DEADLINE * 10).await.unwrap();
    assert!(came.is_empty(), "{came:?}");
    let later = now.saturating_add(DEADLINE * 10).unwrap();
    parties
        .ground
        .ask(async || {
            let came = parties.left.look(later, DEADLINE * 10).await.unwrap();
            came.into_iter().try_for_each(|(_, came)| came.map(drop))
        })
        .await;
    assert_eq!(parties.standings(handle.run()).await[0], Standing::Aborted);
    parties.let_go();
    assert!(matches!(parties.end_of(&handle).await, Outcome::Undone(_)));
    parties.end().await;
}

/// Y5
pub(super) async fn a_vote_that_is_asked_for_after_the_abort_is_refused<S: Subject>(subject: &S) {
    let mut parties = Parties::start(subject).await;
    // The node of the call is gone: it is somewhere in the network, and arrives when all is over.
    parties.plays(RIGHT, "a", "can-commit", &[Play::Waits, Play::Lost, Play::Lost, Play::Lost]);
    let handle = parties.begin("a", 5).await;
    parties.until_waiting(RIGHT, "a", "can-commit").await;
    parties.join().await;
    parties.crash(0);
    let outcome = parties.end_of(&handle).await;
    assert!(undone_by(&outcome, RIGHT), "{outcome}");
    let transfer = Transfer { key: "a".to_owned(), cents: 5 };
    let names = [LEFT.to_owned(), RIGHT.to_owned()];
    for _ in 0..2 {
        let vote = parties.right.can_commit(handle.run(), &transfer, &names).await;
        assert!(matches!(vote, Err(sagas::saga::StepError::Refused(_))), "{vote:?}");
    }
    assert_eq!(parties.standings(handle.run()).await, [Standing::Aborted; 2]);
    assert_eq!(parties.effects("a").await[1], [""; 0]);
    assert_eq!(parties.terminate(&parties.right, handle.run()).await, None);
    parties.end().await;
}

/// Y6
pub(super) async fn each_call_of_a_participant_acts_once<S: Subject>(subject: &S) {
    let parties = Parties::start(subject).await;
    for verb in ["can-commit", "pre-commit", "do-commit", "abort"] {
        for run in ["a", "b"] {
            parties.plays(LEFT, run, verb, &[Play::Unheard, Play::Lost]);
        }
    }
    let handle = parties.begin("a", 5).await;
    assert_eq!(parties.end_of(&handle).await, Outcome::Completed);
    let outcome = parties.run("b", DEAR).await;
    assert!(undone_by(&outcome, RIGHT), "{outcome}");
    // They come again, when all is over.
    let (transfer, names) = (Transfer { key: "a".to_owned(), cents: 5 }, [LEFT.to_owned(), RIGHT.to_owned()]);
    parties.left.can_commit(handle.run(), &transfer, &names).await.unwrap();
    assert!(parties.left.pre_commit(handle.run()).await.unwrap());
    parties.left.do_commit(handle.run()).await.unwrap();
    let error = parties.left.abort(handle.run()).await.unwrap_err().to_string();
    assert!(error.contains("is Committed"), "{error}");
    assert_eq!(parties.standings(handle.run()).await, [Standing::Committed; 2]);
    parties.is_whole("a", &Outcome::Completed).await;
    parties.is_whole("b", &outcome).await;
    parties.end().await;
}

/// Y7
pub(super) async fn one_that_is_away_for_long_follows_what_was_decided<S: Subject>(subject: &S) {
    let parties = Parties::start(subject).await;
    // For its vote, and for the pre-commit.
    parties.breaks(RIGHT, "a", "can-commit");
    let outcome = parties.run("a", 5).await;
    assert!(undone_by(&outcome, RIGHT), "{outcome}");
    parties.is_whole("a", &outcome).await;
    parties.breaks(RIGHT, "b", "pre-commit");
    assert_eq!(parties.run("b", 5).await, Outcome::Completed, "the other one knows that all have voted");
    parties.is_whole("b", &Outcome::Completed).await;
    // For the commit, until an operator is asked.
    parties.breaks(RIGHT, "c", "do-commit");
    let handle = parties.begin("c", 5).await;
    let shown = parties.until("c", is_parked).await;
    assert_eq!(states(&shown), ["committed", "parked"]);
    assert!(shown.waits_for.contains("right: it is broken"), "{}", shown.waits_for);
    // It finds out by itself, and the coordinator once it is told to try again.
    assert_eq!(parties.terminate(&parties.right, handle.run()).await, Some(Decision::Commit));
    assert_eq!(parties.standings(handle.run()).await, [Standing::Committed; 2]);
    parties.mend();
    assert_eq!(parties.ask("c", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(parties.end_of(&handle).await, Outcome::Completed);
    parties.is_whole("c", &Outcome::Completed).await;
    parties.end().await;
}

/// Y8
pub(super) async fn what_an_operator_says_of_a_participant_counts<S: Subject>(subject: &S) {
    let parties = Parties::start(subject).await;
    // It is not decided: whoever cancels asks for the decision to abort.
    parties.holds(&[RIGHT], "a", "can-commit");
    let handle = parties.begin("a", 5).await;
    parties.until_waiting(RIGHT, "a", "can-commit").await;
    for verb in [resolve(RIGHT), skip(RIGHT), Verb::GoForward] {
        parties.declined("a", verb).await;
    }
    assert_eq!(parties.ask("a", Verb::Cancel).await, Ok(()));
    parties.let_go();
    assert!(matches!(parties.end_of(&handle).await, Outcome::Undone(Why::Cancelled { .. })));
    // It is, and one cannot be reached.
    parties.breaks(RIGHT, "b", "do-commit");
    parties.breaks(RIGHT, "c", "abort");
    let committed = parties.begin("b", 5).await;
    parties.until("b", is_parked).await;
    let why = parties.declined("b", Verb::Cancel).await;
    assert!(why.contains("decided to commit"), "{why}");
    parties.declined("b", skip(RIGHT)).await;
    let runs = parties.runs();
    let forward = parties.ground.ask(async || runs.if_it_failed("b").await).await;
    assert!(matches!(forward, Ok(IfItFailed::Forward(_))), "{forward:?}");
    assert_eq!(parties.ask("b", resolve(RIGHT)).await, Ok(()));
    assert_eq!(parties.end_of(&committed).await, Outcome::Completed);
    let aborted = parties.begin("c", DEAR).await;
    parties.until("c", is_parked).await;
    parties.declined("c", resolve(RIGHT)).await;
    assert_eq!(parties.ask("c", skip(RIGHT)).await, Ok(()));
    assert!(undone_by(&parties.end_of(&aborted).await, RIGHT));
    // It is ended where it is: the participants are in doubt, and decide among themselves.
    parties.holds(&[LEFT, RIGHT], "d", "pre-commit");
    let abandoned = parties.begin("d", 5).await;
    parties.until_waiting(LEFT, "d", "pre-commit").await;
    parties.until_waiting(RIGHT, "d", "pre-commit").await;
    assert_eq!(parties.ask("d", Verb::Abandon).await, Ok(()));
    parties.let_go();
    assert!(matches!(parties.end_of(&abandoned).await, Outcome::Abandoned { .. }));
    let left = parties.terminate(&parties.left, abandoned.run()).await;
    let right = parties.terminate(&parties.right, abandoned.run()).await;
    assert!(left.is_some() && left == right, "{left:?} {right:?}");
    parties.end().await;
}

/// Y9
pub(super) async fn a_deadline_asks_for_a_decision_and_goes_by_it<S: Subject>(subject: &S) {
    let parties = Parties::start(subject).await;
    parties.holds(&[RIGHT], "a", "can-commit");
    let handle = parties.begin("a", 5).await;
    parties.until_waiting(RIGHT, "a", "can-commit").await;
    parties.ground.clock.advance(DEADLINE);
    parties.until("a", |shown| shown.status == RunStatus::Undoing).await;
    parties.let_go();
    let outcome = parties.end_of(&handle).await;
    assert_eq!(outcome, Outcome::Undone(Why::Deadline));
    parties.is_whole("a", &outcome).await;
    // One knows that all have voted.
    parties.holds(&[RIGHT], "b", "pre-commit");
    let handle = parties.begin("b", 5).await;
    parties.until_waiting(RIGHT, "b", "pre-commit").await;
    parties.until("b", |shown| states(shown)[0] == "pre-committed").await;
    parties.ground.clock.advance(DEADLINE);
    parties.until("b", |shown| states(shown)[0] == "committed").await;
    parties.let_go();
    assert_eq!(parties.end_of(&handle).await, Outcome::Completed);
    parties.is_whole("b", &Outcome::Completed).await;
    parties.end().await;
}

/// Y11
pub(super) async fn one_that_has_lost_its_vote_says_so_and_none_commits<S: Subject>(subject: &S) {
    let parties = Parties::start(subject).await;
    parties.holds(&[RIGHT], "a", "pre-commit");
    let handle = parties.begin("a", 5).await;
    parties.until_waiting(RIGHT, "a", "pre-commit").await;
    parties.until_standing(handle.run(), [Standing::PreCommitted, Standing::Voted]).await;
    parties.databases[1].inner.loses("three-phase/right").await;
    parties.let_go();
    let outcome = parties.end_of(&handle).await;
    assert!(undone_by(&outcome, RIGHT), "{outcome}");
    assert_eq!(parties.standings(handle.run()).await, [Standing::Aborted; 2]);
    assert_eq!(parties.effects("a").await, [vec!["freed", "held"], vec!["held"]]);
    parties.end().await;
}

/// Two that have voted, and wait.
async fn two_that_wait<S: Subject>(parties: &Parties<'_, S, InMemory>) -> [Handle; 2] {
    let mut waiting = Vec::new();
    for run in ["a", "b"] {
        parties.holds(&[LEFT, RIGHT], run, "pre-commit");
        waiting.push(parties.begin(run, 5).await);
        parties.until_waiting(LEFT, run, "pre-commit").await;
        parties.until_waiting(RIGHT, run, "pre-commit").await;
    }
    waiting.try_into().unwrap()
}

/// Y12
pub(super) async fn one_that_does_not_answer_keeps_nobody_from_an_end<S: Subject>(subject: &S) {
    let parties = Parties::start(subject).await;
    let waiting = two_that_wait(&parties).await;
    parties.silence();
    let later = es_core::clock::Clock::now(&parties.ground.clock).saturating_add(DEADLINE * 10).unwrap();
    let ends = parties.ground.ask(async || {
        let came = parties.left.look(later, DEADLINE).await?;
        came.into_iter().try_for_each(|(_, came)| came.map(drop))
    });
    tokio::time::timeout(PATIENCE / 10, ends).await.expect("it waits for one that does not answer");
    for handle in &waiting {
        assert_eq!(parties.left.standing(handle.run()).await.unwrap(), Standing::Aborted);
    }
    parties.let_go();
    for handle in &waiting {
        assert!(undone_by(&parties.end_of(handle).await, LEFT));
    }
    parties.end().await;
}

/// Y13
pub(super) async fn what_is_held_without_a_vote_is_said_at_each_look<S: Subject>(subject: &S) {
    let parties = Parties::start(subject).await;
    let transfer = Transfer { key: "a".to_owned(), cents: 5 };
    let ids = Ids::new(Arc::new(parties.ground.clock.clone()), Arc::new(es_core::entropy::SystemEntropy));
    let txn = ids.next();
    parties.left.can_commit(txn, &transfer, &[LEFT.to_owned(), RIGHT.to_owned()]).await.unwrap();
    parties.databases[0].inner.loses("three-phase/left").await;
    let later = es_core::clock::Clock::now(&parties.ground.clock).saturating_add(DEADLINE * 10).unwrap();
    for _ in 0..2 {
        let came = parties.left.look(later, DEADLINE).await.unwrap();
        let [(of, Err(ParticipantError::Odd { standing: Standing::Unvoted, .. }))] = came.as_slice() else {
            panic!("{came:?}")
        };
        assert_eq!(*of, txn);
    }
    parties.end().await;
}

/// Y14
pub(super) async fn a_time_out_counts_from_the_vote<S: Subject>(subject: &S) {
    let parties = Parties::start(subject).await;
    let transfer = Transfer { key: "a".to_owned(), cents: 5 };
    let ids = Ids::new(Arc::new(parties.ground.clock.clone()), Arc::new(es_core::entropy::SystemEntropy));
    // It was begun long before it comes to a vote.
    let txn = ids.next();
    parties.ground.clock.advance(DEADLINE * 10);
    parties.left.can_commit(txn, &transfer, &[LEFT.to_owned()]).await.unwrap();
    let now = es_core::clock::Clock::now(&parties.ground.clock);
    let came = parties.left.look(now, DEADLINE).await.unwrap();
    assert!(came.is_empty(), "{came:?}");
    assert_eq!(parties.left.standing(txn).await.unwrap(), Standing::Voted);
    // The clock goes on by itself as well.
    let later = now.saturating_add(DEADLINE * 2).unwrap();
    let end = async || {
        let came = parties.left.look(later, DEADLINE).await?;
        came.into_iter().try_for_each(|(_, came)| came.map(drop))
    };
    parties.ground.ask(end).await;
    assert_eq!(parties.left.standing(txn).await.unwrap(), Standing::Aborted);
    parties.end().await;
}

/// Y10
pub(super) async fn a_participant_whose_commits_are_in_doubt_stands_where_its_row_says<S: WithOther>(
    subject: &S,
) {
    let database = subject.other().await;
    database.make().await;
    let parties = Parties::with(subject, [database.clone(), database]).await;
    parties.left.check().await.unwrap();
    let clock = Arc::new(parties.ground.clock.clone());
    let ids = Ids::new(clock, Arc::new(es_core::entropy::SystemEntropy));
    let names = [LEFT.to_owned(), RIGHT.to_owned()];
    for (run, end) in [("a", Decision::Commit), ("b", Decision::Abort), ("c", Decision::Commit)] {
        let (txn, transfer) = (ids.next(), Transfer { key: run.to_owned(), cents: 5 });
        let left = &parties.left;
        // Each commit of it is not applied, and then is, and nobody hears of either.
        let doubted = async |call: &dyn Fn() -> BoxFuture<'static, bool>| {
            parties.databases[0].will(&[Fault::Lost, Fault::Unheard]);
            let heard = [call().await, call().await, call().await];
            assert_eq!(heard, [false, false, true], "{run}");
        };
        let of = |left: &Participant<S::Other>| (left.clone(), transfer.clone(), names.clone());
        doubted(&|| {
            let (left, transfer, names) = of(left);
            async move { left.can_commit(txn, &transfer, &names).await.is_ok() }.boxed()
        })
        .await;
        assert_eq!(left.standing(txn).await.unwrap(), Standing::Voted);
        if end == Decision::Commit {
            doubted(&|| {
                let left = left.clone();
                async move { left.pre_commit(txn).await.is_ok() }.boxed()
            })
            .await;
            assert_eq!(left.standing(txn).await.unwrap(), Standing::PreCommitted);
        }
        let terminates = run == "c";
        doubted(&|| {
            let left = left.clone();
            async move {
                match end {
                    _ if terminates => left.terminate(txn).await.is_ok(),
                    Decision::Commit => left.do_commit(txn).await.is_ok(),
                    Decision::Abort => left.abort(txn).await.is_ok(),
                }
            }
            .boxed()
        })
        .await;
        let (standing, what) = match end {
            Decision::Commit => (Standing::Committed, "used"),
            Decision::Abort => (Standing::Aborted, "freed"),
        };
        assert_eq!(left.standing(txn).await.unwrap(), standing);
        let mut all = [what, "held"];
        all.sort_unstable();
        assert_eq!(parties.effects(run).await[0], all);
    }
    // With a coordinator, on both sides.
    for (run, cents) in [("d", 5), ("e", DEAR)] {
        let outcome = parties.run(run, cents).await;
        assert_eq!(outcome == Outcome::Completed, run == "d", "{outcome}");
        parties.is_whole(run, &outcome).await;
    }
    parties.end().await;
}
