//! The same program on PostgreSQL.

use es_core::store::EventStore as _;
use es_postgres::{PgBackend, testing};

use crate::program::{Shop, first};

#[tokio::test]
async fn on_postgresql_it_shows_what_a_file_shows() {
    let (shop, database) = (Shop::new(), testing::database().await);
    let on_server = |args: &[&str]| shop.run(&[args, &["--database", database.url()]].concat());
    on_server(&["report"]).complains(2, &["no shop in this database", "import a file first"]);
    shop.write("purchases.txt", first(3_000));
    let file = shop.run(&["import", "purchases.txt"]).well();
    let server = on_server(&["import", "purchases.txt"]).well();
    assert_eq!(server.out, file.out);
    assert_eq!(on_server(&["import", "purchases.txt"]).well().counts(), [0, 3_000, 0]);
    assert_eq!(on_server(&["rebuild"]).well().figures(), file.figures());
    assert_eq!(on_server(&["report"]).well().figures(), file.figures());
    let history = on_server(&["history", "00042"]).well();
    assert_eq!(history.out, shop.run(&["history", "00042"]).well().out);
}

#[tokio::test]
async fn an_import_into_postgresql_that_is_killed_goes_on() {
    let (shop, database) = (Shop::new(), testing::database().await);
    shop.write("purchases.txt", first(3_000));
    let import = ["import", "purchases.txt", "--database", database.url()];
    let backend = PgBackend::connect(database.url()).await.unwrap();
    for part in 1..=4 {
        let mut running = shop.start(&import);
        while backend.head().await.unwrap().0 < part * 500 {
            assert_eq!(running.ended(), None, "it ended too early");
            tokio::task::yield_now().await;
        }
        running.kill();
    }
    let whole = shop.run(&import).well();
    assert_eq!(whole.figures(), shop.run(&["import", "purchases.txt"]).well().figures());
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}
