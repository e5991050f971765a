//! Stopped at any moment, the import goes on where it was.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use crate::program::{Ran, Shop, WHOLE, first};

const PURCHASES: u64 = 69_659;
const TOTALS: &str = "69,659 purchases by 23,570 customers: 167,881 CDs for 2,500,315.63 dollars";

#[track_caller]
fn has_the_figures_of_the_whole_file(ran: &Ran) {
    assert_eq!(ran.last(), TOTALS);
    assert_eq!(ran.row("1997-01"), ["1997-01", "8,928", "19,416", "299,060.17"]);
    assert_eq!(ran.row("customer"), ["customer", "purchases", "CDs", "dollars"]);
    let top = ran.out.lines().skip_while(|line| !line.contains("customer")).nth(2).expect("a first customer");
    assert!(top.contains("14048") && top.contains(" 217 "), "{top}");
}

/// Numbers that a seed repeats: `SHOP_SEED=17 cargo test -p shop`.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        let given = std::env::var("SHOP_SEED").ok();
        let seed =
            given.map_or_else(|| RandomState::new().hash_one(0), |seed| seed.parse().expect("a number"));
        say_seed(seed);
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[expect(clippy::print_stderr, reason = "shown if the test fails, to repeat it")]
fn say_seed(seed: u64) {
    eprintln!("SHOP_SEED={seed}");
}

#[tokio::test]
async fn an_import_that_is_killed_ten_times_ends_with_the_figures_of_one_that_is_not() {
    // More on their way at once is faster, and loses more at once.
    let import = ["import", WHOLE, "--parallel", "1024"];
    let (shop, mut random) = (Shop::new(), Random::new());
    let mut before = 0;
    for round in 0..10 {
        let mut running = shop.start(&import);
        // By time: also while it opens the database, and while it sends again what is stored.
        // By progress: while it stores what is new, for certain; the last time, far into the file.
        let by_progress = round % 2 == 1;
        if by_progress {
            let further = if round == 9 { 2_000 + random.below(4_000) } else { 1 + random.below(400) };
            shop.stored(before + further, &mut running).await;
        } else {
            tokio::time::sleep(Duration::from_millis(random.below(600))).await;
        }
        assert_eq!(running.kill().signal(), Some(9), "it was killed before its end");
        let after = shop.verified().await;
        assert!(before <= after && after < PURCHASES, "{before} events, then {after}");
        before = after;
    }
    let ended = shop.run(&import).well();
    assert_eq!(ended.counts(), [PURCHASES - before, before, 0]);
    has_the_figures_of_the_whole_file(&ended);
    assert_eq!(shop.verified().await, PURCHASES);

    let never_killed = shop.run(&["import", WHOLE, "--database", ":memory:"]).well();
    assert_eq!(never_killed.counts(), [PURCHASES, 0, 0]);
    assert_eq!(never_killed.figures(), ended.figures());

    assert_eq!(shop.run(&["report"]).well().out, ended.figures());
    assert_eq!(shop.run(&["rebuild"]).well().out, ended.figures());
    assert_eq!(shop.run(&["history", "14048"]).well().last(), "217 purchases");

    let again = shop.run(&import).well();
    assert_eq!(again.counts(), [0, PURCHASES, 0]);
    assert!(again.out.starts_with("0 purchases imported, 69,659 were imported before"), "{}", again.out);
    assert_eq!(again.figures(), ended.figures());
    assert_eq!(shop.verified().await, PURCHASES);
}

#[tokio::test]
async fn ctrl_c_ends_an_import_in_words_and_the_next_one_completes_it() {
    let shop = Shop::new();
    shop.write("purchases.txt", first(5_000));
    // One at a time: far from the end when the signal comes.
    let mut running = shop.start(&["import", "purchases.txt", "--parallel", "1"]);
    shop.stored(20, &mut running).await;
    let ran = running.interrupt();
    assert_eq!((ran.code, ran.err.as_str()), (Some(130), ""), "{ran:?}");
    assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
    assert!(ran.out.starts_with("stopped after ") && ran.out.contains("the next import goes on"), "{ran:?}");

    let stored = shop.verified().await;
    assert!((20..5_000).contains(&stored), "{stored}");
    let next = shop.run(&["import", "purchases.txt", "--parallel", "512"]).well();
    assert_eq!(next.counts(), [5_000 - stored, stored, 0]);
    assert_eq!(shop.verified().await, 5_000);
}
