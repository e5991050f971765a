//! A payment service, as they are: it refuses, it fails, it answers late, and what stands before it repeats requests. But it
//! remembers keys.

use std::collections::BTreeSet;
use std::num::ParseIntError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use reqwest::redirect::Policy;
use tokio::net::TcpListener;

use crate::order::ledger::{Ledger, Payment};

/// For how long the shop waits for an answer that may be late: a real one would give it some seconds.
const PATIENCE: Duration = Duration::from_millis(500);
/// For how long if none is late: longer than any machine takes.
const LONG: Duration = Duration::from_secs(30);
/// Later than anybody waits for.
const LATE: Duration = Duration::from_millis(800);

/// How the service is today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It does what it is asked.
    Fine,
    /// It refuses every tenth payment, and of the requests some go wrong.
    Usual,
}

/// Whoever calls the service.
#[derive(Clone, Debug)]
pub(crate) struct Bank {
    client: reqwest::Client,
    url: String,
}

impl Bank {
    /// Starts the service on a free port; it ends with the program.
    pub(crate) async fn start(ledger: Ledger, mood: Mood) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let service = Arc::new(Service { ledger, mood, requests: AtomicU64::new(0), seen: Mutex::default() });
        let routes = Router::new().route("/accounts/{owner}/charges", post(charge));
        let routes = routes.route("/refunds", post(refund)).with_state(service);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self::at(url, if mood == Mood::Fine { LONG } else { PATIENCE })
    }

    /// For those who only look, and call nobody.
    pub(crate) fn nowhere() -> anyhow::Result<Self> {
        Self::at("http://127.0.0.1:0".to_owned(), PATIENCE)
    }

    fn at(url: String, patience: Duration) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().redirect(Policy::none()).no_proxy().timeout(patience);
        Ok(Self { client: client.build()?, url })
    }

    pub(crate) fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.post(format!("{}/{path}", self.url))
    }
}

struct Service {
    ledger: Ledger,
    mood: Mood,
    requests: AtomicU64,
    /// Keys for which something has gone wrong: not a second time.
    seen: Mutex<BTreeSet<String>>,
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// An error, before anything is done.
    Fails,
    /// The answer, once all is done.
    IsLate,
    /// What stands before the service sends it twice, at the same time.
    ComesTwice,
}

impl Service {
    fn trouble(&self, key: &str) -> Option<Trouble> {
        let is_first = || self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned());
        if self.mood == Mood::Fine || !is_first() {
            return None;
        }
        match self.requests.fetch_add(1, Ordering::Relaxed) % 15 {
            3 => Some(Trouble::Fails),
            6 | 13 => Some(Trouble::IsLate),
            9 => Some(Trouble::ComesTwice),
            _ => None,
        }
    }

    async fn pay(&self, key: &str, owner: &str, cents: i64) -> Result<Payment, sqlx::Error> {
        self.ledger.charge(key, owner, cents, |number| self.mood == Mood::Usual && number % 10 == 0).await
    }
}

type Answer = (StatusCode, String);

async fn charge(
    State(service): State<Arc<Service>>,
    Path(owner): Path<String>,
    headers: HeaderMap,
    cents: String,
) -> Result<Answer, Answer> {
    let (key, cents) = (key(&headers)?, cents.parse().map_err(|e: ParseIntError| bad(&e))?);
    let pay = || service.pay(key, &owner, cents);
    let paid = match service.trouble(key) {
        None => pay().await,
        Some(Trouble::Fails) => return Err((StatusCode::INTERNAL_SERVER_ERROR, "try again".to_owned())),
        Some(Trouble::ComesTwice) => tokio::try_join!(pay(), pay()).map(|(_, second)| second),
        Some(Trouble::IsLate) => {
            let paid = pay().await;
            tokio::time::sleep(LATE).await;
            paid
        }
    };
    match paid.map_err(|e| failed(&e))? {
        Payment::Charged(number) => Ok((StatusCode::OK, number.to_string())),
        Payment::Refused => Ok((StatusCode::PAYMENT_REQUIRED, "the card was declined".to_owned())),
        Payment::Refunded => Err((StatusCode::CONFLICT, "it was paid back".to_owned())),
    }
}

/// The body is the key of what is to be paid back.
async fn refund(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    payment: String,
) -> Result<Answer, Answer> {
    if service.trouble(key(&headers)?) == Some(Trouble::Fails) {
        return Err((StatusCode::INTERNAL_SERVER_ERROR, "try again".to_owned()));
    }
    match service.ledger.refund(&payment).await.map_err(|e| failed(&e))? {
        true => Ok((StatusCode::OK, String::new())),
        false => Err((StatusCode::NOT_FOUND, "there is no such payment".to_owned())),
    }
}

fn key(headers: &HeaderMap) -> Result<&str, Answer> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    key.ok_or_else(|| bad(&"a request has an idempotency key"))
}

fn bad(why: &impl ToString) -> Answer {
    (StatusCode::BAD_REQUEST, why.to_string())
}

fn failed(error: &sqlx::Error) -> Answer {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}
