//! Three-phase commit with two services, each of which is a server with a database of its own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use es_core::memory::MemoryBackend;
use es_core::{App, BoxError, Timestamp};
use es_sqlite::{GuardedTx, SqliteGuarded};
use sagas::saga::{Outcome, Retry, SagaInput, StepError};
use sagas::three_phase::{
    Decision, Decisions, GuardedParticipant, Holds, Peers, Standing, StoredDecisions, ThreePhase,
    ThreePhaseApp as _, ThreePhaseTransaction, ThreePhases as _, Txn,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use uuid::Uuid;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Booking {
    seats: i64,
}
impl SagaInput for Booking {}

/// What goes over the wire with the question for a vote.
#[derive(Serialize, Deserialize)]
struct Asked {
    booking: Booking,
    participants: Vec<String>,
}

/// The tables of a service: how many seats are left, and which transactions hold some.
struct Seats;

const MAKE: &str =
    "create table seats (free integer not null check (free >= 0)); insert into seats values (10);
    create table held (txn text primary key, seats integer not null)";

impl Holds<GuardedTx> for Seats {
    type Input = Booking;
    type Held = i64;
    async fn hold(&self, txn: Uuid, booking: &Booking, tx: &mut GuardedTx) -> Result<i64, StepError<String>> {
        let retry = |error: sqlx::Error| StepError::Retry(error.into());
        let taken = sqlx::query("update seats set free = free - ? where free >= ?");
        let taken = taken.bind(booking.seats).bind(booking.seats).execute(&mut **tx).await.map_err(retry)?;
        if taken.rows_affected() == 0 {
            return Err(StepError::Refused("sold out".to_owned()));
        }
        let hold = sqlx::query("insert into held values (?, ?)").bind(txn.to_string()).bind(booking.seats);
        hold.execute(&mut **tx).await.map_err(retry)?;
        Ok(booking.seats)
    }
    async fn commit(&self, txn: Uuid, _: i64, tx: &mut GuardedTx) -> Result<(), BoxError> {
        sqlx::query("delete from held where txn = ?").bind(txn.to_string()).execute(&mut **tx).await?;
        Ok(())
    }
    async fn release(&self, txn: Uuid, seats: i64, tx: &mut GuardedTx) -> Result<(), BoxError> {
        sqlx::query("update seats set free = free + ?").bind(seats).execute(&mut **tx).await?;
        sqlx::query("delete from held where txn = ?").bind(txn.to_string()).execute(&mut **tx).await?;
        Ok(())
    }
    async fn held(&self, tx: &mut GuardedTx) -> Result<Vec<Uuid>, BoxError> {
        let held: Vec<String> = sqlx::query_scalar("select txn from held").fetch_all(&mut **tx).await?;
        Ok(held.iter().map(|txn| Uuid::try_parse(txn)).collect::<Result<_, _>>()?)
    }
}

type Service = GuardedParticipant<SqliteGuarded, Seats>;

/// An answer: done, a no, or a failure after which it is asked again.
type Answered = (StatusCode, String);

fn answered<T>(told: Result<T, StepError<String>>) -> Answered {
    match told {
        Ok(_) => (StatusCode::OK, String::new()),
        Err(StepError::Refused(why)) => (StatusCode::CONFLICT, why),
        Err(StepError::Retry(error)) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

async fn can_commit(State(service): State<Service>, Path(txn): Path<Uuid>, body: String) -> Answered {
    let asked: Asked = serde_json::from_str(&body).unwrap();
    answered(service.can_commit(txn, &asked.booking, &asked.participants).await)
}

async fn told(State(service): State<Service>, Path((txn, verb)): Path<(Uuid, String)>) -> Answered {
    let told = match verb.as_str() {
        "pre-commit" => match service.pre_commit(txn).await {
            Ok(true) => Ok(()),
            Ok(false) => return (StatusCode::CONFLICT, "it has aborted".to_owned()),
            Err(error) => Err(error),
        },
        "do-commit" => service.do_commit(txn).await,
        "abort" => service.abort(txn).await,
        _ => return (StatusCode::NOT_FOUND, verb),
    };
    answered(told.map_err(|error| StepError::Retry(error.into())))
}

async fn standing(State(service): State<Service>, Path(txn): Path<Uuid>) -> Answered {
    in_json(service.standing(txn).await)
}

fn in_json<T: Serialize, E: ToString>(answer: Result<T, E>) -> Answered {
    match answer {
        Ok(answer) => (StatusCode::OK, serde_json::to_string(&answer).unwrap()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// The server of whoever has the journal: participants ask it for a decision.
async fn decide(
    State(decisions): State<Arc<StoredDecisions<MemoryBackend>>>,
    Path(txn): Path<Uuid>,
    asked: String,
) -> Answered {
    in_json(decisions.decide(txn, serde_json::from_str(&asked).unwrap()).await)
}

/// Gives its address.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

/// Calls servers. Their addresses are known once all are there.
#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    urls: watch::Receiver<Vec<(String, String)>>,
}

impl Client {
    fn url(&self, name: &str, path: &str) -> Result<String, BoxError> {
        let urls = self.urls.borrow();
        let (_, url) = urls.iter().find(|(of, _)| of == name).ok_or("there is none of that name")?;
        Ok(format!("{url}/{path}"))
    }

    async fn asks<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, BoxError> {
        let body = request.send().await?.error_for_status()?.bytes().await?;
        Ok(serde_json::from_slice(&body)?)
    }
}

#[async_trait]
impl Peers for Client {
    async fn standing(&self, participant: &str, txn: Uuid) -> Result<Standing, BoxError> {
        self.asks(self.http.get(self.url(participant, &format!("{txn}"))?)).await
    }
}

#[async_trait]
impl Decisions for Client {
    async fn decide(&self, txn: Uuid, asked: Decision) -> Result<Decision, BoxError> {
        let request = self.http.post(self.url("journal", &format!("{txn}"))?);
        self.asks(request.body(serde_json::to_string(&asked)?)).await
    }
}

/// A service, as the coordinator calls it. Calls of a verb can be cut off.
struct Line {
    name: &'static str,
    client: Client,
    cut: watch::Receiver<Vec<(&'static str, &'static str)>>,
}

impl Line {
    async fn send(&self, verb: &'static str, txn: Txn<'_, Booking>) -> Result<(), StepError<String>> {
        if self.cut.borrow().contains(&(self.name, verb)) {
            return Err(StepError::Retry("no connection".into()));
        }
        let url = self.client.url(self.name, &format!("{}/{verb}", txn.id)).map_err(StepError::Retry)?;
        let request = match verb {
            "can-commit" => {
                let (booking, participants) = (txn.input.clone(), txn.participants.to_vec());
                let asked = serde_json::to_string(&Asked { booking, participants });
                self.client.http.post(url).body(asked.map_err(|error| StepError::Retry(error.into()))?)
            }
            _ => self.client.http.post(url),
        };
        let answer = request.send().await.map_err(|error| StepError::Retry(error.into()))?;
        let status = answer.status();
        let body = answer.text().await.map_err(|error| StepError::Retry(error.into()))?;
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::CONFLICT => Err(StepError::Refused(body)),
            status => Err(StepError::Retry(format!("{status}: {body}").into())),
        }
    }

    async fn tell(&self, verb: &'static str, txn: Txn<'_, Booking>) -> Result<(), BoxError> {
        match self.send(verb, txn).await {
            Err(StepError::Refused(why)) => Err(why.into()),
            Err(StepError::Retry(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }
}

impl ThreePhase<Booking> for Line {
    fn name(&self) -> &str {
        self.name
    }
    async fn can_commit(&self, txn: Txn<'_, Booking>) -> Result<(), StepError<String>> {
        self.send("can-commit", txn).await
    }
    async fn pre_commit(&self, txn: Txn<'_, Booking>) -> Result<(), StepError<String>> {
        self.send("pre-commit", txn).await
    }
    async fn do_commit(&self, txn: Txn<'_, Booking>) -> Result<(), BoxError> {
        self.tell("do-commit", txn).await
    }
    async fn abort(&self, txn: Txn<'_, Booking>) -> Result<(), BoxError> {
        self.tell("abort", txn).await
    }
    fn retry(&self) -> Retry {
        Retry::default().pauses(Duration::from_millis(1), Duration::from_millis(10)).tries(1_000)
    }
}

struct World {
    _folder: TempDir,
    app: App,
    decisions: Arc<StoredDecisions<MemoryBackend>>,
    services: Vec<Service>,
    pools: Vec<sqlx::SqlitePool>,
    cut: watch::Sender<Vec<(&'static str, &'static str)>>,
}

impl World {
    async fn start() -> Self {
        let (folder, backend) = (tempfile::tempdir().unwrap(), MemoryBackend::new());
        let decisions = Arc::new(StoredDecisions::on(backend.clone()).unwrap());
        let (urls, known) = watch::channel(Vec::new());
        let client = Client { http: reqwest::Client::new(), urls: known };
        let (cut, is_cut) = watch::channel(Vec::new());
        let journal = Router::new().route("/{txn}", post(decide)).with_state(decisions.clone());
        let mut all = vec![("journal".to_owned(), serve(journal).await)];
        let (mut services, mut pools) = (Vec::new(), Vec::new());
        let mut booking = ThreePhaseTransaction::new("booking", 1);
        for name in ["train", "hotel"] {
            let options =
                SqliteConnectOptions::new().filename(folder.path().join(name)).create_if_missing(true);
            let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
            let database = SqliteGuarded::new(pool.clone());
            database.install().await.unwrap();
            sqlx::raw_sql(MAKE).execute(&pool).await.unwrap();
            let (peers, journal) = (Arc::new(client.clone()), Arc::new(client.clone()));
            let service = Service::new(name, database, Seats, peers, journal);
            let router =
                Router::new().route("/{txn}", get(standing)).route("/{txn}/can-commit", post(can_commit));
            let router = router.route("/{txn}/{verb}", post(told)).with_state(service.clone());
            all.push((name.to_owned(), serve(router).await));
            booking = booking.participant(Line { name, client: client.clone(), cut: is_cut.clone() });
            services.push(service);
            pools.push(pool);
        }
        urls.send_replace(all);
        let app = App::on(backend).three_phase(booking.build()).start().await.unwrap();
        Self { _folder: folder, app, decisions, services, pools, cut }
    }
}

/// Seats that are free on the train and in the hotel, and how many transactions hold some.
async fn free_seats(pools: &[sqlx::SqlitePool]) -> Vec<(i64, i64)> {
    let mut free = Vec::new();
    for pool in pools {
        let select = "select free, (select count(*) from held) from seats";
        free.push(sqlx::query_as(select).fetch_one(pool).await.unwrap());
    }
    free
}

#[tokio::test]
async fn services_commit_together_over_the_wire_or_not_at_all() {
    let world = World::start().await;
    assert_eq!(world.app.run_three_phase("a", Booking { seats: 4 }).await.unwrap(), Outcome::Completed);
    assert_eq!(free_seats(&world.pools).await, [(6, 0); 2]);
    // The hotel has less.
    sqlx::query("update seats set free = 1").execute(&world.pools[1]).await.unwrap();
    let outcome = world.app.run_three_phase("b", Booking { seats: 4 }).await.unwrap();
    assert_eq!(outcome.to_string(), "undone: hotel was refused: sold out");
    assert_eq!(free_seats(&world.pools).await, [(6, 0), (1, 0)]);
    assert!(world.app.shutdown(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn services_whose_coordinator_is_gone_end_it_by_what_they_know() {
    let cut = |name| (name, "pre-commit");
    for (cuts, train, stands) in [
        // Before any of them is told that all have voted, and after one of them was.
        (vec![cut("train"), cut("hotel")], Standing::Voted, Decision::Abort),
        (vec![cut("hotel")], Standing::PreCommitted, Decision::Commit),
    ] {
        let World { _folder, app, decisions, services, pools, cut } = World::start().await;
        cut.send_replace(cuts);
        let handle = app.start_three_phase("a", &Booking { seats: 4 }).await.unwrap();
        for (service, stands) in services.iter().zip([train, Standing::Voted]) {
            while service.standing(handle.run()).await.unwrap() != stands {
                tokio::task::yield_now().await;
            }
        }
        drop(app);
        for service in &services {
            let later = Timestamp::from_second(4_000_000_000).unwrap();
            let came = service.look(later, Duration::from_secs(60)).await.unwrap();
            assert_eq!(came.len(), 1, "{came:?}");
            assert_eq!(*came[0].1.as_ref().unwrap(), Some(stands));
        }
        assert_eq!(decisions.decided(handle.run()).await.unwrap(), Some(stands));
        let free = if stands == Decision::Commit { 6 } else { 10 };
        assert_eq!(free_seats(&pools).await, [(free, 0); 2]);
    }
}
