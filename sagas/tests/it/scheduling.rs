//! What is said to who schedules what cannot be sent.

use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::store::{SnapshotStore as _, StreamId, Version};
use es_core::testing::given;
use es_core::{App, Timestamp};
use sagas::schedule::{CallOff, CalledOff, Plan, PlanError, PlanEvent, Planned, Plans};
use sagas::{Processes as _, Schedule, Schedules as _};
use serde_json::{Value, json};

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
    let backend = MemoryBackend::new();
    let start = || App::on(backend.clone()).aggregate::<Account>().process::<Schedule>().start();
    let app = start().await.unwrap();
    for n in 0..1_000 {
        app.schedule(far, &ada, deposit()).named(n.to_string()).owned_by("ada").await.unwrap();
    }
    app.shutdown(Duration::from_secs(60)).await;
    // The next program does not fold all that was ever planned.
    let kept = backend.snapshot(&StreamId::new("schedule-ada").unwrap()).await.unwrap().unwrap();
    assert!(kept.version >= Version(200), "{kept:?}");
    let app = start().await.unwrap();
    let plan = |name: &str| app.schedule(far, &ada, deposit()).named(name).owned_by("ada");
    let error = plan("more").await.unwrap_err();
    assert!(es_core::chain(&error).contains("1000 commands are planned for this owner"), "{error}");
    plan("7").await.unwrap();
    app.call_off_all("ada").await.unwrap();
    plan("more").await.unwrap();
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn plan(name: &str, due: i64) -> Value {
    let command = json!({ "aggregate": "a", "id": "i", "name": "c", "payload": {} });
    json!({ "name": name, "at": at(due), "command": command })
}

/// One each second, due so much later.
fn each_second(n: i64, later: i64) -> Vec<PlanEvent> {
    let planned = |second: i64| {
        let mut planned = plan(&format!("p{second}"), second + later);
        planned["since"] = json!(at(second));
        PlanEvent::Planned(serde_json::from_value::<Planned>(planned).unwrap())
    };
    (0..n).map(planned).collect()
}

#[test]
fn a_command_that_is_too_large_is_not_planned() {
    let mut plan = plan("large", 9_000);
    plan["command"]["payload"] = json!({ "text": "x".repeat(300_000) });
    let plan = serde_json::from_value::<Plan>(plan).unwrap();
    given::<Plans>(Vec::<PlanEvent>::new()).at(at(1)).when(plan).then_error(PlanError::TooLarge(300_011));
}

#[test]
fn what_is_over_does_not_count_as_planned() {
    let another = || serde_json::from_value::<Plan>(plan("another", 9_000)).unwrap();
    let call_off = |name: &str| serde_json::from_value::<CallOff>(json!({ "name": name })).unwrap();
    let off = |name: &str| serde_json::from_value::<CalledOff>(json!({ "names": [name] })).unwrap();
    given::<Plans>(each_second(3_000, 1)).at(at(3_001)).when(another()).outcome().unwrap();
    // The latest are known, and can still be called off.
    given::<Plans>(each_second(3_000, 1))
        .at(at(3_001))
        .when(call_off("p2500"))
        .then(PlanEvent::CalledOff(off("p2500")));
    given::<Plans>(each_second(3_000, 1)).at(at(3_001)).when(call_off("p100")).then_nothing();
    given::<Plans>(each_second(1_000, 5_000)).at(at(1_000)).when(another()).then_error(PlanError::TooMany);
    given::<Plans>(each_second(1_000, 5_000)).at(at(5_000)).when(another()).outcome().unwrap();
}
