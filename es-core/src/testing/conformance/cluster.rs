//! Who works on what, seen by a client that has no log: jobs, done once by nodes that come and go: G1 to G8.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::double::{Double, Line};
use super::jobs::{Jobs, Node, Wiring};
use super::patient::{Patient, ask};
use super::payments::{Ledger, Payments, World, eventually, payment};
use super::{LIMIT, Subject, start, store};
use crate::cluster::{StateStore, slice_of};
use crate::processor::{Processor, ProcessorState};
use crate::services::{Scope, Services};
use crate::store::{Commit, EventFilter, RecordedEvent, RowStore as _, RowWrite, Table, Won, write_rows};
use crate::{App, AppBuilder, BoxError, Reactor};

/// Short, so that whoever is gone is replaced soon.
const LEASE: Duration = Duration::from_millis(400);

/// A store, and the nodes that work on it.
struct Site<S: Subject> {
    subject: S,
    store: Patient<S::Backend>,
    pushed: u64,
}

/// A node at the other end of a line.
struct Member<S: Subject> {
    line: Double<S::Backend>,
    node: Node,
}

impl<S: Subject> Member<S> {
    /// Nothing comes through any more, and nobody is told.
    fn crash(self) {
        self.line.set(Line::Down);
        self.node.crash();
    }
}

impl<S: Subject> Site<S> {
    async fn new(subject: S) -> Self {
        let store = store(&subject).await;
        Self { subject, store, pushed: 0 }
    }

    async fn hire(&self, wiring: &Wiring) -> Member<S> {
        let line = Double::new(self.subject.again(&self.store.0).await);
        let store: Arc<dyn StateStore> = Arc::new(line.clone());
        Member { node: Node::start(&store, LEASE, wiring), line }
    }

    /// So many jobs, due in the past and in the future.
    async fn push(&mut self, jobs: &Jobs, n: u64) {
        let some: Vec<(u64, i64)> = (self.pushed..self.pushed + n)
            .map(|i| (i, i64::try_from(i * 37 % 400).unwrap_or(0) - 200))
            .collect();
        self.pushed += n;
        ask(|| jobs.push(&self.store.0, &some)).await;
    }

    /// Each job is done once, and no other.
    async fn assert_done(&self, jobs: &Jobs, expected: impl IntoIterator<Item = u64>) {
        eventually(|| async {
            let left = ask(|| jobs.waiting(&self.store.0)).await;
            if left == 0 { Ok(()) } else { Err(format!("{left} jobs of {} wait", jobs.name())) }
        })
        .await;
        let done: Vec<u64> = ask(|| jobs.done(&self.store.0)).await.iter().map(|doing| doing.job).collect();
        let expected: Vec<u64> = expected.into_iter().collect();
        assert_eq!(done, expected, "each job once");
        assert_eq!(ask(|| jobs.counted(&self.store.0)).await, expected.len() as u64);
    }

    async fn until_owners(&self, jobs: &Jobs, fits: impl Fn(&BTreeMap<Option<Uuid>, u16>) -> bool) {
        eventually(|| async {
            let owners = ask(|| jobs.owners(&self.store.0)).await;
            if fits(&owners) { Ok(()) } else { Err(format!("{owners:?}")) }
        })
        .await;
    }

    /// Each of these nodes has its share of the slices, and nobody else has any.
    async fn until_shared(&self, jobs: &Jobs, members: &[&Member<S>]) {
        let ids: BTreeSet<Option<Uuid>> = members.iter().map(|member| Some(member.node.id())).collect();
        let most = 1_024_u16.div_ceil(u16::try_from(ids.len()).expect("a few"));
        self.until_owners(jobs, |owners| {
            owners.keys().copied().eq(ids.iter().copied()) && owners.values().all(|n| *n <= most)
        })
        .await;
    }

    /// Who has the groups that cannot be split, by their rows, and who works on them.
    async fn until_fair(&self, members: &[(&Member<S>, &[&str])]) {
        eventually(|| async {
            let mut holders = BTreeMap::<String, Uuid>::new();
            for (key, row) in super::payments::rows(&self.store, "es.shares").await {
                let (group, _) = key.rsplit_once('#').expect("a key names a slice");
                if let Some(owner) = row["owner"].as_str() {
                    holders.insert(group.to_owned(), owner.parse().expect("an id"));
                }
            }
            let runs: Vec<(Uuid, BTreeSet<String>)> = members
                .iter()
                .map(|(member, runs)| (member.node.id(), runs.iter().map(|run| (*run).to_owned()).collect()))
                .collect();
            holders.retain(|group, _| runs.iter().any(|(_, runs)| runs.contains(group)));
            fair(&holders, &runs)?;
            for (member, runs) in members {
                let mine = runs.iter().filter(|run| holders.get(**run) == Some(&member.node.id()));
                let mine: BTreeMap<String, usize> = mine.map(|run| ((*run).to_owned(), 1)).collect();
                let running = member.node.running();
                if running != mine {
                    return Err(format!("{running:?} run where {mine:?} are"));
                }
            }
            Ok(())
        })
        .await;
    }
}

