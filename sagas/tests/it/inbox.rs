//! Inboxes over HTTP: what a sender is answered, and what is asked of its log.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use es_core::BoxError;
use es_core::memory::{MemoryBackend, Tx};
use es_core::store::{Table, write_rows};
use sagas::message::inbox::{Answer, Busy, Consumer, Inbox, Lane, Log, Outcome, Searching};
use sagas::message::{Envelope, Sequence};
use serde_json::{Value, json};

/// Does what the type of a message says.
struct Told;

impl Consumer<Tx> for Told {
    async fn take(&self, message: &Envelope, tx: &mut Tx) -> Result<(), BoxError> {
        match &*message.r#type {
            "fails" => Err("it was told to fail".into()),
            "is busy" => Err(Busy::new("the bank does not answer").into()),
            "hangs" => std::future::pending().await,
            what => {
                if let Some(millis) = what.strip_prefix("takes ") {
                    tokio::time::sleep(Duration::from_millis(millis.parse()?)).await;
                }
                tx.put("taken", &message.id, message.data.to_string());
                Ok(())
            }
        }
    }
}

fn message(id: &str, what: &str) -> Envelope {
    Envelope::new(id, "/shop", what, json!({ "total": 12 }))
}

fn order(n: u64, what: &str) -> Envelope {
    let mut order = message(&format!("order {n}"), what);
    order.relay = Some("orders".to_owned());
    order.partitionkey = Some("a/b".to_owned());
    order.sequence = Some(n.to_string());
    order.previous = (n > 1).then(|| (n - 1).to_string());
    order
}

fn inbox() -> Inbox<MemoryBackend, Told> {
    let inbox = Inbox::new(MemoryBackend::new(), "told", Told).unwrap();
    inbox.tries(2, Duration::ZERO)
}

