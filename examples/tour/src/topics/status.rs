//! What can be seen of a processor, and a reactor that is halted until an operator resumes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::processor::ProcessorState;
use tour::domain::{AccountId, Open, Opened};

/// A mail server, on or off.
#[derive(Clone, Default)]
struct Mails(Arc<AtomicBool>);

struct Welcome;

/// Parking one mail after the other would not help while the server is off: so it stops.
#[reactor(name = "welcome", on_failure = stop)]
impl Welcome {
    async fn opened(&self, _: &Opened, mails: &Mails) -> Result<(), std::io::Error> {
        if mails.0.load(Ordering::SeqCst) { Ok(()) } else { Err(std::io::ErrorKind::ConnectionRefused.into()) }
    }
}

pub async fn run() -> anyhow::Result<()> {
    let (mails, soon) = (Mails::default(), Duration::from_millis(1));
    let app = App::on(MemoryBackend::new()).provide(mails.clone()).reactor(Welcome);
    let app = app.processor_retries(2, soon, soon).start().await?;
    let welcome = app.processors().iter().find(|processor| processor.name() == "welcome");
    let welcome = welcome.context("the reactor has a processor")?;
    let done = app.send(&AccountId::from("ada"), Open { owner: "Ada".to_owned() }).await?;

    // A status can be watched.
    let mut status = welcome.watch();
    let halted = |state: &ProcessorState| matches!(state, ProcessorState::Halted { .. });
    let still = status.wait_for(|now| halted(&now.state)).await?.clone();
    assert!(still.position < done.position);

    // For a health endpoint: what is wrong, in words.
    let health = app.health().await;
    let ill = health.ill(&still, Duration::from_secs(60)).context("it is halted")?;
    assert!(!health.is_healthy() && ill.starts_with("is halted"));
    assert_eq!(health.lag(&still), 1);

    // When the server is on again, it goes on at the event that it stopped at.
    mails.0.store(true, Ordering::SeqCst);
    welcome.resume().await?;
    welcome.wait_for(done.position, Duration::from_secs(5)).await?;
    let now = welcome.status();
    assert_eq!((now.state, now.position, now.parked), (ProcessorState::Running, done.position, 0));
    assert!(app.health().await.is_healthy());

    crate::say(format!("it {ill}; then it went on"));
    Ok(())
}
