//! What cannot be done is said in one line.

use crate::program::run;

#[test]
fn an_option_without_sense_is_refused_before_anything_is_opened() {
    let transfer =
        |from, to, cents| ["transfer", "--by", "saga", "--from", from, "--to", to, "--cents", cents];
    for (args, word) in [
        (&transfer("17", "b-4", "5")[..], "a bank and a number"),
        (&transfer("c-17", "b-4", "5"), "a bank and a number"),
        (&transfer("a-17", "b-4", "0"), "--cents"),
        (&["transfer", "--by", "hand"], "two-phase"),
        (&["compare", "--count", "0"], "--count"),
        (&["compare", "--workers", "0"], "--workers"),
        (&["close", "c"], "c"),
        (&["transfer", "--by", "saga", "--key", "a b"], "letters, digits"),
    ] {
        let ran = run(args);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.starts_with("error: ") && ran.err.contains(word), "{ran:?}");
    }
    run(&transfer("a-17", "a-4", "5")).complains(2, &["from one bank to the other"]);
}

#[test]
fn what_needs_the_databases_of_a_run_says_so() {
    for args in [&["reconcile"][..], &["close", "b"], &["open", "b"], &["work", "--by", "tcc"]] {
        run(args).complains(2, &["--databases"]);
    }
    let nowhere = "postgres://localhost:1/x,postgres://localhost:1/a,postgres://localhost:1/b";
    run(&["reconcile", "--databases", nowhere]).complains(2, &["the journal cannot be opened"]);
    run(&["reconcile", "--databases", "postgres://localhost:1/x"]).complains(2, &["name three databases"]);
}
