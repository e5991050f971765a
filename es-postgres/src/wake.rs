//! Wakes readers of other processes: `LISTEN` and a debounced `NOTIFY`, on a connection of their own.
//!
//! Never in the append: a notification takes a lock of the whole cluster at COMMIT. Notifications can be lost (the
//! driver reconnects silently), so they only shorten the wait for the next poll.

use std::sync::{Arc, Weak};
use std::time::Duration;

use es_core::store::Position;
use sqlx::postgres::{PgListener, PgNotification};
use sqlx::{Executor as _, PgPool};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backend::Shared;

/// The shortest time between two notifications: the first goes out at once, the last of a burst after this.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// How long to wait before connecting again.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until the store is gone. `written` says what this process has appended.
pub(crate) async fn run(
    shared: Weak<Shared>,
    pool: PgPool,
    channel: String,
    mut written: watch::Receiver<Position>,
) {
    while shared.strong_count() > 0 {
        match listen(&shared, &pool, &channel, &mut written).await {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no notifications; readers poll");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// `Ok` when the store is gone.
async fn listen(
    shared: &Weak<Shared>,
    pool: &PgPool,
    channel: &str,
    written: &mut watch::Receiver<Position>,
) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(channel).await?;
    if catch_up(shared).await.is_none() {
        return Ok(());
    }
    let mut quiet = Instant::now();
    loop {
        tokio::select! {
            received = listener.try_recv() => {
                let alive = match received? {
                    Some(notification) => shared.upgrade().map(|shared| shared.see(head_of(&notification))),
                    // The connection was lost, and with it whatever was sent meanwhile.
                    None => catch_up(shared).await,
                };
                if alive.is_none() {
                    return Ok(());
                }
            }
            changed = wait_for_quiet(written, quiet) => {
                if changed.is_err() {
                    return Ok(());
                }
                let head = *written.borrow_and_update();
                let notify = sqlx::query("select pg_notify($1, $2)").bind(channel).bind(head.0.to_string());
                listener.execute(notify).await?;
                quiet = Instant::now() + DEBOUNCE;
            }
        }
    }
}

async fn wait_for_quiet(
    written: &mut watch::Receiver<Position>,
    quiet: Instant,
) -> Result<(), watch::error::RecvError> {
    // Looked at only after the pause: what was written during it goes out with one notification.
    tokio::time::sleep_until(quiet).await;
    written.changed().await
}

fn head_of(notification: &PgNotification) -> Position {
    Position(notification.payload().parse().unwrap_or_default())
}

/// Reads the head. `None` if the store is gone.
async fn catch_up(shared: &Weak<Shared>) -> Option<()> {
    let shared: Arc<Shared> = shared.upgrade()?;
    if let Ok(head) = shared.read_head().await {
        shared.see(head);
    }
    Some(())
}
