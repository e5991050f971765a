//! Sending commands from within: what processors hand to what they run.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use super::{Bus, Command, CommandError, Done, ErrorOf, EventsOf, IdOf, Sending};

/// Sends commands through the bus of an app, without keeping the app alive. Clones are one.
#[derive(Clone, Default)]
pub struct Sender(Arc<OnceLock<Weak<Bus>>>);

impl Sender {
    /// From now on it sends through this bus.
    pub(crate) fn connect(&self, bus: &Arc<Bus>) {
        // Once: it belongs to one app.
        drop(self.0.set(Arc::downgrade(bus)));
    }

    /// Sends a command, with the options that `with` adds.
    ///
    /// # Errors
    ///
    /// As of [`App::send`](crate::App::send); [`CommandError::ShuttingDown`] if the app is gone, or not there yet.
    pub async fn send<C: Command>(
        &self,
        id: &IdOf<C>,
        cmd: C,
        with: impl for<'a> FnOnce(Sending<'a, C>) -> Sending<'a, C> + Send,
    ) -> Result<Done<EventsOf<C>>, CommandError<ErrorOf<C>>> {
        let Some(bus) = self.0.get().and_then(Weak::upgrade) else { return Err(CommandError::ShuttingDown) };
        with(Sending::new(&bus, id, cmd)).await
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}
