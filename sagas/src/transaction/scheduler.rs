//! The work on a share: what is due is loaded, and driven until it has ended or sleeps.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::cluster::{Progress, Share, Work};
use es_core::limits::PAGE_BYTES;
use es_core::processor::Slices;
use es_core::store::queue::{MARGIN, Marks};
use es_core::store::{Row, StoreError, StoredRow, write_rows};
use es_core::{Backend, Timestamp, chain};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{Receiver, UnboundedSender, channel, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::census::Census;
use super::damaged;
use super::drive::{Desk, Drive, Inbox, Left};
use super::forget::Forgetter;
use super::instance::{Instance, Loaded};
use super::kind::{Desks, Handed, Open};
use super::outcome::Teller;
use super::protocol::Acts;
use super::rows::{Verb, Wake, slice};
use super::trouble::Troubles;

/// How many runs are driven at once.
const AT_ONCE: usize = 256;
/// Wake-ups that are read together of a slice.
const PAGE: usize = 64;
/// So many of a slice that are driven already may be in the way of others: they are passed.
const MANY: usize = 16;
/// The longest pause between two looks at what is due.
const POLL: Duration = Duration::from_secs(1);
/// The shortest pause between two looks, and how much longer than a look it is: one look reads all slices.
const LOOKS: (Duration, u32) = (Duration::from_millis(10), 4);
/// For how long calls that are under way are waited for, before others take their runs up.
const GRACE: Duration = Duration::from_secs(10);
/// How many runs that cannot go on are noted at each look.
const TOLD: usize = 32;

/// How far the work on a share is: all there is to know is in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NoLog {}

impl Progress for NoLog {
    fn can_merge(&self, _next: &Self) -> bool {
        true
    }
}

/// Works on shares of one kind.
pub(crate) struct Scheduler<B: Backend, P: Acts<B>> {
    pub(crate) desk: Arc<Desk<B, P>>,
    pub(crate) desks: Arc<Desks<P>>,
}

#[async_trait]
impl<B: Backend, P: Acts<B>> Work for Scheduler<B, P> {
    type Progress = NoLog;

    async fn run(&self, share: Share<NoLog>, stop: CancellationToken) {
        let (hand, handed) = channel(AT_ONCE);
        let open = self.desks.open(share.slices, hand);
        let forgetter = Forgetter::new(self.desk.clone(), share.slices);
        let shift = Shift::new(self.desk.clone(), self.desks.clone(), share.slices, stop.clone());
        tokio::join!(shift.work(open, handed), forgetter.work(&stop));
    }
}

/// Whether nothing comes any more that is due before this.
fn is_behind(due: Timestamp, now: Timestamp) -> bool {
    now.checked_sub(MARGIN).is_ok_and(|margin| due < margin)
}

/// Whether a person asks for something, which is let in: what is sent from outside, or by parents, may come in masses.
fn is_urgent(wake: &Row<Wake>) -> bool {
    let comes_by_itself = |verb: &Verb| matches!(verb, Verb::Signal { .. } | Verb::Parent { .. });
    wake.value.asked.as_ref().is_some_and(|asked| !comes_by_itself(&asked.verb))
}

/// A wake-up that is due.
struct Due {
    /// Its slice.
    of: u16,
    at: Timestamp,
    key: String,
    /// What it takes of a page, in bytes.
    size: usize,
    wake: Result<Row<Wake>, StoreError>,
}

/// A run that is driven here.
struct Driven {
    inbox: UnboundedSender<Row<Wake>>,
    /// The wake-ups that it has been given.
    given: BTreeSet<String>,
}

/// The work on a share, as long as it is this node's.
struct Shift<B: Backend, P: Acts<B>> {
    desk: Arc<Desk<B, P>>,
    desks: Arc<Desks<P>>,
    slices: Slices,
    stop: CancellationToken,
    marks: Marks,
    driven: HashMap<Uuid, Driven>,
    tasks: JoinSet<(Uuid, (Left, Inbox))>,
    /// When the next of those is due that went to sleep here.
    next: Option<Timestamp>,
    troubles: Troubles,
    /// What people are to be told of those.
    untold: BTreeMap<Uuid, String>,
    census: Census,
    /// How long the last look took.
    took: Duration,
}

impl<B: Backend, P: Acts<B>> Shift<B, P> {
    fn new(desk: Arc<Desk<B, P>>, desks: Arc<Desks<P>>, slices: Slices, stop: CancellationToken) -> Self {
        Self {
            desk,
            desks,
            slices,
            stop,
            marks: Marks::default(),
            driven: HashMap::new(),
            tasks: JoinSet::new(),
            next: None,
            troubles: Troubles::default(),
            untold: BTreeMap::new(),
            census: Census::new(slices),
            took: Duration::ZERO,
        }
    }

    async fn work(mut self, open: Open<P>, mut handed: Receiver<Handed<P>>) {
        let mut wakes = self.desk.backend.watch_rows(self.desk.tables.wakes.table().name(), self.slices);
        while !self.stop.is_cancelled() {
            wakes.mark_unchanged();
            let begun = Instant::now();
            let looked = self.look().await.map_err(|error| chain(&error));
            if let Err(error) = &looked {
                let kind = &self.desk.kind;
                tracing::warn!(%kind, error, "what is due cannot be read, and is read again");
            }
            self.took = begun.elapsed();
            self.note_look(looked.as_ref().err());
            self.go_on_counting().await;
            let now = looked.ok();
            self.rest(now, &mut wakes, &mut handed).await;
        }
        drop((open, handed));
        self.desk.numbers.left(self.slices.first);
        // What is driven ends by itself: no calls are made any more, and those under way are waited for, within reason.
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                self.left(ended);
            }
        };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            // Whoever takes them up next knows that they may have run.
            self.tasks.shutdown().await;
        }
    }

    fn note_look(&self, failing: Option<&String>) {
        let (Slices { first, .. }, of) = (self.slices, self.slices.count());
        let now = self.desk.node.ids.clock().now();
        self.desk.numbers.looked(first, of, now, failing.cloned());
    }

    /// Counts runs; what cannot be read now is counted later.
    async fn go_on_counting(&mut self) {
        let desk = &self.desk;
        match self.census.go_on(&**desk).await {
            Ok(Some(tally)) => desk.numbers.counted(self.slices.first, tally),
            Ok(None) => {}
            Err(error) => tracing::debug!(kind = %desk.kind, error = chain(&error), "runs are counted later"),
        }
    }

    /// Until there may be something due. Runs that begin on this node come without a look.
    async fn rest(
        &mut self,
        now: Option<Timestamp>,
        wakes: &mut tokio::sync::watch::Receiver<u64>,
        handed: &mut Receiver<Handed<P>>,
    ) {
        let until_next = now.zip(self.next).map(|(now, next)| Duration::try_from(next - now));
        let pause = until_next.map_or(POLL, |left| left.unwrap_or_default().min(POLL)).max(LOOKS.0);
        let (looks_at, latest) = (Instant::now() + LOOKS.0.max(self.took * LOOKS.1), Instant::now() + pause);
        let mut woken = false;
        loop {
            let full = self.driven.len() >= AT_ONCE;
            let until = if woken { looks_at.min(latest) } else { latest };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep_until(until) => return,
                changed = wakes.changed(), if !woken => woken = changed.is_ok() || woken,
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.left(ended);
                    // Others may wait for its place, and what was asked of it at the end has to go.
                    woken |= full;
                }
                Some((instance, promise, teller)) = handed.recv(), if !full => {
                    self.drive(instance, Some(teller));
                    drop(promise);
                }
            }
        }
    }

    /// Takes up what is due.
    async fn look(&mut self) -> Result<Timestamp, StoreError> {
        let desk = self.desk.clone();
        let now = desk.clock.now(&*desk.backend).await?;
        self.next = self.next.filter(|next| *next > now);
        if !desk.node.cluster.lease().holds() {
            // Not a look: whoever asks whether this node works is to be told so.
            let lease = std::io::Error::other("the lease of this node does not hold");
            return Err(StoreError::transient("looking at what is due", lease));
        }
        self.tell(now).await;
        let slices = [self.slices];
        let mut due =
            desk.tables.wakes.stored_due(&*desk.backend, &slices, &mut self.marks, now, PAGE).await?;
        // The oldest first, whichever slice it is of.
        due.sort_by_key(|(_, at, _)| *at);
        let read = |(of, at, row): (u16, Timestamp, StoredRow)| {
            let (key, size) = (row.key.clone(), row.key.len() + row.data.len());
            Due { of, at, key, size, wake: desk.tables.wakes.table().decode(row) }
        };
        let due: Vec<Due> = due.into_iter().map(read).collect();
        let wakes = due.iter().filter_map(|due| due.wake.as_ref().ok());
        self.troubles.look(wakes.map(|wake| (wake.value.run, is_urgent(wake))), Instant::now());
        let mut over = Vec::new();
        // By slice: what the first take up that are driven already, and the last of those.
        let mut driven: HashMap<u16, (usize, usize, String, bool)> = HashMap::new();
        for Due { of, at, key, size, wake } in due {
            let known = self.due(wake, &mut over).await?;
            let (n, bytes, last, all) = driven.entry(of).or_insert((0, 0, String::new(), true));
            // What is younger may yet get rows before it.
            *all &= known && is_behind(at, now);
            if *all {
                (*n, *bytes, *last) = (*n + 1, *bytes + size, key);
            }
        }
        // A slice has its part of the bytes of a page.
        let part = PAGE_BYTES / usize::from(self.slices.count());
        for (_, _, last, _) in driven.into_values().filter(|(n, bytes, ..)| *n >= MANY || *bytes >= part / 2)
        {
            self.marks.pass(&last);
        }
        if !over.is_empty() {
            // Another node may be as fast.
            let _won = write_rows(&*desk.backend, over).await?;
        }
        Ok(now)
    }

    /// Takes up one that is due. Whether it was known: nothing new comes of it until it changes.
    async fn due(
        &mut self,
        wake: Result<Row<Wake>, StoreError>,
        over: &mut Vec<es_core::store::RowWrite>,
    ) -> Result<bool, StoreError> {
        let desk = self.desk.clone();
        let row = match wake {
            Ok(row) => row,
            Err(error) => {
                let (kind, error) = (&desk.kind, chain(&error));
                tracing::error!(%kind, error, "a wake-up cannot be read: repair or delete it; the others go on");
                return Ok(true);
            }
        };
        let run = row.value.run;
        if let Some(driven) = self.driven.get_mut(&run) {
            if driven.given.insert(row.key.clone()) {
                drop(driven.inbox.send(row));
            }
            return Ok(true);
        }
        if self.troubles.rests(run) {
            return Ok(true);
        }
        if self.driven.len() >= AT_ONCE && !is_urgent(&row) || self.desks.has_promised(run) {
            return Ok(false);
        }
        match Instance::load(&*desk.protocol, &desk.tables, &*desk.backend, run).await? {
            Loaded::Live(mut instance) => {
                if row.value.asked.is_none() {
                    instance.wakes.insert(row.key.clone(), row.rev);
                }
                self.drive(*instance, None);
                let driven = self.driven.get_mut(&run).expect("it was just added");
                driven.given.insert(row.key.clone());
                if row.value.asked.is_some() {
                    drop(driven.inbox.send(row));
                }
                return Ok(true);
            }
            Loaded::Over => {
                self.troubles.over(run);
                over.push(desk.tables.wakes.done(&row));
            }
            Loaded::Newer(format) => {
                self.postpone(run, &format!("a newer program wrote it, in format {format}"));
            }
            Loaded::Other(of) => {
                let here = desk.tables.version;
                self.cannot_go_on(run, &format!("version {of} wakes up among those of version {here}"));
            }
            Loaded::Damaged(why) => self.cannot_go_on(run, &format!("it cannot be read: {why}")),
        }
        Ok(true)
    }

    /// Notes for people which runs cannot go on. What is not noted now is found again.
    async fn tell(&mut self, now: Timestamp) {
        let desk = self.desk.clone();
        for (run, why) in (0..TOLD).map_while(|_| self.untold.pop_first()) {
            if let Err(error) = damaged::note(&*desk.backend, &desk.tables, run, &why, now).await {
                let (kind, error) = (&desk.kind, chain(&error));
                tracing::warn!(%kind, %run, error, "that a run cannot go on is not noted, and will be");
                return;
            }
        }
    }

    fn cannot_go_on(&mut self, run: Uuid, why: &str) {
        self.postpone(run, why);
        self.untold.insert(run, why.to_owned());
    }

    fn postpone(&mut self, run: Uuid, why: &str) {
        // Said once.
        if self.troubles.note(run, why, Instant::now()) {
            let kind = &self.desk.kind;
            tracing::error!(%kind, %run, why, "a run cannot go on, and is tried again; the others go on");
        }
    }

    /// `begun`: it was taken up in the commit that began it, and somebody waits for its end.
    fn drive(&mut self, instance: Instance<P>, begun: Option<Teller>) {
        let run = instance.run;
        debug_assert!((self.slices.first..=self.slices.last).contains(&slice(run)), "it belongs here");
        // It was found in the store meanwhile.
        if self.driven.contains_key(&run) {
            return;
        }
        let (inbox, asked) = unbounded_channel();
        let given = instance.wakes.keys().cloned().collect();
        self.driven.insert(run, Driven { inbox, given });
        let drive = Drive::new(self.desk.clone(), instance, asked, self.stop.clone());
        self.tasks.spawn(async move { (run, drive.run(begun).await) });
    }

    fn left(&mut self, ended: Result<(Uuid, (Left, Inbox)), tokio::task::JoinError>) {
        let (run, (left, inbox)) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // A mistake of ours: which run it was is found out by the next look at the whole queue.
                tracing::error!(kind = %self.desk.kind, %error, "the task of a run has ended in a panic");
                self.driven.retain(|_, driven| !driven.inbox.is_closed());
                return;
            }
        };
        self.driven.remove(&run);
        if !matches!(left, Left::Trouble(_) | Left::Untold(_)) {
            self.troubles.over(run);
        }
        // What was passed is read again: it is due still.
        if !inbox.is_empty() || matches!(left, Left::Lost) {
            self.marks = Marks::default();
        }
        match left {
            Left::Sleeps(until) => self.next = Some(self.next.map_or(until, |next| next.min(until))),
            Left::Trouble(why) => self.cannot_go_on(run, &why),
            Left::Untold(why) => self.cannot_go_on(run, &format!("what happened cannot be told: {why}")),
            Left::Ended | Left::Lost | Left::Stopped => {}
        }
    }
}