/// Every group has a node that runs it, and that has no two more than another that runs it.
fn fair(holders: &BTreeMap<String, Uuid>, runs: &[(Uuid, BTreeSet<String>)]) -> Result<(), String> {
    let count = |node: &Uuid| holders.values().filter(|holder| *holder == node).count();
    let groups: BTreeSet<&String> = runs.iter().flat_map(|(_, runs)| runs).collect();
    for group in groups {
        let could: Vec<&Uuid> =
            runs.iter().filter(|(_, runs)| runs.contains(group)).map(|(node, _)| node).collect();
        let holder = holders.get(group).ok_or_else(|| format!("no node has {group}: {holders:?}"))?;
        if !could.contains(&holder) || could.iter().any(|other| count(holder) > count(other) + 1) {
            return Err(format!("{group} is not shared fairly: {holders:?}"));
        }
    }
    Ok(())
}

fn jobs(name: &str, workers: usize) -> (Jobs, Wiring) {
    let jobs = Jobs::new(name);
    let wiring = Wiring { jobs: vec![(jobs.clone(), workers)], whole: Vec::new() };
    (jobs, wiring)
}

fn whole(names: &[&str]) -> Wiring {
    Wiring { jobs: Vec::new(), whole: names.iter().map(|name| (*name).to_owned()).collect() }
}

/// G1
pub async fn each_job_is_done_once_whatever_nodes_come_and_go<S: Subject>(subject: S) {
    let mut site = Site::new(subject).await;
    let (jobs, wiring) = jobs("jobs", 2);
    let mut members = vec![site.hire(&wiring).await];
    let mut stalled = Vec::new();
    for round in 0..12 {
        site.push(&jobs, 25).await;
        match round % 6 {
            0 | 3 => members.push(site.hire(&wiring).await),
            1 => {
                let member = members.remove(0);
                member.line.set(Line::HoldsWrites);
                stalled.push(member);
            }
            2 => members.remove(0).crash(),
            4 => {
                // Longer than its lease, and now it goes on.
                let member = stalled.remove(0);
                member.line.set(Line::Up);
                members.push(member);
            }
            _ => members.remove(0).node.stop().await,
        }
        tokio::time::sleep(LEASE / 2).await;
    }
    site.assert_done(&jobs, 0..site.pushed).await;
    site.until_shared(&jobs, &members.iter().collect::<Vec<_>>()).await;
    for member in members {
        member.node.stop().await;
    }
    site.until_owners(&jobs, |owners| owners.keys().eq([&None])).await;
}

/// G2
pub async fn a_share_that_was_claimed_is_written_by_nobody_who_had_it_before<S: Subject>(subject: S) {
    let mut site = Site::new(subject).await;
    let (jobs, wiring) = jobs("jobs", 1);
    let first = site.hire(&wiring).await;
    site.until_shared(&jobs, &[&first]).await;
    first.line.set(Line::HoldsWrites);
    site.push(&jobs, 10).await;
    let held = || async { if first.line.held() > 1 { Ok(()) } else { Err("nothing is held".to_owned()) } };
    eventually(held).await;
    let before = ask(|| jobs.shares(&site.store.0)).await.remove(0);
    let second = site.hire(&wiring).await;
    site.until_shared(&jobs, &[&second]).await;
    // By itself, beside a row that nobody else writes.
    let other = Table::<u32>::new("others").expect("a short name").insert("a", 1).expect("a number");
    let late = vec![jobs.put(&before).expect("a number"), other];
    let late = ask(|| write_rows(&site.store.0, late.clone())).await;
    let Won::No(at) = late else { panic!("{late:?}") };
    assert_eq!((&*at.table, at.expected), ("es.shares", before.rev));
    first.line.set(Line::Up);
    site.push(&jobs, 10).await;
    site.assert_done(&jobs, 0..site.pushed).await;
    site.until_shared(&jobs, &[&first, &second]).await;
}

