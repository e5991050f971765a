//! Stored events never change. The enum of today says how each old shape is read.

use std::sync::Arc;

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::store::{Append, Commit, EventFilter, ExpectedVersion, NewEvent, StreamId, read_all};
use serde::{Deserialize, Serialize};

/// What the program of last year stored. Only the payloads with another shape have to stay.
mod last_year {
    use es_core::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(super) struct Posted {
        pub(super) to: String,
    }
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(super) struct Scaled(pub(super) u32);
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(super) struct Moved(pub(super) String, pub(super) String);
    #[derive(Clone, Debug, Serialize, Deserialize)]
    pub(super) struct LookedAt;

    #[derive(Event, Clone, Debug)]
    #[event(prefix = "parcel")]
    pub(super) enum ParcelEvent {
        Posted(Posted),
        Scaled(Scaled),
        Moved(Moved),
        LookedAt(LookedAt),
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Posted {
    to: String,
    express: bool,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Weighed(u32);
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Left(String);
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Arrived(String);

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "parcel", retired("parcel.moved" = last_year::Moved, "parcel.looked_at" = last_year::LookedAt))]
enum ParcelEvent {
    #[event(version = 2, upcast(1 = last_year::Posted))] // a field more
    Posted(Posted),
    #[event(was("parcel.scaled"))] // a new name
    Weighed(Weighed),
    Left(Left),
    Arrived(Arrived),
}

impl From<last_year::Posted> for Posted {
    fn from(old: last_year::Posted) -> Self {
        Self { to: old.to, express: false }
    }
}

/// One became two.
impl From<last_year::Moved> for Vec<ParcelEvent> {
    fn from(old: last_year::Moved) -> Self {
        vec![Left(old.0).into(), Arrived(old.1).into()]
    }
}

/// One means nothing any more.
impl From<last_year::LookedAt> for Vec<ParcelEvent> {
    fn from(_: last_year::LookedAt) -> Self {
        Self::new()
    }
}

pub async fn run() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).start().await?;
    let text = |text: &str| text.to_owned();
    let old: [last_year::ParcelEvent; 4] = [
        last_year::Posted { to: text("Bob") }.into(),
        last_year::Scaled(500).into(),
        last_year::LookedAt.into(),
        last_year::Moved(text("Bonn"), text("Bern")).into(),
    ];
    let stored =
        |event: &last_year::ParcelEvent| Ok(NewEvent::new(app.new_id(), event.encode()?, Arc::default()));
    let events = old.iter().map(stored).collect::<anyhow::Result<_>>()?;
    let append = Append { stream: StreamId::new("parcel-1")?, expected: ExpectedVersion::NoStream, events };
    app.store().commit(Commit { appends: vec![append], ..Commit::default() }).await?;

    // Whoever reads (aggregates, views, projections, reactors, decisions) gets the events of today.
    let mut today = Vec::new();
    for event in app.store().stream(&StreamId::new("parcel-1")?, Version(0), 10).await? {
        today.extend(ParcelEvent::decode(&event)?);
    }
    let expected: [ParcelEvent; 4] = [
        Posted { to: text("Bob"), express: false }.into(),
        Weighed(500).into(),
        Left(text("Bonn")).into(),
        Arrived(text("Bern")).into(),
    ];
    assert_eq!(today, expected);
    // A filter knows the old names, and every retired one: those could mean anything.
    let mut weights = read_all(app.store(), &EventFilter::of::<Weighed>(), Position(0)).await?.events;
    weights.retain(|event| matches!(event.payload::<Weighed>(), Ok(Some(_))));
    assert_eq!(&*weights[0].name, "parcel.scaled");
    crate::say(format!("{} stored last year are {} today", old.len(), today.len()));
    Ok(())
}
