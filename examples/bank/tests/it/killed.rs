//! Programs are killed at any moment, and replaced.
//!
//! A run says its seed; `ES_BANK_SEED` repeats its choices.
//! `ES_BANK_TRANSFERS=20000 cargo test --release -p bank --test it killed -- --nocapture` is a long run.

use std::env;

use crate::program::Town;

#[tokio::test]
#[expect(
    clippy::print_stderr,
    reason = "the seed repeats a run that failed; a long run is made for its figures"
)]
async fn whoever_is_killed_no_money_is_lost_and_nothing_is_left_in_doubt() {
    let count = env::var("ES_BANK_TRANSFERS").unwrap_or_else(|_| "300".to_owned());
    let seed = env::var("ES_BANK_SEED").unwrap_or_else(|_| rand::random::<u32>().to_string());
    eprintln!("ES_BANK_SEED={seed}");
    let town = Town::new().await;
    let total = town.total().await;
    let ran = town.run(&["compare", "--kill", "--count", &count, "--seed", &seed]).well();
    eprintln!("{}", ran.out);
    let transfers: u32 = count.parse().expect("a number of transfers");
    assert!(
        ran.last().ends_with(" transfers by 5 methods: money conserved, 0 in doubt, reconciliation clean"),
        "{ran:?}"
    );
    // One each hundred, of each method.
    let kills = ran.out.lines().find_map(|line| line.strip_suffix(" programs were killed, and replaced"));
    let kills: u32 = kills.expect("it says so").replace(',', "").parse().expect("a number");
    assert!(
        (5 * (transfers / 100).saturating_sub(1)..=5 * transfers.div_ceil(100)).contains(&kills),
        "{ran:?}"
    );
    assert!(kills >= 5);
    assert_eq!(town.total().await, total);
}
