//! Group commit: a task that owns one connection and writes what waits, as one statement.
//!
//! There is no linger: a batch is whatever waits when the connection is free, so an idle store has batches of one.
//! The idea is group commit (`DeWitt` et al., "Implementation techniques for main memory database systems", 1984);
//! on PostgreSQL it pays back what the gate costs, for a batch holds the gate once and is flushed to disk once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use es_core::store::measure::Writes;
use es_core::store::{Attempt, Commit, CommitError, Committed, EventId, Place, Position, Room, StoreError};
use sqlx::PgConnection;
use sqlx::postgres::PgRow;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::address::Address;
use crate::admission::Admission;
use crate::args::Arg;
use crate::backend::Shared;
use crate::batch::{self, Answer, Batch, FIRST, PROOF};
use crate::error::{self, Fate};
use crate::row::{number, signed};
use crate::stream_cache::StreamCache;

/// Requests that are taken out of the queue at a time.
const QUEUE: usize = 4_096;
/// Events, rows, and bytes, of one batch. A larger request goes alone.
const MAX_EVENTS: usize = 2_000;
const MAX_ROWS: usize = 2_000;
const MAX_BYTES: usize = 4 << 20;
/// Requests that may be passed over in the search for more of a batch.
const MAX_PASSED: usize = 256;
/// Attempts with a name of their own in one batch: each holds a lock of the server's, whose table is small.
const MAX_NAMED: usize = 256;
/// How far behind the head a broken attempt is looked for: a server that comes back without its last commits gives their
/// positions again.
const REACH: u64 = 100_000;
/// How often a part of a batch is tried again after deadlocks, time-outs and a lack of resources.
const TRIES: u32 = 5;
/// How many time-outs of one batch there are at most: nothing else is written meanwhile.
const MAX_LATE: u32 = 2 * (TRIES + 1);

/// Appends alone.
const APPEND: &str = "select *, current_setting('es.waited', true) as waited \
                      from append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
                      lasts => $17, type_numbers => $18, type_names => $19, type_schemas => $20, type_codecs => $21)
                      where same_history($22)";
/// And everything else.
const APPEND_ALL: &str = "select *, current_setting('es.waited', true) as waited \
                          from append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
                          $23, $24, $25::jsonb, $26::jsonb, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, \
                          lasts => $17, type_numbers => $18, type_names => $19, type_schemas => $20, \
                          type_codecs => $21) where same_history($22)";

/// Why a commit was not written.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What is stored refuses it; the reason is still to be found.
    Refused(Box<Commit>),
    Failed(CommitError),
}

/// The log has no number left for a commit.
pub(crate) const OVERFLOW: CommitError = CommitError::Overflow { what: "a position or a version" };

type Outcome = Result<Committed, Failure>;

/// A commit, and where its outcome goes.
#[derive(Debug)]
struct Request {
    commit: Commit,
    /// The history that it was decided on.
    history: u64,
    reply: oneshot::Sender<Outcome>,
    /// What it takes of the queue; a barrier takes nothing.
    place: Option<Place>,
    since: Instant,
}

impl Request {
    /// Whether nobody waits for its outcome any more: then it is not written.
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// A caller that has gone away did not want to know.
    fn answer(self, outcome: Result<Committed, CommitError>) {
        drop(self.reply.send(outcome.map_err(Failure::Failed)));
    }

    /// Whether a history that is gone may have led to it.
    fn is_lost(&self, history: u64) -> bool {
        self.history != history && self.commit.depends_on_its_history()
    }

    fn refuse(self) {
        drop(self.reply.send(Err(Failure::Refused(Box::new(self.commit)))));
    }
}

/// The way to the task. It ends when the last handle is gone.
///
/// No caller uses the connection himself, not even one who is alone: a future that is kept and not polled would keep it
/// from all others.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    requests: mpsc::UnboundedSender<Request>,
    room: Room,
}

