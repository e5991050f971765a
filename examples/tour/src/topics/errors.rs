//! Every error says what the caller can do: match on the kind, and on the variant where you know better.

use std::time::Duration;

use es_core::ErrorKind;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use tour::domain::{AccountError, AccountId, Close, Deposit, Open, Withdraw};

/// At the edge of a program. Over HTTP each would be a status.
fn what_to_do(error: &CommandError<AccountError>) -> &'static str {
    match error.kind() {
        ErrorKind::Refused => "tell the user",
        ErrorKind::Conflict => "load again, decide again",
        ErrorKind::Transient => "try again later",
        ErrorKind::Unknown => "send it again under the same idempotency key, or look",
        ErrorKind::Corrupt => "stop: a person has to look at what is stored",
        ErrorKind::Misuse => "fix the code or the input",
        // Open, for kinds to come.
        _ => "log it",
    }
}

pub async fn run() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).start().await?;
    let ada = AccountId::from("ada");
    let open = || Open { owner: "Ada".to_owned() };

    let error = app.send(&ada, Deposit { amount: 1 }).await.expect_err("nobody opened it");
    assert!(matches!(error, CommandError::NotFound { .. }));
    app.send(&ada, open()).await?;
    let error = app.send(&ada, open()).await.expect_err("it is open");
    assert!(matches!(error, CommandError::AlreadyExists { .. }));

    // The domain's own error comes back as it is.
    let error = app.send(&ada, Withdraw { amount: 1 }).await.expect_err("it is empty");
    assert_eq!(error.refusal(), Some(&AccountError::Overdrawn { balance: 0 }));
    assert_eq!(what_to_do(&error), "tell the user");
    // `Display` is one clause without its source; `chain` is the whole story, for a log line.
    assert_eq!(
        (error.to_string(), es_core::chain(&error)),
        ("refused".into(), "refused: only 0 left".into())
    );

    let error =
        app.send(&ada, Deposit { amount: 1 }).expect_version(Version(7)).await.expect_err("not there");
    assert_eq!(what_to_do(&error), "load again, decide again");
    let error = app.send(&AccountId::from(""), open()).await.expect_err("no name");
    assert_eq!(what_to_do(&error), "fix the code or the input");

    // `Apply::ended` says that an aggregate takes no more commands.
    app.send(&ada, Close).actor("Ada").await?;
    let error = app.send(&ada, Deposit { amount: 1 }).await.expect_err("it is closed");
    assert!(matches!(error, CommandError::Ended { .. }));

    app.shutdown(Duration::from_secs(1)).await;
    let error = app.send(&ada, Deposit { amount: 1 }).await.expect_err("the app has ended");
    assert_eq!(what_to_do(&error), "try again later");
    crate::say(format!("{error}: {}", what_to_do(&error)));
    Ok(())
}
