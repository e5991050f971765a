//! Orders, placed by a saga: what a person sees, and what is in the three databases.

use std::str::FromStr as _;

use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;

use crate::program::{Ran, Shop};

const JOURNAL: &str = "orders/orders.db";

fn order<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["order"], args, &["--folder", "orders"]].concat()
}

async fn open(shop: &Shop, file: &str) -> SqlitePool {
    let options = SqliteConnectOptions::from_str("sqlite:").expect("an empty address");
    SqlitePool::connect_with(options.filename(shop.path(file))).await.expect("it is there")
}

async fn number(pool: &SqlitePool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.expect("a number")
}

/// Of so many orders all have ended, and a second look at the databases agrees.
async fn conserved(shop: &Shop, ran: &Ran, orders: u64) {
    let [all, confirmed, undone, open_ones] = ran.orders();
    assert_eq!((all, confirmed + undone, open_ones), (orders, orders, 0), "{ran:?}");
    assert!(ran.last().ends_with(" 0 open; money and stock conserved"), "{ran:?}");
    let payments = open(shop, "orders/payments.db").await;
    let charged = number(&payments, "select count(*) from payments where state = 'charged'").await;
    assert_eq!(u64::try_from(charged), Ok(confirmed));
    let tenth =
        number(&payments, "select count(*) from payments where state = 'refused' and number % 10 = 0").await;
    assert_eq!(tenth, number(&payments, "select count(*) / 10 from payments").await);
    let stock = open(shop, "orders/stock.db").await;
    let taken = number(&stock, "select count(distinct placed) from reserved").await;
    assert_eq!(u64::try_from(taken), Ok(confirmed));
}

#[test]
fn without_a_folder_it_places_orders_and_leaves_nothing() {
    let shop = Shop::new();
    let ran = shop.run(&["order", "--count", "40"]).well();
    let [all, .., open] = ran.orders();
    assert_eq!((all, open), (40, 0), "{ran:?}");
    assert!(ran.last().ends_with(" undone, 0 open; money and stock conserved"), "{ran:?}");
    assert_eq!(shop.files(), Vec::<String>::new(), "the temporary folder is deleted");
}

#[tokio::test]
async fn what_it_says_is_in_the_databases_and_a_second_run_changes_nothing() {
    let shop = Shop::new();
    let ran = shop.run(&order(&["--count", "80"])).well();
    conserved(&shop, &ran, 80).await;
    for why in ["a disc was sold out", "the card was declined", "the van was full"] {
        assert!(ran.out.contains(why), "{ran:?}");
    }
    assert_eq!(shop.run(&order(&["--count", "40"])).well().out, ran.out, "every order was known");

    let shown = shop.run(&order(&["show", "1"])).well();
    assert!(
        shown.out.starts_with("order 1 of customer-1: 2 of disc 1-b, 1 of disc 1-c\nplace ("),
        "{shown:?}"
    );
    for word in [
        " → reserve (",
        " → pay (",
        " → book (",
        " → confirm (",
        "  begun, to be decided by ",
        "  place is done",
    ] {
        assert!(shown.out.contains(word), "no {word:?} in {shown:?}");
    }
    assert!(shown.last().starts_with("it waits for nothing: "), "{shown:?}");
    shop.run(&order(&["show", "81"])).complains(1, &["there is no order 81"]);
}

#[tokio::test]
async fn a_payment_that_no_order_explains_is_found() {
    let shop = Shop::new();
    shop.run(&order(&["--count", "10"])).well();
    let payments = open(&shop, "orders/payments.db").await;
    let charge = "insert into payments (key, owner, cents, state) values ('lost', 'ada', 900, 'charged')";
    sqlx::query(charge).execute(&payments).await.expect("the file is ours");
    let ran = shop.run(&order(&["--count", "10"]));
    ran.complains(1, &["9.00 dollars, is charged without a confirmed order"]);
    assert!(ran.last().ends_with(" 0 open"), "{ran:?}");
}

#[tokio::test]
async fn a_disc_that_no_order_has_is_found() {
    let shop = Shop::new();
    shop.run(&order(&["--count", "10"])).well();
    let stock = open(&shop, "orders/stock.db").await;
    let take = "insert into reserved (placed, disc, copies) select '1000000', disc, 1 from stock limit 1";
    sqlx::query(take).execute(&stock).await.expect("the file is ours");
    let ran = shop.run(&order(&["--count", "10"]));
    ran.complains(1, &["what is taken from the stock for order 1000000 is not what it has"]);
    assert!(ran.last().ends_with(" 0 open"), "{ran:?}");
}

