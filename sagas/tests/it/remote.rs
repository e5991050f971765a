//! Steps that call a server, which answers as it was told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use es_core::memory::{MemoryBackend, Tx};
use es_core::{App, BoxError};
use sagas::saga::{
    Call, Cx, OrRetry as _, Outcome, Ran, Remote, Reply, Retry, Saga, SagaApp as _, SagaInput, Sagas as _,
    Step, StepError, Undo, Why,
};
use sagas::tcc::{TccApp as _, TccTransaction, Tccs as _, tcc};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

#[derive(Serialize, Deserialize)]
struct Order {}
impl SagaInput for Order {}

/// A client, and the address of the server.
#[derive(Clone)]
struct Server {
    client: reqwest::Client,
    url: String,
    desk: Arc<Desk>,
}

#[derive(Default)]
struct Desk {
    /// What is answered next, in order; then 200 and `7`.
    answers: Mutex<VecDeque<(u16, String)>>,
    /// What came: the path, and the key.
    came: Mutex<Vec<(String, String)>>,
}

impl Server {
    /// Which drops so many connections first.
    async fn start(drops: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let desk = Arc::<Desk>::default();
        let of = |path: &'static str| {
            post(move |State(desk): State<Arc<Desk>>, headers: HeaderMap| async move {
                desk.answer(path, &headers)
            })
        };
        let router = Router::new().route("/reserve", of("reserve")).route("/free", of("free"));
        let router = router.route("/charge", of("charge")).with_state(desk.clone());
        tokio::spawn(async move {
            for _ in 0..drops {
                drop(listener.accept().await.unwrap());
            }
            axum::serve(listener, router).await.unwrap();
        });
        Self { client: reqwest::Client::new(), url, desk }
    }

    fn answers(&self, answers: &[(u16, &str)]) {
        let answers = answers.iter().map(|(status, body)| (*status, (*body).to_owned()));
        self.desk.answers.lock().unwrap().extend(answers);
    }

    fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.post(format!("{}/{path}", self.url))
    }

    /// What came, each with its key.
    fn came(&self) -> Vec<(String, String)> {
        self.desk.came.lock().unwrap().clone()
    }

    async fn run(&self) -> Outcome {
        let saga: Saga<Order, Tx> =
            Saga::new("order", 1).step(Reserve(self.clone())).pivot(Charge(self.clone())).build();
        let app = App::on(MemoryBackend::new()).saga(saga).start().await.unwrap();
        let outcome = app.run_saga("a", Order {}).await.unwrap();
        assert!(app.shutdown(Duration::from_secs(10)).await);
        outcome
    }
}

impl Desk {
    fn answer(&self, path: &str, headers: &HeaderMap) -> (StatusCode, String) {
        let key = headers["idempotency-key"].to_str().unwrap().to_owned();
        self.came.lock().unwrap().push((path.to_owned(), key));
        let answer = self.answers.lock().unwrap().pop_front();
        let (status, body) = answer.unwrap_or_else(|| (200, "7".to_owned()));
        (StatusCode::from_u16(status).unwrap(), body)
    }
}

fn retry() -> Retry {
    Retry::default().pauses(Duration::from_millis(1), Duration::from_millis(1))
}

struct Reserve(Server);