/// G3
pub async fn no_job_waits_for_others_and_none_is_early<S: Subject>(subject: S) {
    let site = Site::new(subject).await;
    let (jobs, wiring) = jobs("jobs", 1);
    let crowd = slice_of("0");
    let many: Vec<u64> = (0..).filter(|n: &u64| slice_of(&n.to_string()) == crowd).take(150).collect();
    let few: Vec<u64> = (0..).filter(|n: &u64| slice_of(&n.to_string()) != crowd).take(10).collect();
    let later: Vec<u64> = (1_000_000..1_000_010).collect();
    let due = |jobs: &[u64], after: i64| jobs.iter().map(|job| (*job, after)).collect::<Vec<_>>();
    let all = [due(&many, -1_000), due(&few, 0), due(&later, 600)].concat();
    ask(|| jobs.push(&site.store.0, &all)).await;
    // One node: between two, the jobs of a slice that changes hands wait for that.
    let member = site.hire(&wiring).await;
    let mut expected = [many.clone(), few.clone(), later.clone()].concat();
    expected.sort_unstable();
    site.assert_done(&jobs, expected).await;
    let done = ask(|| jobs.done(&site.store.0)).await;
    for doing in &done {
        assert!(doing.at >= doing.due, "{doing:?} is early");
    }
    let last = |of: &[u64]| done.iter().filter(|doing| of.contains(&doing.job)).map(|doing| doing.at).max();
    assert!(last(&few) < last(&many), "a crowded slice holds up no other");
    drop(member);
}

/// G4
pub async fn shares_follow_the_members<S: Subject>(subject: S) {
    let site = Site::new(subject).await;
    let (jobs, wiring) = jobs("jobs", 1);
    let first = site.hire(&wiring).await;
    site.until_shared(&jobs, &[&first]).await;
    let second = site.hire(&wiring).await;
    site.until_shared(&jobs, &[&first, &second]).await;
    let more = Wiring { jobs: vec![(jobs.clone(), 3)], whole: Vec::new() };
    let third = site.hire(&more).await;
    site.until_shared(&jobs, &[&first, &second, &third]).await;
    eventually(|| async {
        let shares = ask(|| jobs.shares(&site.store.0)).await;
        let n = shares.iter().filter(|share| share.owner == Some(third.node.id())).count();
        if n == 3 { Ok(()) } else { Err(format!("three are worked on at once: {shares:?}")) }
    })
    .await;
    first.crash();
    site.until_shared(&jobs, &[&second, &third]).await;
    second.node.stop().await;
    site.until_shared(&jobs, &[&third]).await;
}

/// G5
pub async fn what_cannot_be_split_is_shared_fairly_and_moves_when_a_node_leaves<S: Subject>(subject: S) {
    let site = Site::new(subject).await;
    let all = ["a", "b", "c", "d", "e", "f"];
    let first = site.hire(&whole(&all)).await;
    site.until_fair(&[(&first, &all)]).await;
    let second = site.hire(&whole(&all)).await;
    site.until_fair(&[(&first, &all), (&second, &all)]).await;
    let third = site.hire(&whole(&all)).await;
    site.until_fair(&[(&first, &all), (&second, &all), (&third, &all)]).await;
    first.node.stop().await;
    site.until_fair(&[(&second, &all), (&third, &all)]).await;
    second.crash();
    site.until_fair(&[(&third, &all)]).await;
}

/// G5
pub async fn what_cannot_be_split_is_shared_fairly_between_nodes_that_run_different_things<S: Subject>(
    subject: S,
) {
    let site = Site::new(subject).await;
    let (all, low, high) = (["a", "b", "c", "d", "e", "f"], ["a", "b", "c"], ["c", "d", "e", "f"]);
    let first = site.hire(&whole(&all)).await;
    site.until_fair(&[(&first, &all)]).await;
    let second = site.hire(&whole(&low)).await;
    site.until_fair(&[(&first, &all), (&second, &low)]).await;
    let third = site.hire(&whole(&high)).await;
    site.until_fair(&[(&first, &all), (&second, &low), (&third, &high)]).await;
    first.line.set(Line::HoldsWrites);
    site.until_fair(&[(&second, &low), (&third, &high)]).await;
    first.line.set(Line::Up);
    site.until_fair(&[(&first, &all), (&second, &low), (&third, &high)]).await;
    second.crash();
    site.until_fair(&[(&first, &all), (&third, &high)]).await;
}

/// Does nothing about anything.
#[derive(Debug)]
struct Silent<const N: usize>;

impl<const N: usize> Reactor for Silent<N> {
    const NAME: &'static str = if N == 1 { "first" } else { "second" };
    fn filter() -> EventFilter {
        EventFilter::all()
    }