#[tokio::test]
async fn killed_again_and_again_it_ends_with_nothing_open() {
    let shop = Shop::new();
    std::fs::create_dir(shop.path("orders")).expect("the folder is ours");
    let place = order(&["--count", "60"]);
    // From the first orders to the last vans: about 180 events.
    for events in [10, 60, 110] {
        let mut running = shop.start(&place);
        shop.stored_in(JOURNAL, events, &mut running).await;
        running.kill();
    }
    let says = |n: u32| shop.run(&order(&["show", &n.to_string()])).out;
    let is_open = |shown: &String| !shown.is_empty() && !shown.contains("\nit waits for nothing: ");
    let open = (1..=60).map(says).find(is_open).expect("it was killed before all had ended");
    assert!(open.contains("\nit waits for "), "{open:?}");
    let ran = shop.run(&place).well();
    conserved(&shop, &ran, 60).await;
}

/// What an operator asks is tried out without asking it, and in earnest is done, with who and why, or declined in words.
#[tokio::test]
async fn an_operator_has_an_order_cancelled_that_is_open() {
    let shop = Shop::new();
    std::fs::create_dir(shop.path("orders")).expect("the folder is ours");
    let mut running = shop.start(&order(&["--count", "60"]));
    shop.stored_in(JOURNAL, 10, &mut running).await;
    running.kill();
    let says = |n: u32| shop.run(&order(&["show", &n.to_string()])).out;
    // Before its pivot has run it can be undone.
    let can_be_undone = |n: &u32| {
        let shown = says(*n);
        shown.contains(" → book (not run) → ") && !shown.contains("\nit waits for nothing: ")
    };
    let open = (1..=60).find(can_be_undone).expect("it was killed while orders were under way").to_string();
    let ask = |args: &[&str]| {
        shop.run(&order(&[&["ask", "cancel", &open, "--who", "ada", "--why", "by phone"], args].concat()))
    };
    // Each program that asks also works on it: it may have got too far for that.
    let is_late =
        |ran: &Ran, says: [&str; 2]| ran.code == Some(1) && says.iter().any(|why| ran.err.contains(why));
    let would = ask(&["--dry-run"]);
    let would_wait = would.code == Some(0) && would.out.contains("it would wait for ");
    assert!(would_wait || is_late(&would, ["it would be declined: ", " has ended: "]), "{would:?}");
    assert!(!says(open.parse().expect("a number")).contains("by phone"), "nothing was asked");
    let asked = ask(&[]);
    let is_noted = asked.code == Some(0) && asked.out.contains("ada") && asked.out.contains("by phone");
    assert!(is_noted || is_late(&asked, ["it is declined: ", " has ended: "]), "{asked:?}");
    let ran = shop.run(&order(&["--count", "60"])).well();
    conserved(&shop, &ran, 60).await;
    let over = ask(&[]);
    over.complains(1, &["ended"]);
    shop.run(&order(&["ask", "skip", "1", "--who", "ada", "--why", "a test"])).complains(1, &["--step"]);
    shop.run(&order(&["ask", "retry", "99", "--who", "ada", "--why", "a test"]))
        .complains(1, &["no order 99"]);
}

#[tokio::test]
async fn ctrl_c_ends_it_in_words_and_the_next_run_completes_it() {
    let shop = Shop::new();
    std::fs::create_dir(shop.path("orders")).expect("the folder is ours");
    let place = order(&["--count", "60"]);
    let mut running = shop.start(&place);
    shop.stored_in(JOURNAL, 20, &mut running).await;
    let ran = running.interrupt();
    assert_eq!((ran.code, ran.err.as_str()), (Some(130), ""), "{ran:?}");
    assert!(ran.out.contains("the next run continues"), "{ran:?}");
    // What is open is completed, also by a run that wants fewer.
    let ran = shop.run(&order(&["--count", "1"])).well();
    let [all, .., open] = ran.orders();
    assert!(all > 1 && open == 0, "{ran:?}");
    conserved(&shop, &ran, all).await;
}

#[test]
fn what_makes_no_sense_is_said_in_one_line_and_nothing_is_made() {
    let shop = Shop::new();
    for (args, word) in [
        (&["order", "--count", "0"][..], "--count"),
        (&["order", "--count", "many"], "--count"),
        (&["order", "--folder", ""], "--folder"),
        (&["order", "show"], "ORDER"),
        (&["order", "show", "0"], "0"),
        (&["order", "show", "disc"], "disc"),
    ] {
        let ran = shop.run(args);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.starts_with("error: ") && ran.err.contains(word), "{ran:?}");
    }
    shop.run(&["order", "show", "1"]).complains(2, &["--folder"]);
    shop.run(&order(&["show", "1"]))
        .complains(2, &["there are no orders in folder orders", "place some first"]);
    shop.run(&["order", "--database", "shop.db"]).complains(2, &["three databases", "--folder"]);
    assert_eq!(shop.files(), Vec::<String>::new());
    shop.write("notes.txt", "milk");
    shop.run(&["order", "--folder", "notes.txt"]).complains(2, &["notes.txt"]);
    assert_eq!(shop.files(), ["notes.txt"]);
}
