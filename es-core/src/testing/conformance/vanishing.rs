//! Rows that go: a handler says that there is none any more. P25.

use serde::{Deserialize, Serialize};

use super::data::encoded;
use super::domain::{AccountEvent, Closed, deposited, opened};
use super::patient::{self, Patient, ask};
use super::payments::{answered, eventually};
use super::{LIMIT, Subject, settle, start};
use crate::event::Event as _;
use crate::processor::{ProcessorError, ProcessorOptions, RebuildOptions};
use crate::projection::{Change, Projection, View, Views};
use crate::store::{Commit, EventFilter, ExpectedVersion, NewEvent, RecordedEvent};
use crate::{App, BoxError, ErrorKind};

/// An account that is open, and how many payments it had since then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAccount {
    payments: u64,
}

impl Projection for OpenAccount {
    const NAME: &'static str = "open_account";
    fn filter() -> EventFilter {
        EventFilter::of_enum::<AccountEvent>()
    }
}

impl View for OpenAccount {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let key = || event.stream.as_str().split_once('-').map(|(_, id)| id.to_owned()).ok_or("no account");
        let mut changes = Vec::new();
        for payload in AccountEvent::decode(event)? {
            changes.push(match payload {
                AccountEvent::Closed(_) => Change::replace(key()?, |_| Ok(None)),
                AccountEvent::Opened(_) => Change::new(key()?, |_| Ok(())),
                _ => Change::new(key()?, |row: &mut Self| {
                    row.payments += 1;
                    Ok(())
                }),
            });
        }
        Ok(changes)
    }
}

fn closed() -> AccountEvent {
    AccountEvent::Closed(Closed {})
}

fn history(account: &str) -> Vec<NewEvent> {
    let (open, pay) = (|| opened("Ada"), || deposited(1));
    let events = match account {
        "gone" => vec![open(), pay(), closed()],
        "never-there" => vec![closed()],
        "again" => vec![open(), pay(), closed(), open()],
        "again-and-gone" => vec![open(), closed(), open(), pay(), closed()],
        _ => vec![open(), pay(), pay()],
    };
    events.iter().map(encoded).collect()
}

const ACCOUNTS: [&str; 5] = ["gone", "never-there", "again", "again-and-gone", "stays"];

type Rows = Vec<(String, OpenAccount)>;

/// What is right.
fn right() -> Rows {
    vec![("again".to_owned(), OpenAccount { payments: 0 }), ("stays".to_owned(), OpenAccount { payments: 2 })]
}

/// All rows, and each on its own.
async fn rows(app: &App) -> Rows {
    let views: &Views = app.services().get().expect("the app has views");
    let mut all = read(|| async {
        let mut rows = Vec::new();
        views.for_each::<OpenAccount>(|key, row| rows.push((key, row))).await.map(|()| rows)
    })
    .await;
    all.sort_by(|a, b| a.0.cmp(&b.0));
    for account in ACCOUNTS {
        let key = account.to_owned();
        let row = read(|| app.view::<OpenAccount>(&key)).await;
        assert_eq!(row.as_ref(), all.iter().find(|(key, _)| key == account).map(|(_, row)| row), "{account}");
    }
    all
}

/// Reads until the store answers.
pub(super) async fn read<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
    mut look: impl FnMut() -> F,
) -> T {
    let mut last = None;
    for _ in 0..1_000 {
        match look().await {
            Ok(found) => return found,
            Err(error) => last = Some(error),
        }
    }
    panic!("no answer in 1,000 tries: {}", last.expect("it was asked"))
}

async fn fill<S: Subject>(store: &Patient<S::Backend>) {
    // One event after the other, in turn: rows go in one flush and in several.
    let mut left: Vec<_> = ACCOUNTS.iter().map(|account| (account, history(account).into_iter())).collect();
    while !left.is_empty() {
        left.retain_mut(|(_, events)| events.len() > 0);
        for (account, events) in &mut left {
            if let Some(event) = events.next() {
                store.put(&format!("account-{account}"), vec![event]).await;
            }
        }
    }
}

fn pages_of(events: usize) -> ProcessorOptions {
    ProcessorOptions::default().page(events)
}

/// P25
pub async fn a_row_that_its_handler_deletes_is_gone<S: Subject>(subject: S) {
    let store = super::store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<OpenAccount>().processors(pages_of(2))).await;
    fill::<S>(&store).await;
    settle(&app).await;
    assert_eq!(rows(&app).await, right());
    assert!(app.shutdown(LIMIT).await);
    // Folded in one go, and when it is read.
    let app = start(|| App::on(store.0.clone()).view::<OpenAccount>()).await;
    answered(|| app.rebuild::<OpenAccount>()).await.expect("it is a view");
    settle(&app).await;
    assert_eq!(rows(&app).await, right());
    let live = start(|| App::on(store.0.clone()).live_view::<OpenAccount>()).await;
    assert_eq!(rows(&live).await, right());
}

/// P25
pub async fn rows_that_are_gone_are_the_same_after_a_rebuild<S: Subject>(subject: S) {
    let store = super::store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<OpenAccount>().processors(pages_of(1))).await;
    fill::<S>(&store).await;
    settle(&app).await;
    let processor = app.processor::<OpenAccount>().expect("it runs");
    let keys: Vec<String> = ACCOUNTS.iter().map(|account| (*account).to_owned()).collect();
    loop {
        match processor.rebuild_keys(&keys, LIMIT).await {
            Ok(()) => break,
            Err(error) => assert!(
                error.kind() == ErrorKind::Transient || matches!(error, ProcessorError::Asked { .. }),
                "{error}"
            ),
        }
    }
    assert_eq!(rows(&app).await, right());
    let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
    ask(|| rebuild.caught_up(LIMIT)).await;
    // As far as the log: the report is of one place.
    eventually(|| async {
        let report = ask(|| rebuild.report(10)).await;
        let same = report.old == report.new && report.is_empty();
        if same { Ok(()) } else { Err(format!("{report:?}")) }
    })
    .await;
}

/// Appends by way of the app, which adds the rows of its inline views.
async fn put(app: &App, account: &str, event: NewEvent) {
    let commit = Commit::default().and(&format!("account-{account}"), ExpectedVersion::Any, vec![event]);
    patient::commit(&*app.store_handle(), commit).await.expect("an append anywhere is accepted");
}

/// P25
pub async fn an_inline_row_that_goes_and_comes_back_is_no_row_of_before<S: Subject>(subject: S) {
    let store = super::store(&subject).await;
    let app = start(|| App::on(store.0.clone()).inline_view::<OpenAccount>()).await;
    let written = ACCOUNTS.map(|account| async {
        for event in history(account) {
            put(&app, account, event).await;
        }
    });
    futures::future::join_all(written).await;
    assert_eq!(rows(&app).await, right());
    assert!(app.shutdown(LIMIT).await);
    // By a processor from here on: it meets what the commits have left.
    let retired = || App::on(store.0.clone()).view::<OpenAccount>().retire_inline("open_account/1");
    let app = start(retired).await;
    put(&app, "gone", encoded(&opened("Bob"))).await;
    put(&app, "again", encoded(&closed())).await;
    settle(&app).await;
    let mut expected = right();
    expected[0] = ("gone".to_owned(), OpenAccount { payments: 0 });
    assert_eq!(rows(&app).await, expected);
}