impl Step<Order> for Reserve {
    const NAME: &'static str = "reserve";
    type Needs = ();
    type Output = u32;
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, _: Cx<'_, Order, ()>, call: &mut Call) -> Result<u32, StepError<String>> {
        call.send(self.0.post("reserve")).await.and_then(|reply| reply.json()).or_retry()
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

impl Undo<Order> for Reserve {
    async fn undo(&self, _: Cx<'_, Order, ()>, ran: Ran<u32>, call: &mut Call) -> Result<(), BoxError> {
        assert_eq!(ran, Ran::Yes(7));
        call.send(self.0.post("free")).await?;
        Ok(())
    }
}

struct Charge(Server);

impl Step<Order> for Charge {
    const NAME: &'static str = "charge";
    type Needs = (Reserve,);
    type Output = ();
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Order, (Reserve,)>, call: &mut Call) -> Result<(), StepError<String>> {
        assert_eq!(cx.needs, (7,));
        let declined = |reply: &Reply| {
            (reply.status() == 402).then(|| String::from_utf8_lossy(reply.body()).into_owned())
        };
        call.send_or_refuse(self.0.post("charge"), declined).await?;
        Ok(())
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

#[tokio::test]
async fn a_call_is_repeated_under_its_key_until_there_is_an_answer() {
    let server = Server::start(1).await;
    server.answers(&[
        (503, "later"),
        (200, "no number"),
        (409, "it is being worked on"),
        (200, "7"),
        (500, ""),
    ]);
    assert_eq!(server.run().await, Outcome::Completed);
    let came = server.came();
    let paths: Vec<_> = came.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["reserve", "reserve", "reserve", "reserve", "charge", "charge"]);
    let keys =
        |path: &str| came.iter().filter(|(of, _)| of == path).map(|(_, key)| key.clone()).collect::<Vec<_>>();
    for step in ["reserve", "charge"] {
        let keys = keys(step);
        assert!(
            keys.iter().all(|key| *key == keys[0]
                && key.starts_with("order/")
                && key.ends_with(&format!("/{step}"))),
            "{keys:?}"
        );
    }
}

#[tokio::test]
async fn only_what_the_step_says_is_a_refusal_is_one() {
    let server = Server::start(0).await;
    server.answers(&[(200, "7"), (402, "declined"), (500, ""), (404, "")]);
    let outcome = server.run().await;
    let Outcome::Undone(Why::Refused { step, why }) = &outcome else { panic!("{outcome}") };
    assert_eq!((step.as_str(), why.as_str()), ("charge", "declined"));
    let came = server.came();
    let paths: Vec<_> = came.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["reserve", "charge", "free", "free", "free"]);
    assert!(came[2].1.ends_with("/reserve/undo") && came[2].1 == came[4].1, "{came:?}");
}

struct Hold(Server);

#[tcc(name = "hold", retry = retry())]
impl Hold {
    async fn reserve(&self, _: Cx<'_, Order>, call: &mut Call) -> Result<u32, StepError<String>> {
        let sold_out = |reply: &Reply| (reply.status() == 410).then(|| "sold out".to_owned());
        let reply = call.send_or_refuse(self.0.post("reserve"), sold_out).await?;
        reply.json().or_retry()
    }

    async fn confirm(&self, _: Cx<'_, Order>, held: u32, call: &mut Call) -> Result<(), BoxError> {
        assert_eq!(held, 7);
        call.send(self.0.post("charge")).await.map(drop)
    }

    async fn cancel(&self, _: Cx<'_, Order>, held: Ran<u32>, call: &mut Call) -> Result<(), BoxError> {
        assert_eq!(held, Ran::Maybe);
        call.send(self.0.post("free")).await.map(drop)
    }
}

async fn hold(server: &Server) -> Outcome {
    let tcc: TccTransaction<Order, Tx> = TccTransaction::new("order", 1).branch(Hold(server.clone())).build();
    let app = App::on(MemoryBackend::new()).tcc(tcc).start().await.unwrap();
    let outcome = app.run_tcc("a", Order {}).await.unwrap();
    assert!(app.shutdown(Duration::from_secs(10)).await);
    outcome
}

#[tokio::test]
async fn the_calls_of_a_branch_have_a_key_each() {
    let server = Server::start(0).await;
    server.answers(&[(500, ""), (200, "7"), (500, "")]);
    assert_eq!(hold(&server).await, Outcome::Completed);
    let came = server.came();
    let paths: Vec<_> = came.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["reserve", "reserve", "charge", "charge"]);
    let key = &came[0].1;
    assert!(key.starts_with("tcc.order/") && key.ends_with("/hold") && came[1].1 == *key, "{came:?}");
    assert!(came[2].1 == format!("{key}/confirm") && came[3].1 == came[2].1, "{came:?}");
    // A refusal of a repetition says nothing of the first call.
    let server = Server::start(0).await;
    server.answers(&[(500, ""), (410, "")]);
    assert!(matches!(hold(&server).await, Outcome::Undone(Why::Refused { .. })));
    let (path, key) = server.came().pop().unwrap();
    assert!(path == "free" && key.ends_with("/hold/undo"), "{path}: {key}");
}
