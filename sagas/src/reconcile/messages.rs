//! The log of a sender against the marks of an inbox.

use std::sync::Arc;

use es_core::Backend;
use es_core::cluster::StateStore;
use es_core::limits::LimitError;
use futures::stream;
use futures::{StreamExt as _, TryStreamExt as _};

use super::run::{ReconcileError, Reconciliation};
use crate::message::inbox::Inbox;

/// The lanes that an inbox has marks of: left the messages behind the mark that the log of their sender has, right the inbox,
/// which has not got them. What was sent a moment ago is pending, by the time that the message says, on the clock of its
/// sender; give it as long as the relay may be behind ([`settles`](Reconciliation::settles)). A message that says no time is
/// given as long as the second look waits. The name is that of the reconciliation.
///
/// The inbox needs a [log](Inbox::log). A lane of which nothing ever came is not known to it, and not compared; messages
/// without an order are not either. Of each lane the first messages behind the mark are compared, as many as the log gives at
/// once.
///
/// # Errors
///
/// The name cannot be one.
pub fn messages<B: Backend, C: Send + Sync + 'static>(
    store: impl StateStore,
    name: &str,
    inbox: &Arc<Inbox<B, C>>,
) -> Result<Reconciliation<String, String>, LimitError> {
    let inbox = inbox.clone();
    Reconciliation::of_pairs(name, store, move || {
        let pages = stream::try_unfold((inbox.clone(), Some(None::<String>)), |(inbox, after)| async move {
            let Some(after) = after else { return Ok::<_, ReconcileError>(None) };
            let (page, next) = inbox.audited(after.as_deref()).await.map_err(ReconcileError::Read)?;
            let pairs = stream::iter(page.into_iter().map(Ok::<_, ReconcileError>));
            Ok::<_, ReconcileError>(Some((pairs, (inbox, next.map(Some)))))
        });
        pages.try_flatten().boxed()
    })
}