impl Lane {
    pub(crate) fn start(shared: Arc<Shared>, connect: Address, room: Room, shown: Writes) -> Self {
        // The room bounds it.
        let (queue, requests) = mpsc::unbounded_channel();
        let lane = Self { requests: queue, room: room.clone() };
        let streams = StreamCache::default();
        let writer = Writer { shared, connect, conn: None, unsettled: Vec::new(), streams, room, shown };
        drop(tokio::spawn(writer.serve(requests)));
        lane
    }

    /// A commit that was decided on this history of the store. Refused at once if too much waits.
    pub(crate) async fn commit(&self, commit: Commit, history: u64) -> Outcome {
        let place = self.room.take(&commit).map_err(|error| Failure::Failed(error.into()))?;
        self.send(commit, history, Some(place)).await
    }

    async fn send(&self, commit: Commit, history: u64, place: Option<Place>) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let request = Request { commit, history, reply, place, since: Instant::now() };
        if self.requests.send(request).is_err() {
            let gone = std::io::Error::other("the runtime that the store was opened on has ended");
            return Err(Failure::Failed(StoreError::transient("a commit", gone).into()));
        }
        // The task answers everything it has taken, unless its runtime ends under it.
        outcome.await.unwrap_or_else(|_| Err(Failure::Failed(CommitError::Unknown(Box::default()))))
    }

    /// Until everything that waits now has been answered.
    pub(crate) async fn barrier(&self) -> Result<(), StoreError> {
        match self.send(Commit::default(), 0, None).await {
            Ok(_) | Err(Failure::Refused(_)) => Ok(()),
            Err(Failure::Failed(CommitError::Store(error))) => Err(error),
            Err(Failure::Failed(other)) => Err(StoreError::transient("waiting for earlier commits", other)),
        }
    }
}

/// One connection, and what is known through it.
struct Writer {
    shared: Arc<Shared>,
    connect: Address,
    conn: Option<Connection>,
    /// Attempts that were sent and not answered, and where the head was before. They may be running still, and their
    /// callers may be gone.
    unsettled: Vec<(Attempt, Position)>,
    streams: StreamCache,
    /// What waits, and what is being written.
    room: Room,
    shown: Writes,
}

struct Connection {
    conn: PgConnection,
    /// The number and the token of the history that it leads to.
    history: u64,
    token: i64,
}

impl Writer {
    async fn serve(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let mut waiting = VecDeque::new();
        let mut received = Vec::new();
        loop {
            if waiting.is_empty() && requests.recv_many(&mut received, QUEUE).await == 0 {
                return;
            }
            // Callers that the last batch has just woken come into this one.
            tokio::task::yield_now().await;
            while let Ok(request) = requests.try_recv() {
                received.push(request);
            }
            waiting.extend(received.drain(..));
            waiting.retain(|request| !request.is_abandoned());
            let batch = take(&mut waiting);
            self.show(&batch);
            self.write(batch).await;
        }
    }

    fn show(&self, batch: &[Request]) {
        let events = |request: &Request| request.commit.appends.iter().map(|a| a.events.len()).sum::<usize>();
        self.shown.batch(batch.iter().map(|r| r.since.elapsed()), batch.iter().map(events).sum());
        let waiting = self.room.beside(batch.iter().filter_map(|request| request.place.as_ref()));
        self.shown.waiting(waiting.requests, waiting.bytes);
    }

    /// The connection, after whatever an earlier one has left unanswered has ended: a barrier waits for that too.
    /// One that leads to a history that is gone is left.
    async fn connection(&mut self) -> Result<&mut Connection, sqlx::Error> {
        let (patience, histories) = (self.shared.readers.patience(), self.shared.readers.histories());
        let is_current = |conn: &mut Connection| histories.token(conn.history) == Some(conn.token);
        if self.conn.take_if(|conn| !is_current(conn)).is_some() || self.conn.is_none() {
            self.streams.forget();
            let mut conn = patience.within(self.connect.connect()).await?;
            let history = patience.within(histories.meet(&mut conn)).await?;
            let meanwhile = || sqlx::Error::Io(std::io::Error::other("the store has got another history"));
            let token = histories.token(history).ok_or_else(meanwhile)?;
            self.conn = Some(Connection { conn, history, token });
        }
        let conn = self.conn.as_mut().expect("it was just made");
        while let Some((attempt, head)) = self.unsettled.last() {
            if let Err(e) = patience.within(settle(&mut conn.conn, attempt, *head)).await {
                self.conn = None;
                return Err(e);
            }
            self.unsettled.pop();
        }
        Ok(self.conn.as_mut().expect("it was just made"))
    }

