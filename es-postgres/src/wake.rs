//! Wakes readers of other processes: `LISTEN` and a debounced `NOTIFY`, on a connection of their own.
//!
//! Never in the append: a notification takes a lock of the whole cluster at COMMIT. Notifications can be lost (the
//! driver reconnects silently), so they only shorten the wait for the next poll.
//!
//! A notification is a number, the head of the log, or the text of [`Touched`]: which rows were written. They are two,
//! since programs of earlier versions understand numbers alone, and take any other text for a head of 0.
//!
//! Rows that change all the time and that nobody waits for are no reason to notify: they go with what is
//! ([`is_urgent`]). Whoever watches them in another process is woken by that, or looks at its next poll.
//!
//! A server that has vanished says nothing to who listens, and is not told so. So the connection is left with the history
//! that it leads to: others of the process find that it is gone.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use es_core::store::{Position, Touched};
use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::address::Address;
use crate::backend::Shared;

/// The shortest time between two notifications: the first goes out at once, the last of a burst after this.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// How long a connection is waited for, before it is looked where to get one.
const WITHIN: Duration = Duration::from_secs(5);
/// How long to wait before connecting again.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of a notification at most.
const LONGEST: usize = 7_999;

/// Whether others are told of rows of this table at once. Of the engine's own, workers wait only for what operators ask
/// for; leases, checkpoints, shares, and the rows of builds (`name~generation`) change with every page that is taken in.
pub(crate) fn is_urgent(table: &str) -> bool {
    match table {
        "nodes" | "checkpoints" | "es.shares" => false,
        table if table.ends_with("/requests") || table.ends_with("/afresh") => true,
        table => !table.contains('~'),
    }
}

/// What this process has written, and the others have not been told.
#[derive(Debug)]
pub(crate) struct News {
    untold: Mutex<Untold>,
    stir: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Untold {
    head: Position,
    rows: Touched,
}

impl News {
    /// With what changes when there is something to tell.
    pub(crate) fn channel() -> (Self, watch::Receiver<()>) {
        let (stir, stirred) = watch::channel(());
        (Self { untold: Mutex::default(), stir }, stirred)
    }

    /// The log goes this far.
    pub(crate) fn head(&self, head: Position) {
        if head > Position(0) {
            self.add(Untold { head, ..Untold::default() }, true);
        }
    }

    /// These rows were written. What is not urgent goes with what is.
    pub(crate) fn rows(&self, rows: Touched, urgent: bool) {
        if !rows.is_empty() {
            self.add(Untold { rows, ..Untold::default() }, urgent);
        }
    }

    fn add(&self, Untold { head, rows }: Untold, urgent: bool) {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        untold.head = untold.head.max(head);
        untold.rows.extend(rows);
        drop(untold);
        if urgent {
            self.stir.send_replace(());
        }
    }

    fn take(&self) -> Untold {
        std::mem::take(&mut *self.untold.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Untold {
    /// As notifications.
    fn payloads(&self) -> Vec<String> {
        let head = (self.head > Position(0)).then(|| self.head.0.to_string());
        let rows = (!self.rows.is_empty()).then(|| self.rows.to_text(LONGEST));
        head.into_iter().chain(rows).collect()
    }
}

/// Runs until the store is gone.
pub(crate) async fn run(
    shared: Weak<Shared>,
    address: Address,
    channel: String,
    mut stirred: watch::Receiver<()>,
) {
    while shared.strong_count() > 0 {
        // A connection that is left may be waited for by the driver, in its pool.
        let pool = address.pool(PgPoolOptions::new().max_connections(1).acquire_timeout(WITHIN));
        let ended = listen(&shared, &pool, &channel, &mut stirred).await;
        drop(pool.close());
        match ended {
            Ok(Ended::Store) => return,
            Ok(Ended::History) => {}
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no notifications; readers poll");
                tokio::time::sleep(PAUSE).await;
                address.look().await;
            }
        }
    }
}

/// What has ended.
enum Ended {
    Store,
    /// The history that the connection leads to.
    History,
}

async fn listen(
    shared: &Weak<Shared>,
    pool: &PgPool,
    channel: &str,
    stirred: &mut watch::Receiver<()>,
) -> Result<Ended, sqlx::Error> {
    let Some((patience, mut history)) = shared.upgrade().map(|shared| {
        let readers = &shared.readers;
        (readers.patience(), readers.histories().watch())
    }) else {
        return Ok(Ended::Store);
    };
    let mut listener = PgListener::connect_with(pool).await?;
    patience.within(listener.listen(channel)).await?;
    let mut own = patience.within(backend_of(&mut listener)).await?;
    if catch_up(shared).await.is_none() {
        return Ok(Ended::Store);
    }
    let mut quiet = Instant::now();
    loop {
        tokio::select! {
            _ = history.changed() => return Ok(Ended::History),
            received = listener.try_recv() => {
                let alive = match received? {
                    // Whoever waits in this process has been woken.
                    Some(notification) if notification.process_id() == own => Some(()),
                    Some(notification) => shared.upgrade().map(|shared| hear(&shared, notification.payload())),
                    // The connection was lost, and with it whatever was sent since.
                    None => {
                        own = patience.within(backend_of(&mut listener)).await?;
                        catch_up(shared).await
                    }
                };
                if alive.is_none() {
                    return Ok(Ended::Store);
                }
            }
            changed = wait_for_quiet(stirred, quiet) => {
                if changed.is_err() || tell(shared, &mut listener, channel).await?.is_none() {
                    return Ok(Ended::Store);
                }
                quiet = Instant::now() + DEBOUNCE;
            }
        }
    }
}

async fn wait_for_quiet(
    stirred: &mut watch::Receiver<()>,
    quiet: Instant,
) -> Result<(), watch::error::RecvError> {
    // Looked at only after the pause: what was written during it goes out together.
    tokio::time::sleep_until(quiet).await;
    stirred.changed().await
}

/// Tells the others what they have not been told. `None` if the store is gone.
async fn tell(
    shared: &Weak<Shared>,
    listener: &mut PgListener,
    channel: &str,
) -> Result<Option<()>, sqlx::Error> {
    let Some(shared) = shared.upgrade() else { return Ok(None) };
    let Some(news) = &shared.news else { return Ok(None) };
    let untold = news.take();
    let notify = "select pg_notify($1, a.payload) from unnest($2::text[]) a (payload)";
    let told = sqlx::query(notify).bind(channel).bind(untold.payloads()).execute(listener);
    let told = shared.readers.patience().within(told).await;
    if told.is_err() {
        // For the next connection.
        news.add(untold, true);
    }
    told.map(|_| Some(()))
}

fn hear(shared: &Shared, payload: &str) {
    match payload.parse() {
        Ok(head) => shared.see(Position(head)),
        Err(_) => shared.row_wakes.touch(&Touched::parse(payload)),
    }
}

/// The process of the server at the other end: notifications of this process come from there.
async fn backend_of(listener: &mut PgListener) -> Result<u32, sqlx::Error> {
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(listener).await?;
    Ok(pid.cast_unsigned())
}

/// Reads the head, and wakes whoever waits for rows. `None` if the store is gone.
async fn catch_up(shared: &Weak<Shared>) -> Option<()> {
    let shared: Arc<Shared> = shared.upgrade()?;
    if let Ok(head) = shared.read_head().await {
        shared.see(head);
    }
    shared.row_wakes.touch(&Touched::all());
    Some(())
}
