//! Messages over HTTP, to a server that answers as it was told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use es_core::App;
use es_core::memory::MemoryBackend;
use sagas::message::{Envelope, MEDIA_TYPE, Publishing as _};
use sagas::relay::{HttpPublisher, PublishError, Publisher as _, Relays as _, TopicMessages};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// An answer: its status, and a header.
type Answer = (u16, Option<(&'static str, &'static str)>);

#[derive(Default)]
struct Desk {
    /// What is answered next, in order; then 204.
    answers: Mutex<VecDeque<Answer>>,
    /// Keys whose messages are refused.
    refuses: Mutex<Vec<String>>,
    came: Mutex<Vec<(HeaderMap, Envelope)>>,
    /// How many may be answered, if not all.
    permits: Option<Semaphore>,
}

impl Desk {
    fn n(&self) -> usize {
        self.came.lock().unwrap().len()
    }
}

async fn receive(State(desk): State<Arc<Desk>>, headers: HeaderMap, body: Bytes) -> Response {
    let message: Envelope = serde_json::from_slice(&body).unwrap();
    let is_refused = desk.refuses.lock().unwrap().contains(message.partitionkey.as_ref().unwrap());
    desk.came.lock().unwrap().push((headers, message));
    if let Some(permits) = &desk.permits {
        permits.acquire().await.unwrap().forget();
    }
    if is_refused {
        return (StatusCode::BAD_REQUEST, "no such customer").into_response();
    }
    let answer = desk.answers.lock().unwrap().pop_front();
    let Some((status, header)) = answer else { return StatusCode::NO_CONTENT.into_response() };
    let status = StatusCode::from_u16(status).unwrap();
    header.map_or_else(|| (status, "why").into_response(), |header| (status, [header], "why").into_response())
}

/// A server, and a publisher to it. It drops so many connections first.
async fn serve(desk: Desk, drops: usize) -> (Arc<Desk>, HttpPublisher) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/messages", listener.local_addr().unwrap());
    let desk = Arc::new(desk);
    let router = Router::new().route("/messages", post(receive)).with_state(desk.clone());
    tokio::spawn(async move {
        for _ in 0..drops {
            drop(listener.accept().await.unwrap());
        }
        axum::serve(listener, router).await.unwrap();
    });
    (desk, HttpPublisher::new(url).unwrap())
}

fn message(key: &str) -> Envelope {
    let mut message = Envelope::new(format!("{key}/id"), "/here", "told", json!({"a": 1}));
    message.partitionkey = Some(key.to_owned());
    message
}

/// What became of a message: `taken`, or the error with its cause.
async fn became(publisher: &HttpPublisher) -> String {
    match publisher.publish(&message("k")).await {
        Ok(()) => "taken".to_owned(),
        Err(PublishError::Unavailable(why)) => format!("unavailable: {why}"),
        Err(PublishError::Refused(why)) => format!("refused: {why}"),
    }
}

#[tokio::test]
async fn each_answer_means_what_the_table_says() {
    let (desk, publisher) = serve(Desk::default(), 0).await;
    for status in [200_u16, 202, 204] {
        desk.answers.lock().unwrap().push_back((status, None));
        assert_eq!(became(&publisher).await, "taken", "{status}");
    }
    for status in [400_u16, 403, 404, 409, 410, 413, 422] {
        desk.answers.lock().unwrap().push_back((status, None));
        let became = became(&publisher).await;
        assert!(became.starts_with(&format!("refused: {status}")) && became.ends_with(": why"), "{became}");
    }
    let elsewhere = Some(("location", "http://127.0.0.1:1/elsewhere"));
    for status in [401_u16, 408, 425, 429, 500, 502, 503, 504, 302, 308] {
        desk.answers.lock().unwrap().push_back((status, elsewhere));
        let became = became(&publisher).await;
        assert!(became.starts_with(&format!("unavailable: {status}")), "{became}");
    }
    assert_eq!(desk.n(), 3 + 7 + 10, "each was asked once");
    let (headers, came) = desk.came.lock().unwrap()[0].clone();
    assert_eq!(headers["content-type"], MEDIA_TYPE);
    assert_eq!(headers["idempotency-key"], "k/id");
    assert_eq!(came, message("k"));
}