    /// Answers every request.
    async fn write(&mut self, batch: Vec<Request>) {
        let mut pieces = VecDeque::from([Piece { requests: batch, tries: 0 }]);
        let mut late = 0;
        while let Some(Piece { requests: mut piece, tries }) = pieces.pop_front() {
            piece.retain(|request| !request.is_abandoned());
            match self.try_write(&piece).await {
                Ok(Answer::Written(outcomes, head)) => {
                    self.shared.committed(&commits(&piece), head);
                    piece
                        .into_iter()
                        .zip(outcomes)
                        .for_each(|(request, outcome)| request.answer(Ok(outcome)));
                }
                Ok(Answer::Refused(refused)) => {
                    let mut refused = refused.into_iter();
                    let (refused, rest): (Vec<_>, Vec<_>) =
                        piece.into_iter().partition(|_| refused.next().unwrap_or(true));
                    refused.into_iter().for_each(Request::refuse);
                    if !rest.is_empty() {
                        pieces.push_front(Piece { requests: rest, tries });
                    }
                }
                Err(Failed::Sent { fate: Fate::Data, .. } | Failed::Before(StoreError::Misuse { .. }))
                    if piece.len() > 1 =>
                {
                    // Somebody's data does not fit: in halves, so that only theirs fails.
                    let halves = Piece { requests: piece, tries }.halves();
                    halves.into_iter().rev().for_each(|half| pieces.push_front(half));
                }
                Err(Failed::Lost(history)) => {
                    let (lost, rest): (Vec<_>, Vec<_>) =
                        piece.into_iter().partition(|request| request.is_lost(history));
                    lost.into_iter().for_each(|request| request.answer(Err(CommitError::OtherHistory)));
                    if !rest.is_empty() {
                        pieces.push_front(Piece { requests: rest, tries });
                    }
                }
                Err(Failed::Sent { fate: Fate::Again, error, .. }) if tries < TRIES && late < MAX_LATE => {
                    let piece = Piece { requests: piece, tries: tries + 1 };
                    self.shown.again(error::code(&error).unwrap_or_default().to_owned());
                    if error::is_late(&error, self.shared.gate) {
                        late += 1;
                        // The halves that are not held up come before the other one is tried again.
                        pieces.extend(piece.halves());
                    } else {
                        self.get_ready(&piece, &error).await;
                        pieces.push_front(piece);
                    }
                }
                Err(Failed::Sent { attempt, fate: Fate::Unknown, error, head }) => {
                    tracing::warn!(%attempt, error = &error as &dyn std::error::Error, "the outcome of a batch is unknown");
                    self.shared.touch(&commits(&piece));
                    // The batch is applied as a whole, or not at all: what becomes of one becomes of all. One that only
                    // looks leaves nothing to be found, and is fenced where no other was sent with it.
                    let writes = piece.iter().find(|request| !request.commit.only_looks());
                    let first = writes.or_else(|| piece.iter().find(|request| !request.commit.is_empty()));
                    let first = first.map(|request| batch::attempt(attempt, &request.commit));
                    self.unsettled.extend(first.map(|attempt| (attempt, head)));
                    for request in piece {
                        let attempt = batch::attempt(attempt, &request.commit);
                        request.answer(Err(CommitError::Unknown(Box::new(attempt))));
                    }
                }
                Err(failed) => {
                    let error = match failed {
                        Failed::Before(error) | Failed::Unreached(error) => error.into(),
                        Failed::Sent { error, .. } if error::is_overflow(&error) => OVERFLOW,
                        Failed::Sent { error, .. } => error::store("a commit", error).into(),
                        Failed::Lost(_) => unreachable!("they were told apart"),
                    };
                    piece.into_iter().for_each(|request| request.answer(Err(error.clone())));
                }
            }
        }
    }

