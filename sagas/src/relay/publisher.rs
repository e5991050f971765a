//! Where messages go.

use es_core::BoxError;
use tokio::sync::mpsc;

use crate::message::Envelope;

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