#[tokio::test]
async fn what_is_not_there_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let publisher = HttpPublisher::new(format!("http://{address}/")).unwrap();
    assert!(became(&publisher).await.starts_with("unavailable: "));
    assert!(HttpPublisher::new("nowhere").is_err());
    assert_eq!(HttpPublisher::new("https://127.0.0.1/").is_ok(), cfg!(feature = "https"));
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_pause_is_left_alone() {
    let date = Some(("retry-after", "Wed, 21 Oct 2099 07:28:00 GMT"));
    for pause in [Some(("retry-after", "120")), date] {
        let (desk, publisher) = serve(Desk::default(), 0).await;
        desk.answers.lock().unwrap().push_back((429, pause));
        assert!(became(&publisher).await.starts_with("unavailable: 429"));
        let why = became(&publisher).await;
        assert!(why.starts_with("unavailable: it asked for a pause") && desk.n() == 1, "{why}");
    }
}

#[tokio::test]
async fn after_failures_one_message_at_a_time_finds_out() {
    let (desk, publisher) = serve(Desk { permits: Some(Semaphore::new(3)), ..Desk::default() }, 0).await;
    desk.answers.lock().unwrap().extend([(503, None); 3]);
    for _ in 0..3 {
        assert!(became(&publisher).await.starts_with("unavailable: 503"));
    }
    let probe = tokio::spawn({
        let publisher = publisher.clone();
        async move { became(&publisher).await }
    });
    while desk.n() < 4 {
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        assert!(became(&publisher).await.contains("another message finds out"));
    }
    assert_eq!(desk.n(), 4);
    desk.permits.as_ref().unwrap().add_permits(100);
    assert_eq!(probe.await.unwrap(), "taken");
    assert_eq!(became(&publisher).await, "taken");
}

#[tokio::test]
async fn a_relay_goes_through_all_of_that_and_nothing_is_lost() {
    let (desk, publisher) = serve(Desk::default(), 2).await;
    desk.answers.lock().unwrap().extend([(503, None), (429, None), (500, None), (200, None), (503, None)]);
    desk.refuses.lock().unwrap().push("t3".to_owned());
    let app = App::on(MemoryBackend::new()).relay(TopicMessages::of("transfers"), publisher);
    let app =
        app.processor_retries(2, Duration::from_millis(1), Duration::from_millis(5)).start().await.unwrap();
    for n in 0..20 {
        app.publish("transfers", &format!("t{}", n % 5), &n).unwrap().await.unwrap();
    }
    let relay = &app.processors()[0];
    relay.reach(es_core::store::Position(20), Duration::from_secs(60)).await.unwrap();
    let parked = relay.parked(None, 10).await.unwrap();
    assert_eq!(parked.iter().map(|parked| &*parked.key).collect::<Vec<_>>(), ["t3"]);
    assert!(parked[0].error.contains("400 Bad Request: no such customer"), "{}", parked[0].error);
    desk.refuses.lock().unwrap().clear();
    relay.retry("t3", Duration::from_secs(60)).await.unwrap();
    let mut by_key = BTreeMap::<String, Vec<u64>>::new();
    for (_, message) in &*desk.came.lock().unwrap() {
        let of_key = by_key.entry(message.partitionkey.clone().unwrap()).or_default();
        of_key.push(message.data.as_u64().unwrap());
        of_key.dedup();
    }
    for (key, came) in by_key {
        let first: u64 = key[1..].parse().unwrap();
        assert_eq!(came, [first, first + 5, first + 10, first + 15], "{key}");
    }
    app.shutdown(Duration::from_secs(10)).await;
}
