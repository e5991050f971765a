//! Sending commands from within: what processors hand to what they run.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use super::named::{NamedCommand, SendError, SendingNamed};
use super::sending::Via;
use super::{Bus, Command, IdOf, Sending};
use crate::Apply;
use crate::repository::{LoadError, Loaded};
use crate::store::{EventStore, StoreError};

/// Sends commands through an app without keeping it alive: by type, or by their stored names. Clones are one.
///
/// A handler of a reactor asks for `&Sender`; a processor of your own gets it with its
/// [`Opening`](crate::processor::Opening), everything else from [`App::sender`](crate::App::sender). Give what it sends an idempotency key: whatever sends a command of its own accord
/// may be interrupted between the answer and the note that it was given, and then sends it again.
///
/// Never send through it while you hold a transaction of the same store open, unless the command goes
/// [within](Sending::within) that transaction: a store with one writer would wait for you.
///
/// ```
/// use es_core::command::NamedCommand;
/// use es_core::{App, ErrorKind, memory::MemoryBackend};
/// # use es_core::testing::conformance::domain::{Account, Deposit, Open, Withdraw};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let app = App::on(MemoryBackend::new()).command::<Deposit>().command::<Withdraw>().start().await?;
/// let (sender, ada) = (app.sender(), "ada".to_owned());
///
/// // By type.
/// sender.send(&ada, Open { owner: "Ada".to_owned() }).idempotency_key("open-ada").await?;
///
/// // By name: a command that was kept as data, in a row of a process, say.
/// let kept = serde_json::to_string(&NamedCommand::of(&ada, &Deposit { amount: 5 })?)?;
/// let command: NamedCommand = serde_json::from_str(&kept)?;
/// let done = sender.send_named(command.clone()).idempotency_key("pay-1").await?;
/// assert!(sender.send_named(command).idempotency_key("pay-1").await?.repeated);
/// assert_eq!(app.load::<Account>(&ada).await?.map(|account| account.balance), Some(5));
///
/// // The domain's refusal comes as JSON, everything else by its kind.
/// let withdraw = NamedCommand::new("account", "ada", "withdraw", serde_json::json!({ "amount": 9 }));
/// let refused = sender.send_named(withdraw).await.expect_err("there are only 5");
/// assert_eq!(refused.refusal(), Some(&serde_json::json!({ "Overdrawn": { "balance": 5 } })));
/// let unknown = NamedCommand::new("account", "ada", "close_it", serde_json::json!({}));
/// assert_eq!(sender.send_named(unknown).await.expect_err("no such command").kind(), ErrorKind::Misuse);
/// # assert_eq!(done.position.0, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Sender(Arc<OnceLock<Weak<Bus>>>);

impl Sender {
    /// From now on it sends through this bus.
    pub(crate) fn connect(&self, bus: &Arc<Bus>) {
        // Once: it belongs to one app.
        drop(self.0.set(Arc::downgrade(bus)));
    }

    /// Looked up when a command is sent: then it is connected.
    fn via(&self) -> Via<'static> {
        Via::Weak(self.0.get().cloned().unwrap_or_default())
    }

    /// Sends a command to an aggregate: add options, then `.await`.
    ///
    /// # Errors
    ///
    /// Those of [`App::send`](crate::App::send), when it is awaited;
    /// [`CommandError::ShuttingDown`](crate::CommandError::ShuttingDown) if the app is shutting down, gone, or not there
    /// yet.
    pub fn send<C: Command>(&self, id: &IdOf<C>, cmd: C) -> Sending<'static, C> {
        Sending::new(self.via(), id, cmd)
    }

    /// The current state of an aggregate, as [`App::load`](crate::App::load) gives it; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if its events cannot be read; a misuse if the app is gone, or not there yet.
    pub async fn load<A: Apply>(&self, id: &A::Id) -> Result<Option<Loaded<A>>, LoadError> {
        let (via, mut held) = (self.via(), None);
        let gone =
            || StoreError::misuse("the app that this was to be loaded through is gone, or not there yet");
        via.bus(&mut held).ok_or_else(gone)?.load(id).await
    }

    /// The store that it writes to, to keep: what is committed there with events meets the inline projections of the app.
    /// `None` if the app is gone, or not there yet.
    #[must_use]
    pub fn store(&self) -> Option<Arc<dyn EventStore>> {
        let bus = self.0.get().and_then(Weak::upgrade)?;
        Some(bus.repository.store.clone())
    }

    /// Whether a command could be sent by its stored names: for what is kept now and sent later.
    ///
    /// # Errors
    ///
    /// [`SendError::UnknownCommand`](super::SendError::UnknownCommand) if it was not registered;
    /// [`SendError::ShuttingDown`](super::SendError::ShuttingDown) if the app is gone, or not there yet.
    pub fn knows(&self, command: &NamedCommand) -> Result<(), SendError> {
        let (via, mut held) = (self.via(), None);
        let bus = via.bus(&mut held).ok_or(SendError::ShuttingDown)?;
        bus.commands.find(command).map(drop)
    }

    /// Sends a command by its stored names: add options, then `.await`. It is one that was registered, by
    /// [`AppBuilder::aggregate`](crate::AppBuilder::aggregate) or [`AppBuilder::command`](crate::AppBuilder::command).
    /// Interceptors, retries and keys are those of a command that is sent by type; a request under a key is the same,
    /// whichever way it comes.
    ///
    /// # Errors
    ///
    /// [`SendError`](super::SendError), when it is awaited: a refusal as JSON; what is unknown or cannot be read; what
    /// else happened to the command, by its kind and with its sources; [`SendError::ShuttingDown`](super::SendError::ShuttingDown)
    /// if the app is shutting down, gone, or not there yet.
    pub fn send_named(&self, command: NamedCommand) -> SendingNamed {
        SendingNamed { via: self.via(), command, options: None }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}
