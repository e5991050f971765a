//! Best-effort chains: V1 to V15.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::{App, Backend, BoxError};
use sagas::chain::{Chain, Link, LinkCx, UndoLink};
use sagas::overview::Transactions as _;
use sagas::reconcile::{self, Class};
use sagas::saga::{
    Handle, Outcome, Retry, RunError, RunShown, RunStatus, Saga, SagaApp as _, SagaInput, Sagas as _,
    StepError, Verb, Why,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Subject;
use super::ground::{Ground, PATIENCE};
use super::parties::InMemory;
use super::shaky::{Fault, Ledger, Shaky, ShakyTx, WithOther};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Move {
    key: String,
    /// In another order each time that it is read.
    #[serde(default)]
    tags: HashMap<u32, u32>,
}
impl SagaInput for Move {}

const NAMES: [&str; 3] = ["first", "second", "third"];

/// What a link answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Say {
    Yes,
    No,
    /// Yes, though one of its statements has failed.
    Spoiled,
    /// Nothing: it has failed.
    Fails,
    /// Yes, once it is let go.
    Waits,
}

/// A minute to be done in, for a chain that is parked.
const DEADLINE: Duration = Duration::from_secs(60);

/// Links that wait.
#[derive(Default)]
struct Gate {
    waiting: Mutex<usize>,
    let_go: Notify,
}

/// By run and link, in order. One that is not named says yes.
type Says = Arc<Mutex<BTreeMap<(String, &'static str), VecDeque<Say>>>>;

/// What is done in one of three databases.
#[derive(Clone)]
struct Leg<D, const N: usize> {
    database: Shaky<D>,
    says: Says,
    gate: Arc<Gate>,
}

impl<D: Ledger, const N: usize> Link<Move> for Leg<D, N> {
    const NAME: &'static str = NAMES[N];
    type Database = Shaky<D>;
    fn database(&self) -> &Shaky<D> {
        &self.database
    }
    async fn run(&self, cx: LinkCx<'_, Move>, tx: &mut ShakyTx<D::Tx>) -> Result<(), StepError<String>> {
        assert_eq!(cx.key, cx.input.key);
        // Before it says no: nothing of it may stay.
        let what = format!("{} {} done", cx.key, Self::NAME);
        D::write(&mut tx.tx, &what).await.map_err(StepError::Retry)?;
        let of = (cx.key.to_owned(), Self::NAME);
        let says = self.says.lock().unwrap().get_mut(&of).and_then(VecDeque::pop_front);
        match says {
            Some(Say::No) => return Err(StepError::Refused("sold out".to_owned())),
            Some(Say::Spoiled) => D::spoil(&mut tx.tx).await,
            Some(Say::Fails) => return Err(StepError::Retry("no connection".into())),
            Some(Say::Waits) => {
                let let_go = self.gate.let_go.notified();
                *self.gate.waiting.lock().unwrap() += 1;
                let_go.await;
            }
            Some(Say::Yes) | None => {}
        }
        Ok(())
    }
}

impl<D: Ledger, const N: usize> UndoLink<Move> for Leg<D, N> {
    async fn undo(&self, cx: LinkCx<'_, Move>, tx: &mut ShakyTx<D::Tx>) -> Result<(), BoxError> {
        D::write(&mut tx.tx, &format!("{} {} undone", cx.key, Self::NAME)).await
    }
}

/// What becomes of a partial outcome.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Forward,
    Compensate,
    Park,
}

fn retry() -> Retry {
    let brief = Duration::from_millis(5);
    Retry::default().pauses(brief, brief * 4).tries(3).late(4, Duration::from_secs(3_600))
}

/// Three databases: two in memory, and one between them.
struct Chains<'s, S: Subject, D> {
    ground: Ground<'s, S>,
    first: Leg<InMemory, 0>,
    second: Leg<D, 1>,
    third: Leg<InMemory, 2>,
    says: Says,
    gate: Arc<Gate>,
    then: Then,
    nodes: Vec<App>,
}

