//! A handler that fails: its event is parked with what follows for its key, everything else goes on.

use std::time::Duration;

use anyhow::{Context as _, bail};
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::processor::WaitError;
use tour::domain::{AccountId, Deposit, Open};

const LIMIT: Duration = Duration::from_secs(5);

/// The view as it was released: not every owner has two names.
mod released {
    use es_core::prelude::*;
    use serde::{Deserialize, Serialize};
    use tour::domain::{AccountId, Deposited, Opened};

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    pub(super) struct Card {
        surname: String,
        amount: i64,
    }

    #[view(name = "card", key = AccountId)]
    impl Card {
        fn opened(&mut self, e: &Opened) -> Result<(), BoxError> {
            let (_, surname) = e.owner.split_once(' ').ok_or("an owner without a surname")?;
            surname.clone_into(&mut self.surname);
            Ok(())
        }

        fn deposited(&mut self, e: &Deposited) {
            self.amount += e.amount;
        }
    }
}

/// The same view, mended: same name, same version.
mod mended {
    use es_core::prelude::*;
    use serde::{Deserialize, Serialize};
    use tour::domain::{AccountId, Deposited, Opened};

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    pub(super) struct Card {
        pub(super) surname: String,
        pub(super) amount: i64,
    }

    #[view(name = "card", key = AccountId)]
    impl Card {
        fn opened(&mut self, e: &Opened) {
            let surname = e.owner.rsplit_once(' ').map_or(&*e.owner, |(_, surname)| surname);
            surname.clone_into(&mut self.surname);
        }

        fn deposited(&mut self, e: &Deposited) {
            self.amount += e.amount;
        }
    }
}

pub async fn run() -> anyhow::Result<()> {
    let backend = MemoryBackend::new();
    let soon = Duration::from_millis(1);
    let app = App::on(backend.clone()).view::<released::Card>().processor_retries(2, soon, soon).start().await?;
    let (plato, ada) = (AccountId::from("plato"), AccountId::from("ada"));
    app.send(&plato, Open { owner: "Plato".to_owned() }).await?;
    let done = app.send(&plato, Deposit { amount: 1 }).await?;
    app.send(&ada, Open { owner: "Ada Lovelace".to_owned() }).await?;
    let other = app.send(&ada, Deposit { amount: 2 }).await?;

    // Other keys go on. Who waits for the parked one is told why there is no use in waiting.
    app.wait_for::<released::Card>(&other, LIMIT).await?;
    let Err(WaitError::Parked { key, .. }) = app.wait_for::<released::Card>(&done, LIMIT).await else {
        bail!("plato's card is parked");
    };
    assert_eq!(key, "plato");

    // The event that failed was tried three times, and the deposit waits behind it.
    let cards = app.processor::<released::Card>()?;
    let parked = cards.parked(None, 100).await?;
    let sequence = parked.first().context("one sequence is parked")?;
    assert_eq!((&*sequence.key, sequence.events, sequence.attempts), ("plato", 2, 3));
    assert!(sequence.error.contains("an owner without a surname"));
    let events = cards.parked_events("plato", Position(0), 100).await?;
    let names: Vec<&str> = events.iter().map(|event| &*event.name).collect();
    assert_eq!(names, ["account.opened", "account.deposited"]);
    app.shutdown(LIMIT).await;

    // With the mended handler, the sequence is handled again in its order. `None`: nothing is left of it.
    let app = App::on(backend).view::<mended::Card>().start().await?;
    let cards = app.processor::<mended::Card>()?;
    assert_eq!(cards.retry("plato", LIMIT).await?, None);
    let card = app.view::<mended::Card>(&plato).await?;
    assert_eq!(card, Some(mended::Card { surname: "Plato".to_owned(), amount: 1 }));
    assert!(cards.parked(None, 100).await?.is_empty());

    // What cannot be mended is discarded, with a reason: `cards.discard(key, "a test account", LIMIT)`.
    assert!(cards.skipped().await?.is_empty());
    crate::say("plato waited, ada did not; after the retry both are there");
    Ok(())
}
