//! A trip by TCC: a seat of a flight here, and a room of a hotel elsewhere. Both are held first, and then both are taken or
//! both are let go; nobody sees a trip with a seat and no room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use es_core::memory::{MemoryBackend, Tx};
use es_core::prelude::*;
use sagas::saga::{Call, Cx, Outcome, Ran, SagaInput, StepError};
use sagas::tcc::{TccApp as _, TccTransaction, Tccs as _, tcc};
use serde::{Deserialize, Serialize};

const SEATS: usize = 2;
const ROOMS: usize = 1;

#[derive(AggregateId, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FlightId(String);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Held {
    trip: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Taken {
    trip: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct LetGo {
    trip: u32,
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "flight")]
enum FlightEvent {
    Held(Held),
    Taken(Taken),
    LetGo(LetGo),
}

#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
enum FlightError {
    #[error("no seat is left")]
    Full,
    #[error("no seat is held for trip {0}")]
    NotHeld(u32),
}

/// It has a place for what is only held: that is what a TCC asks of a participant.
#[derive(Aggregate, Clone, Debug, Default)]
#[aggregate(id = FlightId, event = FlightEvent, error = FlightError)]
struct Flight {
    held: BTreeSet<u32>,
    taken: BTreeSet<u32>,
}

impl Apply for Flight {
    fn apply(&mut self, event: &FlightEvent) {
        match event {
            FlightEvent::Held(e) => drop(self.held.insert(e.trip)),
            FlightEvent::Taken(e) => {
                self.held.remove(&e.trip);
                self.taken.insert(e.trip);
            }
            FlightEvent::LetGo(e) => drop(self.held.remove(&e.trip)),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hold {
    trip: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Take {
    trip: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Release {
    trip: u32,
}

#[commands]
impl Flight {
    #[create_if_missing]
    fn hold(&self, cmd: Hold) -> Result<Held, FlightError> {
        let has_left = self.held.len() + self.taken.len() < SEATS;
        if has_left { Ok(Held { trip: cmd.trip }) } else { Err(FlightError::Full) }
    }

    fn take(&self, cmd: Take) -> Result<Taken, FlightError> {
        self.is_held_for(cmd.trip)?;
        Ok(Taken { trip: cmd.trip })
    }

    fn release(&self, cmd: Release) -> Result<LetGo, FlightError> {
        self.is_held_for(cmd.trip)?;
        Ok(LetGo { trip: cmd.trip })
    }
}

impl Flight {
    fn is_held_for(&self, trip: u32) -> Result<(), FlightError> {
        if self.held.contains(&trip) { Ok(()) } else { Err(FlightError::NotHeld(trip)) }
    }
}

/// What a trip is booked with. Stored, as the aggregate's events are.
#[derive(Serialize, Deserialize)]
struct Trip {
    number: u32,
    flight: FlightId,
}

impl SagaInput for Trip {}

/// In the journal's database: the event of the flight is in the commit that says so.
struct Seat;

#[tcc(name = "seat")]
impl Seat {
    async fn reserve(&self, cx: Cx<'_, Trip>, tx: &mut Tx) -> Result<(), StepError<FlightError>> {
        let Trip { number, flight } = cx.input;
        match cx.sender.send(flight, Hold { trip: *number }).within(tx).await {
            Ok(_) => Ok(()),
            Err(CommandError::Refused(full)) => Err(StepError::Refused(full)),
            Err(error) => Err(StepError::Retry(error.into())),
        }
    }

    async fn confirm(&self, cx: Cx<'_, Trip>, (): (), tx: &mut Tx) -> Result<(), BoxError> {
        cx.sender.send(&cx.input.flight, Take { trip: cx.input.number }).within(tx).await?;
        Ok(())
    }

    async fn cancel(&self, cx: Cx<'_, Trip>, _: Ran<()>, tx: &mut Tx) -> Result<(), BoxError> {
        cx.sender.send(&cx.input.flight, Release { trip: cx.input.number }).within(tx).await?;
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Held,
    Taken,
    /// It was let go, or never held: under this key none ever will be.
    Free,
}

/// A service elsewhere. A real one is called over HTTP, by `call.send_or_refuse(..)`; it has to remember keys as this one does.
#[derive(Clone, Default)]
struct Hotel(Arc<Mutex<BTreeMap<String, Room>>>);

impl Hotel {
    fn rooms(&self) -> MutexGuard<'_, BTreeMap<String, Room>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, key: &str) -> Result<(), StepError<&'static str>> {
        let mut rooms = self.rooms();
        match rooms.get(key) {
            Some(Room::Held | Room::Taken) => Ok(()),
            // It comes after its cancel.
            Some(Room::Free) => Err(StepError::Retry("this booking was cancelled".into())),
            None if rooms.values().filter(|room| **room != Room::Free).count() >= ROOMS => {
                Err(StepError::Refused("no room is left"))
            }
            None => {
                rooms.insert(key.to_owned(), Room::Held);
                Ok(())
            }
        }
    }

    fn take(&self, key: &str) -> Result<(), BoxError> {
        match self.rooms().get_mut(key) {
            Some(room @ (Room::Held | Room::Taken)) => *room = Room::Taken,
            None | Some(Room::Free) => return Err("no room is held under this key".into()),
        }
        Ok(())
    }

    /// Also of a key that it has never heard of.
    fn let_go(&self, key: &str) {
        self.rooms().insert(key.to_owned(), Room::Free);
    }
}

struct Bed(Hotel);

#[tcc(name = "bed")]
impl Bed {
    fn reserve(&self, _: Cx<'_, Trip>, call: &mut Call) -> Result<(), StepError<&'static str>> {
        self.0.hold(call.step_key())
    }

    fn confirm(&self, _: Cx<'_, Trip>, (): (), call: &mut Call) -> Result<(), BoxError> {
        self.0.take(call.step_key())
    }

    fn cancel(&self, _: Cx<'_, Trip>, _: Ran<()>, call: &mut Call) -> Result<(), BoxError> {
        self.0.let_go(call.step_key());
        Ok(())
    }
}

fn trip(hotel: &Hotel) -> TccTransaction<Trip, Tx> {
    let held = Duration::from_mins(5);
    TccTransaction::new("trip", 1).deadline(held).branch(Seat).branch(Bed(hotel.clone())).build()
}

pub async fn run() -> anyhow::Result<()> {
    let hotel = Hotel::default();
    let app = App::on(MemoryBackend::new()).aggregate::<Flight>().tcc(trip(&hotel)).start().await?;
    let book = async |number: u32| {
        let trip = Trip { number, flight: FlightId::from("es-1") };
        app.run_tcc(&format!("trip-{number}"), trip).await
    };
    assert_eq!(book(1).await?, Outcome::Completed);
    // There is a seat, and no room: the seat is let go.
    assert_eq!(book(2).await?.to_string(), "undone: bed was refused: no room is left");
    // The same request again is the same trip.
    assert_eq!(book(1).await?, Outcome::Completed);

    let flight = app.load::<Flight>(&FlightId::from("es-1")).await?.map(|flight| (flight.held.len(), flight.taken.len()));
    assert_eq!(flight, Some((0, 1)));
    assert_eq!(hotel.rooms().values().filter(|room| **room == Room::Taken).count(), 1);
    crate::say("two seats and one room: one trip, and nothing is held");
    Ok(())
}