impl<'s, S: Subject, D: Ledger + Clone> Chains<'s, S, D> {
    async fn with(subject: &'s S, then: Then, between: D) -> Self {
        let (ground, says) = (Ground::open(subject).await, Says::default());
        ground.flow();
        let gate = Arc::<Gate>::default();
        let in_memory = || Shaky::new(InMemory::default());
        let first = Leg { database: in_memory(), says: says.clone(), gate: gate.clone() };
        let second = Leg { database: Shaky::new(between), says: says.clone(), gate: gate.clone() };
        let third = Leg { database: in_memory(), says: says.clone(), gate: gate.clone() };
        let mut chains = Self { ground, first, second, third, says, gate, then, nodes: Vec::new() };
        chains.join().await;
        chains
    }

    fn saga(&self) -> Saga<Move, <S::Backend as Backend>::Tx> {
        let (first, second, third) = (self.first.clone(), self.second.clone(), self.third.clone());
        match self.then {
            Then::Forward => {
                let chain = Chain::fixed_forward("move", 1).retry(retry());
                chain.link(first).link(second).link(third).build()
            }
            Then::Compensate => {
                let chain = Chain::compensated("move", 1).retry(retry());
                chain.link(first).link(second).link(third).build()
            }
            Then::Park => {
                let chain = Chain::parked("move", 1).retry(retry()).deadline(DEADLINE);
                chain.link(first).link(second).link(third).build()
            }
        }
    }

    async fn join(&mut self) {
        let app = self.ground.join(|app| app.saga(self.saga())).await;
        self.nodes.push(app);
    }

    /// A node is gone from one moment to the next.
    fn crash(&mut self, node: usize) {
        drop(self.nodes.swap_remove(node));
    }

    fn says(&self, run: &str, link: usize, says: &[Say]) {
        self.says.lock().unwrap().insert((run.to_owned(), NAMES[link]), says.iter().copied().collect());
    }

    /// What becomes of the next commits of a link.
    fn will(&self, link: usize, faults: &[Fault]) {
        match link {
            0 => self.first.database.will(faults),
            1 => self.second.database.will(faults),
            _ => self.third.database.will(faults),
        }
    }

    async fn until_met(&self, link: usize) {
        let has_met = || match link {
            0 => self.first.database.has_met_all(),
            1 => self.second.database.has_met_all(),
            _ => self.third.database.has_met_all(),
        };
        let begun = Instant::now();
        while !has_met() {
            assert!(begun.elapsed() < PATIENCE / 10, "it does not come to that commit");
            self.ground.pause().await;
        }
    }

    async fn begin(&self, key: &str) -> Handle {
        let input = Move { key: key.to_owned(), tags: (0..12).map(|n| (n, n)).collect() };
        self.ground.ask(async || self.nodes[0].start_saga(key, &input).await).await
    }

    async fn run(&self, key: &str) -> Outcome {
        let handle = self.begin(key).await;
        self.end_of(&handle).await
    }

    async fn end_of(&self, handle: &Handle) -> Outcome {
        let begun = Instant::now();
        loop {
            if let Some(outcome) = self.ground.ask(async || handle.ended().await).await {
                return outcome;
            }
            if begun.elapsed() > PATIENCE / 10 {
                panic!("it does not end: {:#?}", self.show(handle.key()).await);
            }
            self.ground.pause().await;
        }
    }

    async fn show(&self, key: &str) -> RunShown {
        let runs = self.nodes[0].saga_runs::<Move>().unwrap();
        self.ground.ask(async || runs.show(key).await).await
    }

    async fn until_parked(&self, key: &str) -> RunShown {
        let begun = Instant::now();
        loop {
            let shown = self.show(key).await;
            if shown.status == RunStatus::Parked {
                return shown;
            }
            assert!(begun.elapsed() < PATIENCE / 10, "it is not parked: {shown:#?}");
            self.ground.pause().await;
        }
    }

    /// Asks for something, until that is answered.
    async fn ask(&self, key: &str, verb: Verb) -> Result<(), String> {
        let (runs, mut is_first) = (self.nodes[0].saga_runs::<Move>().unwrap(), true);
        loop {
            let answer = runs.ask(key, verb.clone(), "ada", "because", Duration::from_secs(30)).await;
            match answer {
                Err(RunError::Store(_)) => is_first = false,
                // It was done the first time.
                Ok(Err(_)) | Err(RunError::Ended { .. }) if !is_first => return Ok(()),
                answer => return answer.unwrap(),
            }
            self.ground.pause().await;
        }
    }