    /// Before a part is tried again.
    async fn get_ready(&self, piece: &Piece, error: &sqlx::Error) {
        if error::is_renamed(error) {
            self.shared.types.forget();
        }
        if error::lacks_partition(error) {
            self.shared.partitions.make(piece.requests.iter().map(|request| &request.commit)).await;
        } else {
            tokio::time::sleep(Duration::from_millis(10 << piece.tries)).await;
        }
    }

    async fn try_write(&mut self, requests: &[Request]) -> Result<Answer, Failed> {
        let unreached = |e| Failed::Unreached(error::store("connecting", e));
        if requests.iter().all(|request| request.commit.is_empty()) {
            if !self.unsettled.is_empty() {
                self.connection().await.map_err(unreached)?;
            }
            let nothing = requests.iter().map(|_| Committed::default()).collect();
            return Ok(Answer::Written(nothing, Default::default()));
        }
        // First: a server that is not reached is nobody's mistake, whatever would be asked of it.
        self.connection().await.map_err(unreached)?;
        let commits = commits(requests);
        let shared = &self.shared;
        let batch = loop {
            crate::types::provide(&shared.types, &shared.readers, &commits).await.map_err(Failed::Before)?;
            let known = shared.types.known();
            // What was just provided may be forgotten again.
            if crate::types::missing(&known, &commits).is_empty() {
                break Batch::new(&commits, &known);
            }
        };
        let &mut Connection { history, token, .. } = self.connection().await.map_err(unreached)?;
        if requests.iter().any(|request| request.is_lost(history)) {
            return Err(Failed::Lost(history));
        }
        let attempt = self.shared.ids.next();
        let head = *self.shared.head.borrow();
        let (mut args, pending) = batch.args(attempt, self.shared.micros(), &self.streams);
        let sql = if args.len() > FIRST + PROOF.len() { APPEND_ALL } else { APPEND };
        args.insert(FIRST + PROOF.len(), Arg::Long(Some(token)));
        let query = args.into_iter().fold(sqlx::query(sql), |query, arg| arg.bind(query));
        let conn = &mut self.conn.as_mut().expect("it was just made").conn;
        let began = Instant::now();
        let answered: Result<PgRow, _> = self.shared.readers.patience().within(query.fetch_one(conn)).await;
        self.shown.flushed(began.elapsed());
        if let Err(e) = &answered {
            self.streams.forget();
            if error::breaks_connection(e) {
                self.conn = None;
            }
        }
        let failed = |error| Failed::Sent { attempt, fate: error::fate(&error), error, head };
        let waited = answered.as_ref().ok().and_then(batch::waited);
        waited.into_iter().for_each(|waited| self.shown.turn(waited));
        let answer = pending.answer(&answered.map_err(failed)?, &mut self.streams).map_err(failed)?;
        if let Some((position, event)) = self.streams.stamp {
            self.shared.readers.histories().saw(history, number(position), event);
        }
        Ok(answer)
    }
}

fn commits(requests: &[Request]) -> Vec<&Commit> {
    requests.iter().map(|request| &request.commit).collect()
}

/// Waits for the end of an attempt behind another connection. If it has not begun, it never will.
async fn settle(conn: &mut PgConnection, attempt: &Attempt, head: Position) -> Result<(), sqlx::Error> {
    let after = signed(head.0.saturating_sub(REACH));
    let ids: Vec<EventId> = attempt.appends.iter().filter_map(|(_, ids)| ids.last().copied()).collect();
    let settle = sqlx::query("select settle($1, $2, $3)").bind(attempt.id).bind(ids).bind(after);
    settle.execute(conn).await.map(drop)
}

/// A part of a batch that is written as one, and how often it was tried.
struct Piece {
    requests: Vec<Request>,
    tries: u32,
}

