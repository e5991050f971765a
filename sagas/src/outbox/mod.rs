//! Commands on their way: one of an instance at a time, in order, those of several instances at the same time.
//!
//! Nothing is written here. A command is sent until its answer is definite, under a key that never changes; who loses its
//! answers sends it again, and it still acts once. One that meets an outage becomes stuck: it is sent again for ever, and
//! meanwhile is only in the store, with what its instance sends after it. So it is in nobody's way: it takes no memory, and a
//! place only among others of its kind. One that fails for a reason that time does not mend is held after a few tries: an
//! operator has to look at it. While the store takes no writes, no failure is taken for one of these.

mod line;
mod writes;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use es_core::command::Sender;
use es_core::guarded::caught;
use es_core::id::Ids;
use es_core::store::Row;
use es_core::{BoxError, EventStore, chain};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use self::line::{Failed, Line};
pub(crate) use self::writes::Writes;
use crate::data::Data;
use crate::instance::cut;
use crate::process::Rejected;
use crate::rows::Sending;

/// How many commands of a range are handled at once for the first time; how many again, or for long.
const FIRST: usize = 64;
const AGAIN: usize = 16;
/// The first and the longest pause before a command is sent again, and the first of one that is stuck.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
const STUCK: Duration = Duration::from_secs(6);
/// How often it is sent before it is stuck; and before it is held, if that does not help.
const TRIES: u32 = 5;
/// Bytes of the commands in memory, about.
const MAX_BYTES: usize = 16 << 20;

/// A command and what it came to.
pub(crate) type Sent = (Row<Sending>, Came);

/// What a command came to.
#[derive(Debug)]
pub(crate) enum Came {
    /// An answer: why it was refused, if it was.
    Answer(Option<Rejected<Data>>),
    /// An interceptor said no, or has failed, each time. Whether that is an answer is for its instance to say.
    Intercepted { error: String, attempts: u32 },
    /// None so far. `held`: to send it again does not help.
    Trouble { error: String, attempts: u32, held: bool },
}

/// Commands on their way.
pub(crate) struct Outbox {
    line: Line,
    wake: Arc<Notify>,
    /// By instance: what waits behind the command that is on its way.
    behind: HashMap<Uuid, VecDeque<Row<Sending>>>,
    /// By instance: the key of the row that is sent for the first time, and has not come to anything.
    on_its_way: HashMap<Uuid, String>,
    /// How many are on their way or wait for that, and how many bytes they have, about.
    len: usize,
    bytes: usize,
    /// Instances with a command that is held: theirs are only in the store.
    held: HashSet<Uuid>,
    /// Instances with a command that is stuck: theirs are only in the store.
    stuck: HashMap<Uuid, Stuck>,
    /// When those are sent again, and the keys of the rows that are now.
    turns: BTreeSet<(Instant, Uuid)>,
    again: HashSet<String>,
    came: (UnboundedSender<Tried>, UnboundedReceiver<Tried>),
    tasks: JoinSet<()>,
}

/// A command, and what it came to; or, of one that is stuck, why it is.
type Tried = (Row<Sending>, Result<Came, Failed>);

/// A command that is stuck. Its row is read for each try.
struct Stuck {
    /// The key of the row.
    key: String,
    turn: Instant,
    pause: Duration,
    /// How often it was sent since it is stuck, and how often in a row it failed for a reason that time does not mend.
    tries: u32,
    in_vain: u32,
}

impl Outbox {
    /// `wake` is told of each answer.
    pub(crate) fn new(
        sender: Sender,
        store: Arc<dyn EventStore>,
        writes: Writes,
        ids: Ids,
        wake: Arc<Notify>,
    ) -> Self {
        let [first, again] = [FIRST, AGAIN].map(|n| Arc::new(Semaphore::new(n)));
        let line = Line { sender, store, writes, ids, first, again };
        let (behind, stuck, held) = (HashMap::new(), HashMap::new(), HashSet::new());
        let (turns, again) = (BTreeSet::new(), HashSet::new());
        let (on_its_way, came, tasks) = (HashMap::new(), unbounded_channel(), JoinSet::new());
        Self { line, wake, behind, on_its_way, len: 0, bytes: 0, held, stuck, turns, again, came, tasks }
    }