    /// Asks for something that is declined. Gives why.
    async fn declined(&self, key: &str, verb: Verb) -> String {
        let runs = self.nodes[0].saga_runs::<Move>().unwrap();
        loop {
            match runs.ask(key, verb.clone(), "ada", "because", Duration::from_secs(30)).await {
                Err(RunError::Store(_)) => self.ground.pause().await,
                answer => return answer.unwrap().unwrap_err(),
            }
        }
    }

    /// What was done for a run, in the order of the databases.
    async fn effects(&self, run: &str) -> Vec<String> {
        let mut all = self.first.database.written().await;
        all.extend(self.second.database.written().await);
        all.extend(self.third.database.written().await);
        let prefix = format!("{run} ");
        all.iter().filter_map(|what| what.strip_prefix(&prefix).map(str::to_owned)).collect()
    }

    async fn end(mut self) {
        for app in self.nodes.drain(..) {
            assert!(app.shutdown(PATIENCE).await);
        }
    }
}

impl<'s, S: Subject> Chains<'s, S, InMemory> {
    async fn start(subject: &'s S, then: Then) -> Self {
        Self::with(subject, then, InMemory::default()).await
    }
}

fn skip() -> Verb {
    Verb::Skip { step: "chain".to_owned() }
}

const DONE: [&str; 3] = ["first done", "second done", "third done"];

fn refused(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Undone(Why::Refused { why, .. }) => Some(why),
        _ => None,
    }
}

/// V1
pub(super) async fn all_links_commit_or_none_does_if_one_says_no<S: Subject>(subject: &S) {
    for (then, of) in [(Then::Forward, "f"), (Then::Compensate, "c"), (Then::Park, "p")] {
        let chains = Chains::start(subject, then).await;
        let run = format!("{of}-a");
        assert_eq!(chains.run(&run).await, Outcome::Completed);
        assert_eq!(chains.effects(&run).await, DONE);
        for (link, name) in NAMES.into_iter().enumerate() {
            let run = &*format!("{of}-{link}");
            chains.says(run, link, &[Say::No]);
            let outcome = chains.run(run).await;
            assert_eq!(refused(&outcome), Some(&*format!("{name}: sold out")), "{outcome}");
            assert_eq!(chains.effects(run).await, [""; 0]);
        }
        chains.end().await;
    }
}

/// V2
pub(super) async fn a_node_that_is_gone_between_two_commits_is_followed<S: Subject>(subject: &S) {
    let mut chains = Chains::start(subject, Then::Forward).await;
    for (link, run) in ["a", "b", "c"].into_iter().enumerate() {
        chains.will(link, &[Fault::Hangs]);
        let handle = chains.begin(run).await;
        chains.until_met(link).await;
        assert_eq!(chains.effects(run).await, DONE[..link], "others see the middle");
        chains.join().await;
        chains.crash(0);
        assert_eq!(chains.end_of(&handle).await, Outcome::Completed);
        assert_eq!(chains.effects(run).await, DONE);
    }
    chains.end().await;
}

/// V3
pub(super) async fn a_commit_of_a_link_that_nobody_hears_is_found_out<S: Subject>(subject: &S) {
    for (then, of) in [(Then::Forward, "f"), (Then::Compensate, "c")] {
        let chains = Chains::start(subject, then).await;
        for fault in [Fault::Unheard, Fault::Lost] {
            for link in 0..3 {
                let run = format!("{of}-{fault:?}-{link}");
                chains.will(link, &[fault]);
                assert_eq!(chains.run(&run).await, Outcome::Completed);
                assert_eq!(chains.effects(&run).await, DONE);
            }
        }
        chains.end().await;
    }
}

/// V4
pub(super) async fn a_partial_outcome_is_undone_if_that_is_declared<S: Subject>(subject: &S) {
    let chains = Chains::start(subject, Then::Compensate).await;
    for (link, run) in ["a", "b", "c"].into_iter().enumerate() {
        // The try after it may find that another one has committed.
        chains.will(link, &[Fault::Lost; 3]);
        let outcome = chains.run(run).await;
        assert!(matches!(outcome, Outcome::Undone(Why::Failed { .. })), "{outcome}");
        let undone = NAMES[..link].iter().flat_map(|name| [format!("{name} done"), format!("{name} undone")]);
        assert_eq!(chains.effects(run).await, undone.collect::<Vec<_>>());
    }
    // What says no once others have committed is a failure, and no refusal.
    chains.will(1, &[Fault::Lost]);
    chains.says("d", 1, &[Say::Yes, Say::No, Say::No]);
    let outcome = chains.run("d").await;
    let Outcome::Undone(Why::Failed { error, .. }) = &outcome else { panic!("{outcome}") };
    assert!(error.contains("committed: first; not committed: second: sold out"), "{error}");
    assert_eq!(chains.effects("d").await, ["first done", "first undone"]);
    chains.end().await;
}

