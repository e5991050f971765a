//! What is said to who schedules what cannot be sent.

use es_core::memory::MemoryBackend;
use es_core::{App, Timestamp};
use sagas::{Processes as _, Schedule, Schedules as _};

use crate::bank::{Account, Deposit};

fn deposit() -> Deposit {
    Deposit { amount: 5, transfer: None }
}

#[tokio::test]
async fn what_can_never_be_sent_is_refused_at_once() {
    let ada = "ada".to_owned();
    let app = App::on(MemoryBackend::new()).aggregate::<Account>().start().await.unwrap();
    let error = app.schedule(Timestamp::UNIX_EPOCH, &ada, deposit()).await.unwrap_err();
    assert!(error.to_string().contains("add `.process::<sagas::Schedule>()`"), "{error}");

    let app = App::on(MemoryBackend::new()).process::<Schedule>().start().await.unwrap();
    let error = app.schedule(Timestamp::UNIX_EPOCH, &ada, deposit()).await.unwrap_err();
    assert!(error.to_string().starts_with("no command \"deposit\" of aggregate \"account\""), "{error}");

    let app = App::on(MemoryBackend::new()).aggregate::<Account>().process::<Schedule>();
    let app = app.start().await.unwrap();
    for name in ["", "a/b", "a\0b", &"x".repeat(300)] {
        let error = app
            .schedule(Timestamp::UNIX_EPOCH, &ada, deposit())
            .named(name)
            .owned_by("ada")
            .await
            .unwrap_err();
        let shown = es_core::chain(&error);
        assert!(shown.contains("cannot name what is scheduled"), "{shown}");
    }
}

#[tokio::test]
async fn an_owner_plans_no_more_than_fits() {
    let (ada, far) = ("ada".to_owned(), Timestamp::MAX);
    let app = App::on(MemoryBackend::new()).aggregate::<Account>().process::<Schedule>();
    let app = app.start().await.unwrap();
    for n in 0..1_000 {
        app.schedule(far, &ada, deposit()).named(n.to_string()).owned_by("ada").await.unwrap();
    }
    let plan = |name: &str| app.schedule(far, &ada, deposit()).named(name).owned_by("ada");
    let error = plan("more").await.unwrap_err();
    assert!(es_core::chain(&error).contains("1000 commands are planned for this owner"), "{error}");
    plan("7").await.unwrap();
    app.call_off_all("ada").await.unwrap();
    plan("more").await.unwrap();
}
