//! A decision as data: the commit that stores it, and the answer to a request that comes again.

use crate::clock::Timestamp;
use crate::codec::{DecodeError, EncodeError};
use crate::command::call::{Call, Fallible, Outcomes};
use crate::command::decide::Decision;
use crate::command::{CommandError, Done, EventsOf};
use crate::limits::LimitError;
use crate::repository::Loaded;
use crate::store::keys::digest;
use crate::store::{
    Append, Check, Commit, ExpectedVersion, NewEvent, Outcome, OutcomeMark, Position, RecordedEvent,
    StreamId, Version, stream_all,
};
use crate::{Aggregate, Command, Event};

impl Call<'_> {
    /// The decision as data: what will be stored if nothing changed since `loaded`.
    pub(super) fn commit_of<C: Command>(
        &self,
        cmd: &C,
        loaded: &Loaded<C::Aggregate>,
        decision: &Decision<C>,
    ) -> Fallible<Commit, C> {
        let (version, last) = (loaded.version, loaded.last);
        let expected = match version {
            Version(0) => ExpectedVersion::NoStream,
            version => ExpectedVersion::After(version, last),
        };
        let mut commit = Commit::default();
        let events = match &decision.verdict {
            Ok(events) if !events.is_empty() => self.encode::<C>(events, decision)?,
            _ => Vec::new(),
        };
        if let Some(key) = &self.key {
            let refusal = match &decision.verdict {
                Ok(_) => None,
                Err(refusal) => Some(to_json(refusal)?),
            };
            let outcome = Outcome {
                fingerprint: self.fingerprint(cmd)?,
                stream: self.stream.clone(),
                version: Version(version.0 + events.len() as u64),
                position: Position(0),
                events: u32::try_from(events.len()).unwrap_or(u32::MAX),
                refusal,
            };
            commit.outcomes.push(OutcomeMark { key: key.clone(), outcome });
        }
        if !events.is_empty() {
            commit.appends.push(Append { stream: self.stream.clone(), expected, events });
        } else if !commit.outcomes.is_empty() || !decision.also.is_empty() {
            // A remembered refusal is decided on the current state, like any other decision.
            commit.checks.push(Check { stream: self.stream.clone(), expected });
        }
        commit.rows.clone_from(&decision.also);
        Ok(commit)
    }

    fn encode<C: Command>(
        &self,
        events: &[EventsOf<C>],
        decision: &Decision<C>,
    ) -> Fallible<Vec<NewEvent>, C> {
        if events.len() > self.bus.max_events {
            return Err(LimitError::TooLarge {
                field: "command",
                actual: events.len(),
                limit: self.bus.max_events,
                unit: "events",
                value: C::NAME.to_owned(),
            }
            .into());
        }
        let new = |event: &EventsOf<C>| {
            let new = NewEvent::new(self.bus.ids.at(self.now), event.encode()?, decision.metadata.clone());
            if self.bus.verify {
                verify::<EventsOf<C>>(&self.stream, &new)?;
            }
            Ok(new)
        };
        events.iter().map(new).collect()
    }

    fn fingerprint<C: Command>(&self, cmd: &C) -> Fallible<u128, C> {
        let json = serde_json::to_vec(cmd)
            .map_err(|e| CommandError::Codec { what: "the command", source: e.into() }.into_box())?;
        Ok(fingerprint(C::Aggregate::NAME, C::NAME, self.stream.as_str(), &json))
    }

    /// What the first request under this key led to, if there was one.
    pub(super) async fn first_outcome<C: Command>(&self, cmd: &C) -> Fallible<Option<Outcome>, C> {
        let Some(key) = &self.key else { return Ok(None) };
        match self.bus.store().outcome(key).await? {
            Some(outcome) if outcome.fingerprint != self.fingerprint(cmd)? => {
                Err(CommandError::KeyReused { key: key.clone() }.into_box())
            }
            found => Ok(found),
        }
    }

    /// Answers like the first time: the refusal, or the events, read back and upcast.
    pub(super) async fn replay<C: Command>(&self, outcome: Outcome) -> Outcomes<C> {
        let Outcome { stream, version, position, events, refusal, .. } = outcome;
        if let Some(refusal) = refusal {
            let refusal = serde_json::from_slice(&refusal)
                .map_err(|e| CommandError::Codec { what: "the stored refusal", source: e.into() })?;
            return Err(CommandError::Refused(refusal).into_box());
        }
        let before = Version(version.0 - u64::from(events));
        let stored = match events {
            0 => Vec::new(),
            n => stream_all(self.bus.store(), &stream, before, n as usize).await?,
        };
        let mut events = Vec::with_capacity(stored.len());
        for event in &stored {
            events.extend(EventsOf::<C>::decode(event).map_err(DecodeError::of_a_load)?);
        }
        Ok(Done { position, version, events, repeated: true })
    }
}

fn to_json<E, T: serde::Serialize>(refusal: &T) -> Result<bytes::Bytes, CommandError<E>> {
    let json = serde_json::to_vec(refusal);
    Ok(json.map_err(|e| CommandError::Codec { what: "the refusal", source: e.into() })?.into())
}

/// A new event as it will be read back.
pub(super) fn recorded(stream: &StreamId, event: &NewEvent, version: Version) -> RecordedEvent {
    event.clone().into_recorded(stream.clone(), version, None, Timestamp::UNIX_EPOCH)
}

/// What was written must be readable: a payload that is not is found before it is stored.
fn verify<E: Event>(stream: &StreamId, event: &NewEvent) -> Result<(), EncodeError> {
    let wrong =
        |source: DecodeError| EncodeError::RoundTrip { name: event.name.to_string(), source: source.into() };
    E::decode(&recorded(stream, event, Version(0))).map(drop).map_err(wrong)
}

/// What a request is, as a number. Stored with its key: it never changes, on no machine.
fn fingerprint(aggregate: &str, command: &str, stream: &str, json: &[u8]) -> u128 {
    digest([aggregate.as_bytes(), command.as_bytes(), stream.as_bytes(), json])
}

#[cfg(test)]
mod tests {
    use super::fingerprint;

    #[test]
    fn the_fingerprint_of_a_request_is_pinned() {
        let deposit = fingerprint("account", "deposit", "account-ada", br#"{"amount":10}"#);
        assert_eq!(format!("{deposit:032x}"), "005f65d2f821f154c2a8033445041d25");
        assert_ne!(deposit, fingerprint("account", "deposit", "account-bob", br#"{"amount":10}"#));
        assert_ne!(fingerprint("ab", "c", "", b""), fingerprint("a", "bc", "", b""));
    }
}