/// V5
pub(super) async fn a_partial_outcome_waits_for_an_operator_if_that_is_declared<S: Subject>(subject: &S) {
    let chains = Chains::start(subject, Then::Park).await;
    chains.will(1, &[Fault::Lost]);
    let handle = chains.begin("a").await;
    let shown = chains.until_parked("a").await;
    let why = "committed: first; not committed: second, which is left as it is";
    assert!(shown.waits_for.contains(why), "{}", shown.waits_for);
    assert!(shown.waits_for.contains("it has acted in part: finish it by hand"), "{}", shown.waits_for);
    assert!(!shown.waits_for.contains("was refused"), "{}", shown.waits_for);
    assert_eq!(chains.effects("a").await, ["first done"]);
    // By hand, and said.
    let output = sagas::Data::of(&json!(null)).unwrap();
    assert_eq!(chains.ask("a", Verb::Resolve { step: "chain".to_owned(), output }).await, Ok(()));
    assert_eq!(chains.end_of(&handle).await, Outcome::Completed);
    assert_eq!(chains.effects("a").await, ["first done"]);
    // Of which nothing has committed is tried again.
    chains.will(0, &[Fault::Lost]);
    assert_eq!(chains.run("b").await, Outcome::Completed);
    assert_eq!(chains.effects("b").await, DONE);
    chains.end().await;
}