impl Piece {
    /// One that cannot be halved stays.
    fn halves(self) -> Vec<Self> {
        let Self { mut requests, tries } = self;
        let later = requests.split_off(requests.len().div_ceil(2));
        let halves = [requests, later].into_iter().filter(|half| !half.is_empty());
        halves.map(|requests| Self { requests, tries }).collect()
    }
}

enum Failed {
    /// Nothing was sent.
    Before(StoreError),
    /// There is no connection, whatever was to be sent.
    Unreached(StoreError),
    /// Some were decided on another history than this one.
    Lost(u64),
    /// The statement was sent.
    Sent { attempt: Uuid, fate: Fate, error: sqlx::Error, head: Position },
}

/// The requests of the next batch; the others keep their order.
fn take(waiting: &mut VecDeque<Request>) -> Vec<Request> {
    if waiting.len() == 1 {
        return waiting.drain(..).collect();
    }
    let (mut events, mut rows, mut bytes, mut named, mut passed) = (0, 0, 0, 0, 0);
    let mut admitted = Vec::with_capacity(waiting.len());
    let mut admission = Admission::new(waiting.iter().map(|request| &request.commit));
    for request in waiting.iter() {
        let n: usize = request.commit.appends.iter().map(|a| a.events.len()).sum();
        let size = batch::size(&request.commit);
        let many = events + n > MAX_EVENTS || rows + request.commit.rows.len() > MAX_ROWS;
        let full = many || bytes + size > MAX_BYTES || named == MAX_NAMED;
        let full = full && admitted.len() > passed;
        if full || passed > MAX_PASSED {
            break;
        }
        let free = admission.admits(&request.commit);
        if free {
            events += n;
            rows += request.commit.rows.len();
            bytes += size;
            named += usize::from(!request.commit.attempt.is_nil());
        } else {
            passed += 1;
        }
        admitted.push(free);
    }
    if passed == 0 {
        return waiting.drain(..admitted.len()).collect();
    }
    let mut batch = Vec::with_capacity(admitted.len() - passed);
    let mut kept = VecDeque::with_capacity(passed);
    for (request, free) in waiting.drain(..admitted.len()).zip(admitted) {
        if free { batch.push(request) } else { kept.push_back(request) }
    }
    kept.append(waiting);
    *waiting = kept;
    batch
}

#[cfg(test)]
mod tests {
    use es_core::store::RowWrite;

    use super::*;

    fn request(rows: usize) -> Request {
        let delete = |n| RowWrite { table: "t".into(), key: format!("{n}"), rev: 1, row: None };
        let commit = Commit { rows: (0..rows).map(delete).collect(), ..Commit::default() };
        let (reply, _) = oneshot::channel();
        Request { commit, history: 0, reply, place: None, since: Instant::now() }
    }

    #[test]
    fn a_batch_ends_with_so_many_rows_also_if_they_are_deleted() {
        let mut waiting: VecDeque<Request> = (0..100).map(|_| request(1_000)).collect();
        // Of other tables, so that they do not conflict.
        for (n, request) in waiting.iter_mut().enumerate() {
            request.commit.rows.iter_mut().for_each(|row| row.table = format!("t{n}").into());
        }
        assert_eq!((take(&mut waiting).len(), waiting.len()), (2, 98));
        waiting.push_front(request(10_000));
        assert_eq!((take(&mut waiting).len(), waiting.len()), (1, 98), "a larger one goes alone");
    }

    #[test]
    fn a_part_is_halved_down_to_one_and_none_is_lost() {
        let piece = |n: usize| Piece { requests: (0..n).map(request).collect(), tries: 3 };
        let rows = |pieces: Vec<Piece>| -> Vec<Vec<usize>> {
            let of = |piece: Piece| piece.requests.iter().map(|r| r.commit.rows.len()).collect();
            pieces.into_iter().map(of).collect()
        };
        assert_eq!(rows(piece(5).halves()), [vec![0, 1, 2], vec![3, 4]]);
        assert_eq!(rows(piece(1).halves()), [vec![0]]);
        assert_eq!(piece(2).halves()[1].tries, 3);
    }
}