    /// Whether it has none in memory, beside those that are stuck.
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it has so many, or as many bytes as it may have.
    pub(crate) const fn is_full(&self, most: usize) -> bool {
        self.len >= most || self.bytes >= MAX_BYTES
    }

    /// How many bytes it has in memory, about.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Another command is sent, after those of its instance that were put in before; not before one that is held or stuck.
    /// One that is on its way is not sent beside that.
    pub(crate) fn push(&mut self, row: Row<Sending>) {
        let id = row.value.send.id;
        if row.value.is_held() {
            self.held.insert(id);
        }
        let waits = self.held.contains(&id) || self.stuck.contains_key(&id);
        if waits || self.on_its_way.get(&id) == Some(&row.key) {
            return;
        }
        if row.value.trouble.is_some() {
            return self.stick(row, Duration::ZERO);
        }
        self.len += 1;
        self.bytes += row.value.send.bytes();
        match self.behind.get_mut(&id) {
            Some(behind) => behind.push_back(row),
            None => {
                self.behind.insert(id, VecDeque::new());
                self.spawn(row, false);
            }
        }
    }

    fn spawn(&mut self, row: Row<Sending>, again: bool) {
        let (line, wake, answers) = (self.line.clone(), self.wake.clone(), self.came.0.clone());
        while self.tasks.try_join_next().is_some() {}
        if !again {
            self.on_its_way.insert(row.value.send.id, row.key.clone());
        }
        self.tasks.spawn(async move {
            let tried = async {
                if again { line.again(&row.value).await } else { Ok(line.answer(&row.value).await) }
            };
            let came = caught(tried).await.unwrap_or_else(|panic| {
                // The texts of errors are the user's code.
                Ok(Came::Trouble { error: cut(&chain(&*panic.boxed())), attempts: 1, held: true })
            });
            // In this order: who is woken finds it.
            let _nobody_asks = answers.send((row, came));
            wake.notify_one();
        });
    }

    /// The command of an instance that was on its way is stuck: it is sent again in a while.
    pub(crate) fn stick(&mut self, row: Row<Sending>, pause: Duration) {
        let (id, turn) = (row.value.send.id, Instant::now() + pause);
        self.drop_behind(id);
        self.stuck.insert(id, Stuck { key: row.key, turn, pause: STUCK, tries: 0, in_vain: 0 });
        self.turns.insert((turn, id));
    }

    /// The same, after its first tries.
    pub(crate) fn stuck(&mut self, row: Row<Sending>) {
        self.stick(row, STUCK);
    }

    /// The keys of the commands that are stuck whose turn it is: as many as are sent again at once.
    pub(crate) fn turns(&mut self) -> Vec<String> {
        let (mut keys, now) = (Vec::new(), Instant::now());
        while self.again.len() < AGAIN
            && let Some(first) = self.turns.first().copied().filter(|(turn, _)| *turn <= now)
        {
            self.turns.remove(&first);
            let (_, id) = first;
            let Some(stuck) = self.stuck.get_mut(&id) else { continue };
            if self.again.insert(stuck.key.clone()) {
                keys.push(stuck.key.clone());
            } else {
                // An operator had it sent again: it still is from before.
                stuck.turn = now + STUCK;
                self.turns.insert((stuck.turn, id));
            }
        }
        keys
    }

    /// One of them cannot be read, or is not there.
    pub(crate) fn is_not_sent(&mut self, key: &str) {
        self.again.remove(key);
        self.stuck.retain(|_, stuck| stuck.key != key);
    }

    /// Whether one of them is being sent.
    pub(crate) fn is_sent_again(&self, key: &str) -> bool {
        self.again.contains(key)
    }

    /// A command that is given up acts no more: what it came to, if it had been answered before, and why it was refused, if
    /// it was.
    pub(crate) async fn close(
        &self,
        sending: &Sending,
        why: String,
    ) -> Result<Option<Option<Rejected<Data>>>, BoxError> {
        self.line.close(sending, why).await
    }

    /// One of them is sent again.
    pub(crate) fn send_again(&mut self, row: Row<Sending>) {
        self.spawn(row, true);
    }

