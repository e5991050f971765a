//! Effects outside: a mail for each new account. At least once, in order, and not again in a rebuild.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::store::EventId;
use tour::domain::{AccountId, Open, Opened};

/// A client of the mail server. It is out of order for the first mail.
#[derive(Clone, Default)]
struct Mailer(Arc<Mutex<Outbox>>);

#[derive(Default)]
struct Outbox {
    tries: u32,
    sent: Vec<(EventId, String)>,
}

impl Mailer {
    async fn send(&self, key: EventId, text: String) -> Result<(), std::io::Error> {
        let mut outbox = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outbox.tries += 1;
        if outbox.tries == 1 {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        if outbox.sent.iter().all(|(sent, _)| *sent != key) {
            outbox.sent.push((key, text));
        }
        Ok(())
    }
}

struct Welcome;

#[reactor(name = "welcome")]
impl Welcome {
    /// A crash between the mail and the note that it was sent repeats it: the event's id tells the other side.
    async fn opened(&self, e: Recorded<'_, Opened>, mailer: &Mailer) -> Result<(), std::io::Error> {
        mailer.send(e.id(), format!("welcome, {}", e.owner)).await
    }
}

pub async fn run() -> anyhow::Result<()> {
    let mailer = Mailer::default();
    let backend = MemoryBackend::new();

    // What happened before a reactor first ran is none of its business.
    let before = App::on(backend.clone()).start().await?;
    before.send(&AccountId::from("old"), Open { owner: "an old friend".to_owned() }).await?;

    let app = App::on(backend).provide(mailer.clone()).reactor(Welcome).start().await?;
    app.send(&AccountId::from("ada"), Open { owner: "Ada".to_owned() }).await?;
    app.send(&AccountId::from("bob"), Open { owner: "Bob".to_owned() }).await?;

    // The first try failed. It is tried again with growing waits, and what comes after it waits too.
    app.settle(Duration::from_secs(5)).await?;
    let outbox = mailer.0.lock().unwrap_or_else(PoisonError::into_inner);
    let sent: Vec<&str> = outbox.sent.iter().map(|(_, text)| &**text).collect();
    assert_eq!((outbox.tries, &sent[..]), (3, &["welcome, Ada", "welcome, Bob"][..]));
    crate::say(format!("{sent:?} in {} tries", outbox.tries));
    Ok(())
}
