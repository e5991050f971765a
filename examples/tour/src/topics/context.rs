//! A handler reads no clock and no session: it takes `&Context`. The handler is `Account::close`.

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::testing::TestClock;
use tour::domain::{Account, AccountError, AccountEvent, AccountId, Close, Closed, Open};

pub async fn run() -> anyhow::Result<()> {
    let clock = TestClock::default();
    let app = App::on(MemoryBackend::new()).clock(clock).aggregate::<Account>().start().await?;
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;

    // The sender says who asks, and for whom.
    let nobody = app.send(&ada, Close).await.expect_err("nobody asked");
    assert_eq!(nobody.refusal(), Some(&AccountError::Anonymous));
    let elsewhere = app.send(&ada, Close).actor("teller 7").tenant("north").await.expect_err("not theirs");
    assert_eq!(elsewhere.refusal(), Some(&AccountError::OtherBranch));

    let done = app.send(&ada, Close).actor("teller 7").tenant("main street").await?;
    let closed = Closed { at: es_core::testing::epoch(), by: "teller 7".to_owned() };
    assert_eq!(done.events, [AccountEvent::Closed(closed.clone())]);

    crate::say(format!("closed by {} at {}", closed.by, closed.at));
    Ok(())
}