    /// The commands of an instance are only in the store, but for one that is on its way.
    pub(crate) fn hold(&mut self, id: Uuid) {
        self.held.insert(id);
        self.goes_on(id);
        self.drop_behind(id);
        if self.on_its_way.contains_key(&id) {
            self.behind.insert(id, VecDeque::new());
        }
    }

    fn drop_behind(&mut self, id: Uuid) {
        for row in self.behind.remove(&id).into_iter().flatten() {
            self.left(&row);
        }
    }

    fn left(&mut self, row: &Row<Sending>) {
        self.len -= 1;
        self.bytes -= row.value.send.bytes();
    }

    /// A command of an instance cannot be sent: what is put in from now on is only in the store.
    pub(crate) fn stop_at(&mut self, id: Uuid) {
        self.held.insert(id);
    }

    /// Whether a command of an instance is held.
    pub(crate) fn is_held(&self, id: Uuid) -> bool {
        self.held.contains(&id)
    }

    /// The commands of an instance may be put in again.
    pub(crate) fn release(&mut self, id: Uuid) {
        self.held.remove(&id);
    }

    /// The command of an instance is answered, or given up. Whether the others of it are only in the store.
    pub(crate) fn goes_on(&mut self, id: Uuid) -> bool {
        let stuck = self.stuck.remove(&id);
        if let Some(stuck) = &stuck {
            self.turns.remove(&(stuck.turn, id));
        }
        stuck.is_some()
    }

    /// What has come, at most so many. What waits behind an answer is sent.
    pub(crate) fn came(&mut self, most: usize) -> Vec<Sent> {
        let mut all = Vec::new();
        while all.len() < most
            && let Ok((row, came)) = self.came.1.try_recv()
        {
            let id = row.value.send.id;
            let came = if self.again.remove(&row.key) {
                self.came_again(&row, came)
            } else {
                self.on_its_way.remove(&id);
                self.left(&row);
                came.ok()
            };
            if matches!(came, Some(Came::Answer(_))) {
                self.next_of(id);
            }
            all.extend(came.map(|came| (row, came)));
        }
        all
    }

    /// What one that was stuck has come to; `None` if it still is, or was given up.
    fn came_again(&mut self, row: &Row<Sending>, came: Result<Came, Failed>) -> Option<Came> {
        let id = row.value.send.id;
        let stuck = self.stuck.get_mut(&id).filter(|stuck| stuck.key == row.key)?;
        let failed = match came {
            Ok(came) => return Some(came),
            Err(failed) => failed,
        };
        stuck.tries = stuck.tries.saturating_add(1);
        let pause = if failed.for_good {
            // It is soon known to be in vain.
            stuck.in_vain += 1;
            PAUSE.0
        } else {
            stuck.in_vain = 0;
            let next = (stuck.pause * 2).min(PAUSE.1);
            std::mem::replace(&mut stuck.pause, next)
        };
        if stuck.in_vain >= TRIES {
            let before = row.value.trouble.as_ref().map_or(0, |trouble| trouble.attempts);
            return Some(failed.in_vain(before.saturating_add(stuck.tries)));
        }
        stuck.turn = Instant::now() + self.line.some_of(pause);
        self.turns.insert((stuck.turn, id));
        None
    }