async fn answered(inbox: &Inbox<MemoryBackend, Told>, message: &Envelope) -> Answer {
    inbox.answer(&serde_json::to_vec(message).unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn a_sender_is_told_what_to_do() {
    let inbox = inbox();
    let mut other = message("1", "placed");
    other.data = json!("other");
    let mut long = message("2", "placed");
    long.data = json!("x".repeat(2 << 20));
    for (message, status, body) in [
        (message("1", "placed"), 200, "taken"),
        (message("1", "placed"), 200, "it came before"),
        (other, 422, "another message came under the same name before"),
        (message("", "placed"), 400, "no message: id is empty"),
        (long, 400, "no message: data makes a message of"),
        (order(3, "placed"), 409, "messages behind the beginning up to 00000000000000000002 have not come"),
        (order(1, "fails"), 202, "kept; 1 wait for an operator"),
        (order(2, "placed"), 202, "kept; 2 wait for an operator"),
        (message("3", "hangs"), 202, "kept; 1 wait for an operator"),
        (message("4", "is busy"), 503, "the message cannot be taken now"),
    ] {
        let answer = answered(&inbox, &message).await;
        assert_eq!(answer.status, status, "{}: {}", message.id, answer.body);
        assert!(answer.body.starts_with(body), "{}", answer.body);
        assert_eq!(answer.retry_after.is_some(), status == 503);
    }
    for body in ["", "{}", "[]", r#"{"specversion":"1.0","id":7,"source":"/","type":"t"}"#, "\u{0}"] {
        assert_eq!(inbox.answer(body.as_bytes()).await.status, 400, "{body:?}");
    }
    let deep =
        format!(r#"{{"specversion":"1.0","id":"5","source":"/","type":"t","data":{}"#, "[".repeat(100_000));
    assert_eq!(inbox.answer(deep.as_bytes()).await.status, 400);
    let waits = inbox.parked(None, 10).await.unwrap();
    let hung = waits.iter().find(|parked| parked.lane.key == "3").unwrap();
    assert_eq!(hung.attempts, 1);
    assert_eq!(hung.error, "the consumer did not end within 8s");
}

/// The log of a sender that nobody can reach.
struct NoRoute;

#[async_trait::async_trait]
impl Log for NoRoute {
    async fn behind(&self, _: &Lane, _: Option<Sequence>) -> Result<Vec<Envelope>, BoxError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_hangs_is_in_the_way_of_its_lane_alone() {
    let inbox = inbox().log(NoRoute);
    for n in 1..=11 {
        let gap = order(3, "placed");
        let waits = tokio::time::timeout(Duration::from_secs(10), answered(&inbox, &gap));
        let answer = waits.await.expect("a sender hangs up after 10 seconds");
        assert_eq!(answer.status, if n < 10 { 503 } else { 409 }, "{n}: {}", answer.body);
        let mut other = order(n, "placed");
        other.partitionkey = Some("other".to_owned());
        assert_eq!(answered(&inbox, &other).await.body, "taken");
    }
}

/// A log that has orders up to some number, and takes its time.
struct Slowly(Duration, u64);

#[async_trait::async_trait]
impl Log for Slowly {
    async fn behind(&self, _: &Lane, after: Option<Sequence>) -> Result<Vec<Envelope>, BoxError> {
        tokio::time::sleep(self.0).await;
        let orders = (1..=self.1).map(|n| order(n, if n % 3 == 2 { "hangs" } else { "placed" }));
        Ok(orders.filter(|order| order.sequence.as_deref().map(|n| n.parse().unwrap()) > after).collect())
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_message_that_hangs_is_parked_while_the_sender_waits() {
    for (millis, has) in [(0, 2), (3_000, 2), (3_990, 4)] {
        let inbox = inbox().log(Slowly(Duration::from_millis(millis), has));
        let (gap, mut answers) = (order(has + 1, "placed"), Vec::new());
        while answers.last().is_none_or(|answer: &Answer| answer.status != 202) {
            let answer = tokio::time::timeout(Duration::from_secs(10), answered(&inbox, &gap)).await;
            answers.push(answer.expect("a sender hangs up after 10 seconds"));
            // The first one is taken, the second is parked once it was the first, and those behind it are kept.
            assert!(answers.len() <= 3, "{millis} ms: {answers:?}");
        }
        let parked = inbox.parked(None, 1).await.unwrap();
        assert_eq!(parked[0].failed, Some("2".parse().unwrap()));
    }
}

/// A log with a hundred orders on a page, each of which takes long.
struct Many(u64);

#[async_trait::async_trait]
impl Log for Many {
    async fn behind(&self, _: &Lane, after: Option<Sequence>) -> Result<Vec<Envelope>, BoxError> {
        let after = after.map_or(0, |after| after.to_string().parse().unwrap());
        Ok((after + 1..=self.0.min(after + 100)).map(|n| order(n, "takes 100")).collect())
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_has_much_to_catch_up_is_set_aside_by_its_sender() {
    let inbox = inbox().log(Many(500));
    let mut rounds = 0;
    loop {
        let gap = order(501, "placed");
        let answer = tokio::time::timeout(Duration::from_secs(10), answered(&inbox, &gap)).await;
        let answer = answer.expect("a sender hangs up after 10 seconds");
        if answer.status == 200 {
            break;
        }
        assert!(answer.status == 409 || rounds > 10, "{rounds}: {answer:?}");
        rounds += 1;
    }
    assert!((10..=14).contains(&rounds), "each has taken some of them: {rounds}");
}

/// What a log does when it is asked, in turn; after that it has nothing.
struct InTurn(std::sync::Mutex<std::collections::VecDeque<Result<Vec<Envelope>, BoxError>>>);

#[async_trait::async_trait]
impl Log for InTurn {
    async fn behind(&self, _: &Lane, _: Option<Sequence>) -> Result<Vec<Envelope>, BoxError> {
        tokio::time::sleep(Duration::from_secs(3)).await;
        self.0.lock().unwrap().pop_front().unwrap_or_else(|| Ok(Vec::new()))
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_log_that_does_not_have_it_makes_a_gap() {
    let mut turns = std::collections::VecDeque::new();
    let searches = || (0..40).map(|_| Err(Searching.into()));
    turns.extend(searches());
    turns.extend((0..40).map(|_| Ok(vec![order(1, "is busy")])));
    turns.extend((0..9).map(|_| Err("the sender is away".into())));
    turns.extend(searches());
    let (inbox, mut answers) = (inbox().log(InTurn(turns.into())), Vec::new());
    while answers.last() != Some(&409) {
        answers.push(answered(&inbox, &order(2, "placed")).await.status);
        assert!(answers.len() < 200);
    }
    let (last, before) = answers.split_last().unwrap();
    assert!(before.iter().all(|status| *status == 503) && *last == 409, "{answers:?}");
    // One turn each, and then ten times nothing.
    assert_eq!(answers.len(), 40 + 40 + 9 + 40 + 10);
}

#[tokio::test(start_paused = true)]
async fn a_missing_message_that_has_less_time_than_alone_is_not_parked() {
    // The second one is begun after 3 seconds of 8.
    let turns = [Ok(vec![order(1, "takes 10"), order(2, "takes 6000")])];
    let turns = turns.into_iter().chain([Ok(vec![order(2, "takes 4500")])]);
    let inbox = inbox().log(InTurn(std::sync::Mutex::new(turns.collect())));
    let mut answers = Vec::new();
    while answers.last() != Some(&200) {
        let gap = order(3, "placed");
        let answer = tokio::time::timeout(Duration::from_secs(10), answered(&inbox, &gap)).await;
        answers.push(answer.expect("a sender hangs up after 10 seconds").status);
    }
    assert_eq!(answers, [503, 503, 200], "the last one is next, and needs no log");
    assert!(inbox.parked(None, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_guard_that_cannot_be_read_keeps_no_other_from_being_forgotten() {
    let backend = MemoryBackend::new();
    let inbox = Inbox::new(backend.clone(), "told", Told).unwrap().retention(Duration::ZERO);
    // More than are forgotten together.
    for n in 0..200 {
        assert_eq!(inbox.take(&message(&format!("damaged {n}"), "placed")).await.unwrap(), Outcome::Taken);
        // It forgets some by itself.
        damage(&backend, "inbox.guards.told").await;
    }
    for n in 0..5 {
        assert_eq!(inbox.take(&message(&n.to_string(), "placed")).await.unwrap(), Outcome::Taken);
    }
    let mut forgotten = 0;
    while forgotten < 5 {
        forgotten += inbox.forget().await.unwrap();
    }
    assert_eq!((inbox.forget().await.unwrap(), forgotten), (0, 5));
    assert_eq!(inbox.take(&message("3", "placed")).await.unwrap(), Outcome::Taken);
    assert!(inbox.take(&message("damaged 3", "placed")).await.is_err(), "it is not known to be new");
}

/// All rows of a table are damaged.
async fn damage(backend: &MemoryBackend, table: &str) {
    let table = Table::<Value>::new(table).unwrap();
    let all = table.all(backend).await.unwrap().into_iter().filter(|row| row.value != json!("?"));
    let rows = all.map(|row| table.put(&row.with(json!("?"))).unwrap()).collect();
    assert!(write_rows(backend, rows).await.unwrap().is_yes());
}

/// Fails after a while, or hangs from some call on.
struct Slow(Duration, AtomicUsize);

impl Consumer<Tx> for Slow {
    async fn take(&self, _: &Envelope, _: &mut Tx) -> Result<(), BoxError> {
        if self.1.fetch_sub(1, Ordering::Relaxed) == 0 {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(self.0).await;
        Err("the bank says no, slowly".into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_fails_slowly_is_parked_while_its_sender_waits() {
    for (millis, hangs_at, tries) in
        [(4_000, 9, 1), (3_949, 9, 2), (3_000, 1, 2), (1_000, 9, 3), (9_000, 9, 1)]
    {
        let slow = Slow(Duration::from_millis(millis), AtomicUsize::new(hangs_at));
        let inbox = Inbox::new(MemoryBackend::new(), "slow", slow).unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(10), inbox.take(&message("1", "placed"))).await;
        let outcome = answer.expect("a sender hangs up after 10 seconds").unwrap();
        assert_eq!(outcome, Outcome::Parked { waiting: 1 });
        assert_eq!(inbox.parked(None, 1).await.unwrap()[0].attempts, tries, "{millis} ms");
    }
}

#[cfg(feature = "http")]
mod http_log {
    use reqwest::Client;
    use sagas::message::inbox::HttpLog;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each request with the next of these; gives what was asked for.
    async fn sender(pages: Vec<(u16, String)>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/messages", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let mut asked = Vec::new();
            for (status, body) in pages {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let request = String::from_utf8(request).unwrap();
                asked.push(request.lines().next().unwrap().to_owned());
                let head =
                    format!("HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-length: {}", body.len());
                stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
            }
            asked
        });
        (base, asked)
    }

    fn page(messages: &[Envelope]) -> (u16, String) {
        (200, json!({ "messages": messages, "more": true }).to_string())
    }

    #[tokio::test]
    async fn what_was_missed_is_asked_for_page_by_page() {
        let all: Vec<_> = (1..=5).map(|n| order(n, "placed")).collect();
        let mut foreign = order(8, "placed");
        foreign.source = "/other".to_owned();
        let pages = vec![
            (503, String::new()),
            page(&all[..2]),
            page(&all[2..]),
            page(&[]),
            (200, "no JSON".to_owned()),
            page(&[foreign]),
        ];
        let (base, asked) = sender(pages).await;
        let inbox = inbox().log(HttpLog::new(Client::new(), &base).unwrap());
        assert_eq!(answered(&inbox, &order(5, "placed")).await.status, 503, "the sender is away");
        assert_eq!(answered(&inbox, &order(5, "placed")).await.body, "taken");
        for _ in 0..3 {
            assert_eq!(answered(&inbox, &order(8, "placed")).await.status, 503, "it has no more yet");
        }
        let after = |n: u64| format!("GET /messages/orders/a%2Fb?after={n:020} HTTP/1.1");
        let first = "GET /messages/orders/a%2Fb HTTP/1.1".to_owned();
        assert_eq!(asked.await.unwrap(), [first.clone(), first, after(2), after(5), after(5), after(5)]);
        // Nobody answers any more.
        for n in 4..=11 {
            let status = answered(&inbox, &order(8, "placed")).await.status;
            assert_eq!(status, if n < 10 { 503 } else { 409 }, "{n}");
        }
    }

    #[tokio::test]
    async fn a_search_that_was_broken_off_goes_on_where_it_was() {
        let place = |place: &str| (200, json!({ "messages": [], "more": true, "next": place }).to_string());
        let pages = vec![
            place("0~100"),
            place("0~200"),
            (503, String::new()),
            place("0~300"),
            (404, String::new()),
            page(&[order(1, "placed")]),
        ];
        let (base, asked) = sender(pages).await;
        let inbox = inbox().log(HttpLog::new(Client::new(), &base).unwrap());
        for status in [503, 503, 200] {
            assert_eq!(answered(&inbox, &order(2, "placed")).await.status, status);
        }
        let first = "GET /messages/orders/a%2Fb HTTP/1.1".to_owned();
        let after = |n: u64| format!("GET /messages/orders/a%2Fb?after=0%7E{n} HTTP/1.1");
        assert_eq!(
            asked.await.unwrap(),
            [first.clone(), after(100), after(200), after(200), after(300), first]
        );
    }
}
