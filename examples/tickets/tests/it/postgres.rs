//! The same program on PostgreSQL.

use es_core::store::EventStore as _;
use es_postgres::{PgBackend, testing};

use crate::log;
use crate::program::BoxOffice;

#[tokio::test]
async fn on_postgresql_it_sells_as_in_a_file_and_a_run_that_is_killed_continues() {
    let (office, database) = (BoxOffice::new(), testing::database().await);
    let at = |args: &[&'static str]| [args, &["--database", database.url()]].concat();
    office.run(&at(&["show", "1"])).complains(2, &["play first"]);
    let store = PgBackend::connect(database.url()).await.expect("the server is ours");
    let play = at(&["play", "--flows", "100", "--deadline", "1s"]);
    let mut running = office.start(&play);
    while store.head().await.expect("readable").0 < 150 {
        assert_eq!(running.ended(), None, "it ended too early");
        tokio::task::yield_now().await;
    }
    running.kill();
    let ran = office.run(&play).well();
    let totals = log::totals(&store).await;
    assert_eq!((totals[0], totals[3], totals[4]), (100, 0, 0), "{ran:?}");
    assert_eq!(ran.totals(), totals);
    let shown = office.run(&at(&["show", "3"])).well();
    assert!(shown.out.contains("refused  charge to payment-3: the card's limit is 40 dollars"), "{shown:?}");
}
