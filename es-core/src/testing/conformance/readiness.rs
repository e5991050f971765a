//! When queries may rely on a program: P19.

use std::time::Duration;

use super::double::{Double, Line};
use super::payments::payment;
use super::versions::{LEASE, Times};
use super::{LIMIT, Subject, settle, start, store};
use crate::App;

/// How many events it is always behind at least.
const BEHIND: usize = 5;

/// P19
pub async fn an_app_becomes_ready_while_events_keep_coming<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let pay = async || {
        for _ in 0..BEHIND {
            store.put("account-a", vec![payment(1)]).await;
        }
    };
    // What is made at the first start is there then.
    assert!(start(|| App::on(store.0.clone()).view::<Times<1>>()).await.shutdown(LIMIT).await);
    pay().await;
    let line = Double::new(store.0.clone());
    line.set(Line::HoldsCommitsAfter("checkpoints", 0));
    let app = start(|| App::on(line.clone()).view::<Times<1>>().lease(LEASE)).await;
    assert!(!app.ready());
    let health = loop {
        let health = app.health().await;
        if health.head.is_ok() {
            break health;
        }
    };
    assert!(health.is_healthy(), "whoever asks whether it lives lets it go on");
    let (mut rounds, mut held) = (0, 0);
    while !app.ready() {
        if line.held() == held {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        // What it has handled is written once further events are there: it never is as far as the log.
        held = line.held();
        pay().await;
        line.set(Line::HoldsCommitsAfter("checkpoints", line.commits("checkpoints").len() + 1));
        rounds += 1;
        assert!(
            rounds < 2_000,
            "it is not ready, for events keep coming: {:?}",
            app.processors()[0].status()
        );
    }
    line.set(Line::Up);
    settle(&app).await;
}
