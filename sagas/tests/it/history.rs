//! What came to an instance, for people.

use std::time::Duration;

use es_core::App;
use es_core::memory::MemoryBackend;
use es_core::testing::TestClock;
use sagas::{Came, InputStatus, Instances, Life, Processes as _};

use crate::bank::{Account, Deposit, LIMIT, NOBODY, Open, Request, Requested, Transfer};

/// The history of an instance, once it has ended.
async fn ended(instances: &Instances, key: &str) -> Vec<InputStatus> {
    let ended = async {
        while instances.get(key).await.unwrap().is_none_or(|instance| instance.life != Life::Ended) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it ends");
    instances.history(key).await.unwrap()
}

fn sent(input: &InputStatus) -> Vec<&str> {
    input.sends.iter().map(|command| command.name.as_str()).collect()
}

#[tokio::test]
async fn each_input_is_shown_with_what_it_sent_and_the_timers_after_it() {
    let clock = TestClock::default();
    let backend = MemoryBackend::with_clock(clock.clone());
    let app = App::on(backend.clone()).clock(clock.clone()).aggregate::<Account>().process::<Transfer>();
    let app = app.start().await.unwrap();
    for id in ["ada", "bob"].map(str::to_owned) {
        app.send(&id, Open { owner: id.clone() }).await.unwrap();
    }
    app.send(&"ada".to_owned(), Deposit { amount: 9, transfer: None }).await.unwrap();
    for (id, from, amount) in [("paid", "ada", 9), ("poor", "bob", 99), ("late", NOBODY, 1)] {
        let [id, from, to] = [id, from, "bob"].map(str::to_owned);
        app.send(&id.clone(), Request(Requested { id, from, to, amount })).await.unwrap();
    }
    let instances = Instances::of::<Transfer>(backend).unwrap();

    let paid = ended(&instances, "paid").await;
    assert_eq!(
        paid.iter().map(|input| &input.input.came).collect::<Vec<_>>(),
        [&Came::Event(paid[0].position), &Came::Event(paid[1].position)]
    );
    assert_eq!((sent(&paid[0]), sent(&paid[1])), (vec!["withdraw"], vec!["deposit", "publish"]));
    assert_eq!(paid[0].timers["expired"], paid[0].input.at.unwrap().checked_add(LIMIT).unwrap());
    assert!(paid[1].timers.is_empty() && paid[0].position < paid[1].position, "{paid:?}");

    let poor = ended(&instances, "poor").await;
    let Came::Refused(refused) = &poor[1].input.came else { panic!("{poor:?}") };
    assert_eq!((refused.command.name.as_str(), sent(&poor[1])), ("withdraw", vec![]));

    while instances.get("late").await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    clock.advance(LIMIT);
    let late = ended(&instances, "late").await;
    assert_eq!(late[1].input.came, Came::Timer("expired".to_owned()));
    assert!(late[1].timers.is_empty() && late.iter().all(|input| !input.waits), "{late:?}");

    assert_eq!(instances.history("nobody").await.unwrap(), []);
    app.shutdown(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn what_waits_for_a_parked_instance_is_shown_as_waiting() {
    let backend = MemoryBackend::new();
    let app = App::on(backend.clone()).aggregate::<Account>().process::<Transfer>().start().await.unwrap();
    let [id, from, to] = ["bad", "ada", "bob"].map(str::to_owned);
    app.send(&id, Request(Requested { id: id.clone(), from, to, amount: -1 })).await.unwrap();
    let instances = Instances::of::<Transfer>(backend).unwrap();
    let parked = async {
        while instances.get("bad").await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), parked).await.expect("it comes");
    let history = instances.history("bad").await.unwrap();
    assert_eq!(history.len(), 1);
    assert!(history[0].waits && history[0].sends.is_empty(), "{history:?}");
    app.shutdown(Duration::from_secs(60)).await;
}
