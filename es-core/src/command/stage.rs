//! Door two: the decision goes with the user's own transaction.

use crate::command::call::{Call, Door, Outcomes, Sent};
use crate::command::outcome::recorded;
use crate::command::{CommandError, Done, EventsOf, WithinTx, shown};
use crate::repository::Loaded;
use crate::store::{StoreError, Transaction, Version};
use crate::{Apply, Command, Event};

/// Door two: decides on what is stored and staged, and stages.
pub(crate) struct Stages<'t, T>(pub(crate) &'t mut T);

impl<C: Command, T: Transaction> Door<C> for Stages<'_, T> {
    async fn run(&mut self, call: &Call<'_>, mut sent: Sent<'_, C>) -> Outcomes<C> {
        if self.0.identity() != call.bus.store().identity() {
            let what =
                "the transaction belongs to another store than the app; take it from the app's backend";
            return Err(CommandError::Store(StoreError::misuse(what)).into_box());
        }
        if let Some(key) = &call.key
            && self.0.staged().outcomes.iter().any(|mark| mark.key == *key)
        {
            let what = format!(
                "idempotency key {key} is staged in this transaction already; take a key for each command"
            );
            return Err(CommandError::Store(StoreError::misuse(what)).into_box());
        }
        sent.begin_attempt(1);
        shown::attempt(&call.attempts);
        if let Some(first) = call.first_outcome(sent.cmd()).await? {
            return call.replay::<C>(first).await;
        }
        let mut loaded: Loaded<C::Aggregate> = call.bus.repository.load(&call.stream).await?;
        for append in self.0.staged().appends.iter().filter(|a| a.stream == call.stream) {
            for event in &append.events {
                (loaded.version, loaded.last) = (Version(loaded.version.0 + 1), event.id);
                let event = recorded(&call.stream, event, loaded.version);
                EventsOf::<C>::decode(&event)?.into_iter().for_each(|event| loaded.state.apply(&event));
            }
        }
        let decision = call.decide(&mut sent, &loaded, &self.0.staged().rows).await?;
        let commit = call.commit_of(sent.cmd(), &loaded, &decision)?;
        if let Ok(inline) = call.bus.services.get::<WithinTx<T>>() {
            inline.0.on_stage(self.0, &commit.appends).await?;
        }
        let staged = self.0.staged();
        // Events that are staged for the stream say already where it must be; a check would count without them.
        if !staged.appends.iter().any(|append| append.stream == call.stream) {
            staged.checks.extend(commit.checks);
        }
        staged.appends.extend(commit.appends);
        staged.outcomes.extend(commit.outcomes);
        staged.rows.extend(commit.rows);
        let events = decision.verdict.map_err(CommandError::Refused)?;
        let version = Version(loaded.version.0 + events.len() as u64);
        Ok(Done { position: loaded.position, version, events, repeated: false })
    }
}
