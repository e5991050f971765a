//! Where messages go.

use std::sync::Arc;

use es_core::{Backend, BoxError};
use tokio::sync::mpsc;

use crate::message::Envelope;
use crate::message::inbox::{Answer, Consumer, Inbox, InboxError, Outcome};

/// Takes messages to where they go: a broker, another service. It is called for the messages of many keys at the same time,
/// and for those of one key in order.
///
/// A message may come more than once, with the same id, [sequence](Envelope::sequence) and
/// [previous](Envelope::previous): after a crash, and when it failed though it had arrived.
///
/// ```
/// use sagas::message::Envelope;
/// use sagas::relay::{PublishError, Publisher};
///
/// struct Printer;
///
/// impl Publisher for Printer {
///     async fn publish(&self, message: &Envelope) -> Result<(), PublishError> {
///         println!("{} says {}", message.id, message.data);
///         Ok(())
///     }
/// }
/// ```
pub trait Publisher: Send + Sync + 'static {
    /// Takes one message; done once the receiver has it. The future is dropped if the program ends, or if it takes longer than
    /// a [handler](es_core::processor::ProcessorOptions::handler_limit) may.
    ///
    /// # Errors
    ///
    /// [`PublishError`] says whether to try again or to set the message aside.
    fn publish(&self, message: &Envelope) -> impl Future<Output = Result<(), PublishError>> + Send;
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
#[expect(clippy::exhaustive_enums, reason = "a relay must know what each means")]
pub enum PublishError {
    /// The receiver cannot be reached, or takes nothing now. The relay waits for it, however long that takes.
    #[error("the receiver takes no messages now")]
    Unavailable(#[source] BoxError),
    /// The receiver does not want this message: its key is parked, and others continue.
    #[error("the receiver refuses the message")]
    Refused(#[source] BoxError),
}

impl PublishError {
    /// The receiver takes nothing now.
    pub fn unavailable(why: impl Into<BoxError>) -> Self {
        Self::Unavailable(why.into())
    }

    /// The receiver does not want this message.
    pub fn refused(why: impl Into<BoxError>) -> Self {
        Self::Refused(why.into())
    }
}

/// As a sender is told over HTTP: what is true of one lane is refused, and its key is parked; what passes by itself, or is
/// true of all lanes, makes the relay wait.
impl From<InboxError> for PublishError {
    fn from(error: InboxError) -> Self {
        match Answer::from(&error).status {
            400..=499 => Self::refused(error),
            _ => Self::unavailable(error),
        }
    }
}

/// An inbox within the program, that of another store or module: what it does not take is refused or unavailable as over HTTP.
impl<B: Backend, C: Consumer<B::Tx>> Publisher for Arc<Inbox<B, C>> {
    async fn publish(&self, message: &Envelope) -> Result<(), PublishError> {
        match self.take(message).await? {
            Outcome::Taken | Outcome::Duplicate | Outcome::Parked { .. } => Ok(()),
            gap @ Outcome::Gap(_) => Err(PublishError::refused(Answer::from(gap).body)),
        }
    }
}

/// A channel within the program. A message counts as taken once it is in the channel: a crash loses those that nobody has
/// received. While the channel is full, or nobody has its other end, the relay waits.
impl Publisher for mpsc::Sender<Envelope> {
    async fn publish(&self, message: &Envelope) -> Result<(), PublishError> {
        self.send(message.clone()).await.map_err(|_| PublishError::unavailable("the channel is closed"))
    }
}

/// A function of this program as the receiver.
#[derive(Clone, Copy, Debug)]
pub struct InProcess<F>(F);

/// A function of this program as the receiver: a message is taken once the future that it gives has succeeded.
///
/// ```
/// # use sagas::relay::in_process;
/// let receiver = in_process(async |message| {
///     println!("{} says {}", message.id, message.data);
///     Ok(())
/// });
/// ```
pub const fn in_process<F, R>(receive: F) -> InProcess<F>
where
    F: Fn(Envelope) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), PublishError>> + Send,
{
    InProcess(receive)
}

impl<F, R> Publisher for InProcess<F>
where
    F: Fn(Envelope) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), PublishError>> + Send,
{
    async fn publish(&self, message: &Envelope) -> Result<(), PublishError> {
        (self.0)(message.clone()).await
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use es_core::store::StoreError;

    use super::*;
    use crate::message::inbox::Lane;

    #[test]
    fn what_is_true_of_one_lane_is_refused_and_what_passes_is_waited_for() {
        let store = |what: &str| StoreError::Corrupt { what: what.to_owned() };
        let away = || StoreError::transient("reading", io::Error::other("the line is dead"));
        let (lane, sequence) = (Lane::of_key("/shop", "orders", "7"), None);
        for (error, refused) in [
            (InboxError::NoMessage { field: "id", why: "is empty".to_owned() }, true),
            (InboxError::OtherContent { lane, sequence }, true),
            (InboxError::Full { what: "1000 lanes".to_owned() }, true),
            (InboxError::Newer("an event".into()), true),
            (InboxError::Store(store("a row")), true),
            (InboxError::Store(away()), false),
            (InboxError::Store(StoreError::misuse("no table")), false),
            (InboxError::Busy("the bank".into()), false),
            (InboxError::Log("the sender".into()), false),
        ] {
            let shown = error.to_string();
            let told = PublishError::from(error);
            assert_eq!(matches!(told, PublishError::Refused(_)), refused, "{shown}");
            assert!(es_core::chain(&told).contains(&shown), "{told}");
        }
    }
}