    /// What waits behind a command of an instance is sent.
    pub(crate) fn next_of(&mut self, id: Uuid) {
        match self.behind.get_mut(&id).and_then(VecDeque::pop_front) {
            Some(next) => self.spawn(next, false),
            None => drop(self.behind.remove(&id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use es_core::memory::MemoryBackend;
    use es_core::store::Table;
    use es_core::{App, Metadata};
    use serde_json::json;

    use super::*;

    /// A command of an instance of its own, which no app knows.
    fn row(n: u128, bytes: usize) -> Row<Sending> {
        let command = json!({ "aggregate": "a", "id": "i", "name": "c", "payload": "x".repeat(bytes) });
        let send = json!({ "key": n.to_string(), "id": Uuid::from_u128(n), "input": 1, "ordinal": 0,
                           "command": command, "metadata": Metadata::default() });
        Row { key: n.to_string(), rev: 1, value: serde_json::from_value(send).unwrap() }
    }

    fn on(app: &App, store: MemoryBackend, wake: Arc<Notify>) -> Outbox {
        let (store, table) = (Arc::new(store), Table::new("writes").unwrap());
        let writes = Writes::new(store.clone(), table, "0000".to_owned());
        Outbox::new(app.sender(), store, writes, Ids::default(), wake)
    }

    async fn all_that_came(outbox: &mut Outbox, wake: &Notify, n: usize) -> Vec<Row<Sending>> {
        let mut rows = Vec::new();
        while rows.len() < n {
            wake.notified().await;
            for (row, came) in outbox.came(usize::MAX) {
                assert!(matches!(came, Came::Trouble { held: false, .. }), "{came:?}");
                rows.push(row);
            }
        }
        rows
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_memory_is_bounded_in_bytes_and_what_is_stuck_takes_none() {
        let store = MemoryBackend::new();
        let app = App::on(store.clone()).start().await.unwrap();
        let wake = Arc::new(Notify::new());
        let mut outbox = on(&app, store, wake.clone());
        let mut n = 0;
        while !outbox.is_full(usize::MAX) {
            // One behind the other, of two instances a pair.
            let mut row = row(n / 2, 1 << 20);
            row.key.push_str(if n % 2 == 0 { "" } else { "+" });
            outbox.push(row);
            n += 1;
        }
        assert_eq!(n, 16);
        for row in all_that_came(&mut outbox, &wake, 8).await {
            outbox.stuck(row);
        }
        assert!(outbox.is_empty() && outbox.bytes() == 0);
        // All others of their instances are read later.
        outbox.push(row(1, 1));
        assert!(outbox.is_empty());
        for n in 100..200 {
            let mut row = row(n, 1);
            row.value.trouble = Some(crate::rows::Trouble {
                since: es_core::Timestamp::UNIX_EPOCH,
                error: "an outage".to_owned(),
                attempts: 5,
                held: false,
            });
            outbox.push(row);
        }
        // Some at a time: first those of before, whose turn it is now.
        let turns = outbox.turns();
        assert_eq!((turns.len(), outbox.turns().len()), (AGAIN, 0));
        for key in turns {
            outbox.send_again(row(key.parse().unwrap(), 1));
        }
        // One is given up meanwhile: what it comes to is nobody's.
        outbox.hold(Uuid::from_u128(100));
        while outbox.again.len() == AGAIN {
            wake.notified().await;
            assert!(outbox.came(usize::MAX).is_empty());
        }
        assert!(!outbox.turns().is_empty());
        assert!(outbox.is_empty() && !outbox.stuck.contains_key(&Uuid::from_u128(100)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_good_between_outages_is_tried_again() {
        let store = MemoryBackend::new();
        let app = App::on(store.clone()).start().await.unwrap();
        let mut outbox = on(&app, store, Arc::default());
        let (row, failed) = (row(1, 1), |for_good| {
            let mut failed = Failed::new("no");
            failed.for_good = for_good;
            Err(failed)
        });
        outbox.stuck(row.clone());
        for n in 0..2 * TRIES {
            assert!(outbox.came_again(&row, failed(true)).is_none(), "{n}");
            assert!(outbox.came_again(&row, failed(false)).is_none(), "{n}");
        }
        let in_vain = (0..TRIES).filter_map(|_| outbox.came_again(&row, failed(true)));
        let in_vain: Vec<Came> = in_vain.collect();
        // It says how often it was sent, all tries together.
        let all = 5 * TRIES;
        assert!(
            matches!(&in_vain[..], [Came::Trouble { attempts, held: true, .. }] if *attempts == all),
            "{in_vain:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_is_on_its_way_once() {
        let store = MemoryBackend::new();
        let app = App::on(store.clone()).start().await.unwrap();
        let wake = Arc::new(Notify::new());
        let mut outbox = on(&app, store, wake.clone());
        let id = Uuid::from_u128(1);
        outbox.push(row(1, 1));
        // An operator has it sent again: it is read from the store.
        outbox.hold(id);
        outbox.release(id);
        outbox.push(row(1, 1));
        outbox.push(Row { key: "next".to_owned(), ..row(1, 1) });
        assert_eq!((outbox.len, outbox.behind[&id].len()), (2, 1));
        assert_eq!(all_that_came(&mut outbox, &wake, 1).await[0].key, "1");
        assert_eq!((outbox.len, outbox.on_its_way.len()), (1, 0));
    }
}