    async fn react(&self, _: &RecordedEvent, _: Scope<'_>) -> Result<(), BoxError> {
        Ok(())
    }

    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

/// The nodes that have one of the two reactors.
async fn reactors<S: Subject>(store: &Patient<S::Backend>) -> BTreeSet<Option<String>> {
    let rows = super::payments::rows(store, "checkpoints").await;
    rows.iter().map(|(_, row)| row["owner"].as_str().map(str::to_owned)).collect()
}

/// G5
pub async fn two_reactors_are_on_two_nodes<S: Subject>(subject: S) {
    let site = Site::new(subject).await;
    let backend = site.subject.again(&site.store.0).await;
    let wiring = || App::on(backend.clone()).lease(LEASE).reactor(Silent::<1>).reactor(Silent::<2>);
    let until = async |n: usize| {
        eventually(|| async {
            let owners = reactors::<S>(&site.store).await;
            if owners.len() == n && !owners.contains(&None) { Ok(()) } else { Err(format!("{owners:?}")) }
        })
        .await;
    };
    let first = start(wiring).await;
    until(1).await;
    let second = start(wiring).await;
    until(2).await;
    assert!(first.shutdown(LIMIT).await);
    until(1).await;
    drop(second);
}

/// Writes a row over whatever is there; gives what that was.
pub(super) async fn overwrite<S: Subject>(
    store: &Patient<S::Backend>,
    table: &str,
    key: &str,
    data: &[u8],
) -> Vec<u8> {
    loop {
        let (rev, before) =
            store.row(table, key).await.map_or_else(Default::default, |row| (row.rev, row.data));
        let row = Some(data.to_vec().into());
        let write = RowWrite { table: table.into(), key: key.to_owned(), rev, row };
        if store.commit(Commit { rows: vec![write], ..Commit::default() }).await.is_ok() {
            return before.to_vec();
        }
    }
}

/// G6
pub async fn a_share_that_cannot_be_read_stops_its_group_and_nothing_else<S: Subject>(subject: S) {
    let mut site = Site::new(subject).await;
    let (left, right) = (Jobs::new("left"), Jobs::new("right"));
    let wiring = Wiring { jobs: vec![(left.clone(), 1), (right.clone(), 1)], whole: Vec::new() };
    let (first, second) = (site.hire(&wiring).await, site.hire(&wiring).await);
    site.until_shared(&left, &[&first, &second]).await;
    site.until_shared(&right, &[&first, &second]).await;
    let readable = overwrite::<S>(&site.store, "es.shares", "left#0000", b"{\"turns\":-1}").await;
    site.push(&right, 20).await;
    site.assert_done(&right, 0..20).await;
    // A node that starts meanwhile gets its share of the other one.
    let third = site.hire(&wiring).await;
    site.until_shared(&right, &[&first, &second, &third]).await;
    site.push(&left, 20).await;
    site.push(&right, 20).await;
    site.assert_done(&right, (0..20).chain(40..60)).await;
    overwrite::<S>(&site.store, "es.shares", "left#0000", &readable).await;
    site.assert_done(&left, 20..40).await;
    site.until_shared(&left, &[&first, &second, &third]).await;
}

/// Whether a processor says that a row of its state cannot be read.
fn says_so(processor: &Processor) -> bool {
    match processor.status().state {
        ProcessorState::Unsettled { error } | ProcessorState::Failing { error, .. } => {
            error.contains("cannot be read")
        }
        _ => false,
    }
}

/// G6
pub async fn a_processor_whose_share_cannot_be_read_says_so_on_every_node<S: Subject>(subject: S) {
    const ROWS: [&str; 2] = ["ledger/1~1#0000", "first~1#0000"];
    let world = World::<S>::new(&subject).await;
    let wiring = |backend: &S::Backend| -> AppBuilder<S::Backend> {
        let app = App::on(backend.clone()).view::<Ledger>().projection(Payments::<S>::default());
        app.reactor(Silent::<1>).lease(LEASE)
    };
    let (one, two) = (subject.again(&world.store.0).await, subject.again(&world.store.0).await);
    let (first, second) = (start(|| wiring(&one)).await, start(|| wiring(&two)).await);
    world.put("a", vec![payment(1)]).await;
    super::settle(&first).await;
    let mut readable = Vec::new();
    for key in ROWS {
        readable.push(overwrite::<S>(&world.store, "checkpoints", key, b"{\"position\":\"?\"}").await);
    }
    let third = start(|| wiring(&world.store.0)).await;
    let apps = [&first, &second, &third];
    eventually(|| async {
        let all = apps.iter().flat_map(|app| app.processors());
        let other = all.filter(|processor| says_so(processor) == (processor.name() == "payments/1"));
        let other: Vec<_> = other.map(Processor::status).collect();
        if other.is_empty() { Ok(()) } else { Err(format!("{other:?}")) }
    })
    .await;
    world.put("a", vec![payment(2)]).await;
    let head = crate::Position(world.store.head().await);
    for app in apps {
        let payments = app.processors().iter().find(|p| p.name() == "payments/1").expect("it runs");
        payments.wait_for(head, LIMIT).await.expect("nothing is wrong with it");
    }
    for (key, data) in ROWS.into_iter().zip(readable) {
        overwrite::<S>(&world.store, "checkpoints", key, &data).await;
    }
    for app in apps {
        super::settle(app).await;
    }
    world.assert_complete("a", 2).await;
}

/// G7
pub async fn a_node_that_cannot_be_read_is_ignored<S: Subject>(subject: S) {
    let mut site = Site::new(subject).await;
    let (jobs, wiring) = jobs("jobs", 1);
    let unknown = Uuid::from_u128(7).to_string();
    for key in [unknown.as_str(), "no id at all"] {
        overwrite::<S>(&site.store, "nodes", key, b"{\"until\":\"tomorrow\",\"runs\":[\"jobs\"]}").await;
    }
    let first = site.hire(&wiring).await;
    site.until_shared(&jobs, &[&first]).await;
    // Its own row is written again.
    let own = first.node.id().to_string();
    overwrite::<S>(&site.store, "nodes", &own, b"?").await;
    let second = site.hire(&wiring).await;
    site.push(&jobs, 20).await;
    site.assert_done(&jobs, 0..20).await;
    site.until_shared(&jobs, &[&first, &second]).await;
    second.node.stop().await;
    first.node.stop().await;
    let left: Vec<String> =
        ask(|| site.store.0.scan("nodes", None, 10)).await.into_iter().map(|r| r.key).collect();
    assert_eq!(left, [unknown.as_str(), "no id at all"], "those that were read have signed off");
}

/// G7
pub async fn a_node_of_the_version_before_counts_as_a_member<S: Subject>(subject: S) {
    let site = Site::new(subject).await;
    let jobs = Jobs::new("jobs");
    let all = ["a", "b"];
    let wiring = Wiring { jobs: vec![(jobs.clone(), 1)], whole: all.map(str::to_owned).to_vec() };
    let first = site.hire(&wiring).await;
    site.until_shared(&jobs, &[&first]).await;
    site.until_fair(&[(&first, &all)]).await;
    // Before its rows said what cannot be split.
    let old = Uuid::from_u128(1);
    let until = site.store.now().await.as_microsecond() + 3_600_000_000;
    let row = format!(r#"{{"until":{until},"runs":["jobs","a","b"]}}"#);
    overwrite::<S>(&site.store, "nodes", &old.to_string(), row.as_bytes()).await;
    let own = Some(first.node.id());
    site.until_owners(&jobs, |owners| owners.get(&own) == Some(&512) && owners.get(&None) == Some(&512))
        .await;
    // It is offered one of the two; since it does not come, that is not left alone.
    let running = async |n: usize| {
        eventually(|| async {
            let running = first.node.running();
            if running.len() == n { Ok(()) } else { Err(format!("{running:?}")) }
        })
        .await;
    };
    running(1).await;
    running(2).await;
    // So it is with its slices.
    site.until_owners(&jobs, |owners| owners.get(&own) == Some(&1_024)).await;
}

/// G8
pub async fn groups_whose_names_begin_alike_are_apart<S: Subject>(subject: S) {
    let mut site = Site::new(subject).await;
    let (one, other) = (Jobs::new("a"), Jobs::new("a#b"));
    let all = ["a~b", "a~b~c"];
    let wiring =
        Wiring { jobs: vec![(one.clone(), 1), (other.clone(), 2)], whole: all.map(str::to_owned).to_vec() };
    let (first, second) = (site.hire(&wiring).await, site.hire(&wiring).await);
    for jobs in [&one, &other] {
        site.until_shared(jobs, &[&first, &second]).await;
    }
    site.until_fair(&[(&first, &all), (&second, &all)]).await;
    site.push(&one, 20).await;
    site.push(&other, 20).await;
    site.assert_done(&one, 0..20).await;
    site.assert_done(&other, 20..40).await;
}