/// V6
pub(super) async fn what_says_no_once_others_have_committed_is_asked_about<S: Subject>(subject: &S) {
    let chains = Chains::start(subject, Then::Forward).await;
    chains.will(1, &[Fault::Lost]);
    chains.says("a", 1, &[Say::Yes, Say::No, Say::No, Say::No]);
    let handle = chains.begin("a").await;
    let shown = chains.until_parked("a").await;
    let why = "committed: first; not committed: second: sold out";
    assert!(shown.waits_for.contains(why), "{}", shown.waits_for);
    assert_eq!(chains.effects("a").await, ["first done"]);
    // There is some again.
    assert_eq!(chains.ask("a", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(chains.end_of(&handle).await, Outcome::Completed);
    assert_eq!(chains.effects("a").await, DONE);
    chains.end().await;
}

/// V7
pub(super) async fn a_statement_that_has_failed_shows_before_anything_is_committed<S: Subject>(subject: &S) {
    let chains = Chains::start(subject, Then::Compensate).await;
    chains.says("a", 2, &[Say::Spoiled; 3]);
    let outcome = chains.run("a").await;
    let Outcome::Undone(Why::Failed { error, .. }) = &outcome else { panic!("{outcome}") };
    assert!(error.starts_with("third: "), "{error}");
    assert_eq!(chains.effects("a").await, [""; 0], "nothing was committed, so nothing is undone");
    chains.end().await;
}

/// V9
pub(super) async fn a_partial_outcome_that_was_undone_by_hand_ends_as_undone<S: Subject>(subject: &S) {
    let chains = Chains::start(subject, Then::Park).await;
    chains.will(1, &[Fault::Lost]);
    let handle = chains.begin("a").await;
    chains.until_parked("a").await;
    // It may not be undone by itself: what has committed is still said.
    let why = chains.declined("a", Verb::Cancel).await;
    assert!(why.contains("only goes forward"), "{why}");
    let shown = chains.until_parked("a").await;
    assert!(shown.waits_for.contains("committed: first; not committed: second"), "{}", shown.waits_for);
    chains.ground.clock.advance(DEADLINE);
    assert_eq!(chains.ask("a", skip()).await, Ok(()));
    let outcome = chains.end_of(&handle).await;
    assert!(refused(&outcome).is_some_and(|why| why.contains("committed: first")), "{outcome}");
    assert_eq!(chains.effects("a").await, ["first done"], "nothing more is done");
    // Somebody has made room: what is left is still left, and is asked about again.
    chains.will(1, &[Fault::Lost]);
    let handle = chains.begin("b").await;
    chains.until_parked("b").await;
    assert_eq!(chains.ask("b", Verb::Retry { step: None }).await, Ok(()));
    chains.until_parked("b").await;
    assert_eq!(chains.ask("b", skip()).await, Ok(()));
    assert!(refused(&chains.end_of(&handle).await).is_some());
    chains.end().await;
}

/// V10
pub(super) async fn what_commits_while_its_deadline_passes_has_completed<S: Subject>(subject: &S) {
    let chains = Chains::start(subject, Then::Park).await;
    chains.says("a", 1, &[Say::Waits]);
    let handle = chains.begin("a").await;
    let begun = Instant::now();
    while *chains.gate.waiting.lock().unwrap() == 0 {
        assert!(begun.elapsed() < PATIENCE / 10, "nothing waits");
        chains.ground.pause().await;
    }
    chains.ground.clock.advance(DEADLINE * 2);
    let why = chains.declined("a", Verb::Cancel).await;
    assert!(why.contains("only goes forward"), "{why}");
    chains.gate.let_go.notify_waiters();
    assert_eq!(chains.end_of(&handle).await, Outcome::Completed);
    assert_eq!(chains.effects("a").await, DONE);
    chains.end().await;
}

/// V11
pub(super) async fn a_chain_of_which_nothing_is_committed_is_tried_for_long<S: Subject>(subject: &S) {
    let chains = Chains::start(subject, Then::Park).await;
    // More often than a step of a saga.
    chains.says("a", 1, &[Say::Fails; 3]);
    assert_eq!(chains.run("a").await, Outcome::Completed);
    assert_eq!(chains.effects("a").await, DONE);
    // In the end somebody is asked, who reads that nothing has happened.
    chains.says("b", 1, &[Say::Fails; 4]);
    let handle = chains.begin("b").await;
    let shown = chains.until_parked("b").await;
    let why = "second: no connection; nothing is committed";
    assert!(shown.waits_for.contains(why), "{}", shown.waits_for);
    assert_eq!(chains.effects("b").await, [""; 0]);
    assert_eq!(chains.ask("b", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(chains.end_of(&handle).await, Outcome::Completed);
    chains.end().await;
}

/// V12
pub(super) async fn an_input_that_is_written_otherwise_each_time_is_the_same_one<S: Subject>(subject: &S) {
    for (then, of) in [(Then::Forward, "f"), (Then::Compensate, "c")] {
        let chains = Chains::start(subject, then).await;
        for run in ["a", "b", "c"] {
            let run = format!("{of}-{run}");
            chains.will(1, &[Fault::Lost]);
            assert_eq!(chains.run(&run).await, Outcome::Completed);
            assert_eq!(chains.effects(&run).await, DONE);
        }
        chains.end().await;
    }
}

/// V13
pub(super) async fn rows_of_chains_are_no_difference_to_the_journals_of_sagas<S: Subject>(subject: &S) {
    let chains = Chains::start(subject, Then::Forward).await;
    assert_eq!(chains.run("a").await, Outcome::Completed);
    let all = chains.nodes[0].transactions();
    let first = Arc::new(chains.first.database.clone());
    let guards = reconcile::guards(&all, chains.ground.backend.clone(), "first", first).unwrap();
    let guards = guards.looks_again_after(Duration::ZERO);
    let report = chains.ground.ask(async || guards.run().await).await;
    assert!(report.is_clean() && report.keys == 0, "{report}");
    chains.end().await;
}

/// V14
pub(super) async fn a_link_that_a_database_has_lost_is_found<S: Subject>(subject: &S) {
    let second = InMemory::default();
    let chains = Chains::with(subject, Then::Compensate, second.clone()).await;
    let all = chains.nodes[0].transactions();
    let links = reconcile::chains(&all, chains.ground.backend.clone()).unwrap();
    let links = links.looks_again_after(Duration::ZERO);
    let look = async || chains.ground.ask(async || links.run().await).await;
    assert_eq!(chains.run("a").await, Outcome::Completed);
    // One that has refused, and one that was undone, have left what their journals say.
    chains.says("no", 1, &[Say::No]);
    assert!(refused(&chains.run("no").await).is_some());
    chains.will(1, &[Fault::Lost; 3]);
    let undone = chains.run("back").await;
    assert!(matches!(undone, Outcome::Undone(Why::Failed { .. })), "{undone}");
    let report = look().await;
    assert!(report.is_clean() && report.keys >= 4, "{report}");
    second.set_back();
    let report = look().await;
    assert_eq!((report.of(Class::MissingRight), report.first.len()), (1, 1), "{report}");
    assert!(report.first[0].key.starts_with("chain.move/second "), "{report}");
    chains.end().await;
}

/// V15
pub(super) async fn what_may_have_committed_is_not_said_not_to_have<S: Subject>(subject: &S) {
    let chains = Chains::start(subject, Then::Park).await;
    chains.will(1, &[Fault::UnheardAndAway]);
    let handle = chains.begin("a").await;
    let shown = chains.until_parked("a").await;
    let why = "committed: first; perhaps committed: second, third (second: ";
    assert!(shown.waits_for.contains(why), "{}", shown.waits_for);
    assert_eq!(chains.effects("a").await, DONE[..2]);
    // Somebody has undone the first one by hand: a next try would take that for done.
    let why = chains.declined("a", skip()).await;
    assert!(why.contains("it is not known that chain has acted in part"), "{why}");
    chains.second.database.comes_back();
    assert_eq!(chains.ask("a", Verb::Retry { step: None }).await, Ok(()));
    let begun = Instant::now();
    let known = "skip it (committed: first, second; not committed: third, which is left as it is)";
    while !chains.show("a").await.waits_for.contains(known) {
        assert!(begun.elapsed() < PATIENCE / 10, "it is not found out");
        chains.ground.pause().await;
    }
    assert_eq!(chains.ask("a", skip()).await, Ok(()));
    let outcome = chains.end_of(&handle).await;
    assert!(refused(&outcome).is_some_and(|why| why.contains("committed: first, second")), "{outcome}");
    assert_eq!(chains.effects("a").await, DONE[..2], "nothing more is done");
    chains.end().await;
    // One that is fixed forward goes forward, whatever is said of it.
    let chains = Chains::start(subject, Then::Forward).await;
    chains.will(1, &[Fault::Lost]);
    chains.says("b", 1, &[Say::Yes, Say::Fails, Say::Fails, Say::Fails]);
    let handle = chains.begin("b").await;
    let shown = chains.until_parked("b").await;
    let why = "committed: first; not committed: second: no connection";
    assert!(shown.waits_for.contains(why), "{}", shown.waits_for);
    let why = chains.declined("b", skip()).await;
    assert!(why.contains("it is not known that chain has acted in part"), "{why}");
    assert_eq!(chains.ask("b", Verb::Retry { step: None }).await, Ok(()));
    assert_eq!(chains.end_of(&handle).await, Outcome::Completed);
    assert_eq!(chains.effects("b").await, DONE);
    chains.end().await;
}

/// V8
pub(super) async fn a_link_in_another_database_commits_once_or_is_undone<S: WithOther>(subject: &S) {
    for then in [Then::Forward, Then::Compensate] {
        let other = subject.other().await;
        if then == Then::Forward {
            other.make().await;
        }
        let chains = Chains::with(subject, then, other).await;
        let names = if then == Then::Forward { ["a", "b", "c"] } else { ["d", "e", "f"] };
        chains.will(1, &[Fault::Unheard]);
        assert_eq!(chains.run(names[0]).await, Outcome::Completed);
        assert_eq!(chains.effects(names[0]).await, DONE);
        chains.says(names[1], 1, &[Say::No]);
        let outcome = chains.run(names[1]).await;
        assert!(refused(&outcome).is_some(), "{outcome}");
        assert_eq!(chains.effects(names[1]).await, [""; 0]);
        // The last one fails for long: what is in the other database is undone, or waits and is done.
        chains.will(2, &[Fault::Lost; 3]);
        let outcome = chains.run(names[2]).await;
        match then {
            Then::Forward => assert_eq!(chains.effects(names[2]).await, DONE, "{outcome}"),
            _ => {
                let undone = ["first done", "first undone", "second done", "second undone"];
                assert_eq!(chains.effects(names[2]).await, undone, "{outcome}");
            }
        }
        chains.end().await;
    }
}
