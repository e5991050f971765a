//! What an operator does about a call whose undo is blocked.

use es_core::ErrorKind;

use super::{Call, Ground, blocked, call, code, exec, new_run};

#[tokio::test]
async fn what_a_person_accepts_stays_as_it_is() {
    let make = "create table rows (id int primary key, v text); insert into rows values (1, 'a'), (2, 'b')";
    let ground = Ground::of(make, &["rows"]).await;
    let call = call();
    ground.runs(&call, &["update rows set v = v || '!'"]).await;
    ground.past_the_triggers("delete from rows where id = 2").await;
    let dirty = ground.all(&["rows"]).await;
    assert!(blocked(ground.undo(&call).await).contains("now: none"));
    let undecided = ground.log.undecided().await.unwrap();
    assert_eq!(undecided.len(), 1);
    assert_eq!((undecided[0].run, &*undecided[0].call, undecided[0].rows), (call.run(), call.name(), 2));
    let freed = ground.log.accept(call.run(), call.name(), "ada", "sold by hand").await.unwrap();
    assert_eq!(freed, 2);
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&["rows"]).await, dirty);
    ground.assert_over().await;
    assert_eq!(ground.log.undecided().await.unwrap(), []);
}

#[tokio::test]
async fn whoever_accepts_what_is_not_there_is_told_so_and_every_acceptance_is_kept() {
    let make =
        "create table rows (id int primary key, who text unique); insert into rows values (1, 'a'), (2, 'b')";
    let ground = Ground::of(make, &["rows"]).await;
    let call = call();
    ground.runs(&call, &["update rows set who = who || '!'"]).await;
    for (run, name) in [(call.run(), "order/typo"), (new_run(), call.name())] {
        let error = ground.log.accept(run, name, "ada", "sold by hand").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
        assert!(error.to_string().contains("has no rows that are not decided"), "{error}");
    }
    assert_eq!(ground.count("es_undo.acts").await, 0);
    assert_eq!(ground.log.accept(call.run(), call.name(), "ada", "sold by hand").await.unwrap(), 2);
    let again = ground.log.accept(call.run(), call.name(), "bob", "once more").await.unwrap_err();
    assert!(again.to_string().contains("it was accepted by ada at "), "{again}");
    assert!(again.to_string().contains("(sold by hand)"), "{again}");
    let kept = format!(
        "es_undo.acts where run = '{}' and call = '{}' and act = 'accepted' and locked_rows = 2 and actor = 'ada'",
        call.run(),
        call.name()
    );
    assert_eq!((ground.count(&kept).await, ground.count("es_undo.acts").await), (1, 1));
    es_core::guard::forget(&ground.log, es_core::Timestamp::MAX).await.unwrap();
    assert_eq!(ground.count("es_undo.acts").await, 0);
}

#[tokio::test]
async fn one_row_is_set_right_and_the_others_are_undone() {
    let make = "create table rows (id int primary key, v text); insert into rows select g, 'a' from generate_series(1, 9) g";
    let ground = Ground::of(make, &["rows"]).await;
    let (was, run) = (ground.all(&["rows"]).await, new_run());
    let [call, other] = ["order/one", "order/other"].map(|name| Call::of(run, name));
    ground.runs(&call, &["update rows set v = 'b' where id < 8"]).await;
    ground.runs(&other, &["update rows set v = 'c' where id = 8"]).await;
    ground.past_the_triggers("update rows set v = 'x' where id = 3").await;
    assert!(blocked(ground.undo(&call).await).contains("row (3) of public.rows has changed since"));
    // Not in passing.
    let error = ground.try_sql("update rows set v = 'b' where id = 3").await.unwrap_err();
    assert_eq!(code(&error), "ESU02");
    let hint = error.as_database_error().unwrap().downcast_ref::<sqlx::postgres::PgDatabaseError>().hint();
    assert!(hint.unwrap().contains("es_undo.mend(run, call, actor, reason)"), "{hint:?}");
    // Rows of this call, and of no other one.
    for (id, says) in [(8, "order/other"), (9, "not of this run")] {
        let mut tx = ground.log.mend(run, call.name(), "ada", "by phone").await.unwrap();
        let error = exec(&mut tx, &format!("update rows set v = 'y' where id = {id}")).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    let mut tx = ground.log.mend(run, call.name(), "ada", "by phone").await.unwrap();
    exec(&mut tx, "update rows set v = 'b' where id = 3").await.unwrap();
    tx.commit().await.unwrap();
    let kept =
        "es_undo.acts where act = 'mended' and locked_rows = 7 and actor = 'ada' and reason = 'by phone'";
    assert_eq!((ground.count(kept).await, ground.count("es_undo.acts").await), (1, 1));
    ground.undo(&call).await.unwrap();
    ground.undo(&other).await.unwrap();
    assert_eq!(ground.all(&["rows"]).await, was);
    ground.assert_over().await;
    let error = ground.log.mend(run, call.name(), "ada", "once more").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
}

/// The server answers the COMMIT of a transaction in which a statement has failed with a rollback.
#[tokio::test]
async fn what_is_not_committed_is_not_said_to_be_set_right() {
    let make = "create table rows (id int primary key, v text); insert into rows values (1, 'a'), (2, 'b')";
    let ground = Ground::of(make, &["rows"]).await;
    let call = call();
    ground.runs(&call, &["update rows set v = v || '!'"]).await;
    ground.past_the_triggers("update rows set v = 'x' where id = 1").await;
    let mut tx = ground.log.mend(call.run(), call.name(), "ada", "by phone").await.unwrap();
    exec(&mut tx, "update rows set v = 'a' where id = 1").await.unwrap();
    exec(&mut tx, "update rows set w = 'b' where id = 2").await.unwrap_err();
    let error = tx.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    assert!(error.to_string().contains("a statement before this one failed"), "{error}");
    assert_eq!((ground.count("rows where v = 'x'").await, ground.count("es_undo.acts").await), (1, 0));
    let mut tx = ground.log.mend(call.run(), call.name(), "ada", "by phone").await.unwrap();
    exec(&mut tx, "update rows set v = 'a' where id = 1").await.unwrap();
    tx.commit().await.unwrap();
    ground.undo(&call).await.unwrap();
    ground.assert_over().await;
}
