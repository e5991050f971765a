//! Tables that refer to each other, and triggers of the user's own.

use es_core::ErrorKind;

use super::{Call, Ground, blocked, call, exec, new_run};

const FAMILY: &str = "
    create table parents (id int primary key, v text);
    create table children (id int generated always as identity primary key,
        parent int references parents on delete cascade on update cascade, v text);
    create table friends (id int primary key, parent int references parents on delete set null on update cascade);
    create table tree (id int primary key, up int references tree);
    insert into parents select g, 'p' || g from generate_series(1, 5) g;
    insert into children (parent, v) select g % 5 + 1, 'c' || g from generate_series(1, 12) g;
    insert into friends select g, g % 5 + 1 from generate_series(1, 12) g;
    insert into tree values (1, null), (2, 1), (3, 2);";
const ITS: [&str; 4] = ["parents", "children", "friends", "tree"];

#[tokio::test]
async fn what_foreign_keys_take_along_comes_back_with_it() {
    let ground = Ground::of(FAMILY, &ITS).await;
    let (was, call) = (ground.all(&ITS).await, call());
    let changes = [
        "delete from parents where id = 1",
        "update parents set id = id + 100, v = v || '!' where id in (2, 3)",
        "insert into tree values (10, 11), (11, 12), (12, null)",
        "delete from tree where id in (1, 2, 3)",
        "insert into parents values (200, 'x')",
        "insert into friends values (77, 200)",
        "insert into children (parent, v) values (200, 'y')",
    ];
    ground.runs(&call, &changes).await;
    let changed = ground.all(&ITS).await;
    assert!(changed.iter().all(|row| !row.contains(",1,c")), "{changed:?}");
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&ITS).await, was);
    ground.assert_over().await;
}

#[tokio::test]
async fn rows_of_others_are_not_taken_along() {
    let ground = Ground::of(FAMILY, &ITS).await;
    let call = call();
    ground
        .runs(&call, &["insert into parents values (200, 'x')", "update tree set up = null where id = 3"])
        .await;
    ground.sql("insert into children (parent, v) values (200, 'of another')").await;
    let with = ground.all(&ITS).await;
    let why = blocked(ground.undo(&call).await);
    assert!(why.contains("children would change with what is undone, and is not of this run"), "{why}");
    assert_eq!(ground.all(&ITS).await, with, "nothing of it is undone");
    ground.sql("delete from children where parent = 200").await;
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.count("parents").await, 5);
    ground.assert_over().await;
}

/// Branches are undone at the same time, in whichever order.
#[tokio::test]
async fn a_call_waits_for_later_ones_of_its_run_that_refer_to_its_rows() {
    let refers = [
        "insert into children (parent, v) values (200, 'y')",
        "insert into friends values (77, 200)",
        "update friends set parent = 200 where id = 3",
        "insert into sales values (1, 200)",
    ];
    let ground = Ground::of(FAMILY, &ITS).await;
    ground.sql("create table sales (id int primary key, parent int references parents)").await;
    ground.log.track(&["sales"]).await.unwrap();
    let was = ground.all(&ITS).await;
    for sql in refers {
        let run = new_run();
        let [first, second] = ["order/first", "order/second"].map(|name| Call::of(run, name));
        ground.runs(&first, &["insert into parents values (200, 'x')"]).await;
        ground.runs(&second, &[sql]).await;
        let error = ground.undo(&first).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{sql}: {error:?}");
        ground.undo(&second).await.unwrap();
        ground.undo(&first).await.unwrap();
        assert_eq!(ground.all(&ITS).await, was, "{sql}");
        ground.assert_over().await;
    }
}

#[tokio::test]
async fn what_a_foreign_key_forbids_waits_for_a_person() {
    let make = "create table items (id int primary key);
        create table sales (id int primary key, item int references items); insert into items values (1)";
    let ground = Ground::of(make, &["items"]).await;
    let call = call();
    ground.runs(&call, &["insert into items values (2)"]).await;
    ground.sql("insert into sales values (1, 2)").await;
    let why = blocked(ground.undo(&call).await);
    assert!(why.contains("sales_item_fkey"), "{why}");
    ground.sql("delete from sales").await;
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&["items"]).await, ["items (1)"]);
}

#[tokio::test]
async fn constraints_that_can_wait_are_checked_at_the_end() {
    let make = "create table places (id int primary key, n int unique deferrable initially immediate);
        insert into places select g, g from generate_series(1, 5) g";
    let ground = Ground::of(make, &["places"]).await;
    let (was, call) = (ground.all(&["places"]).await, call());
    ground.runs(&call, &["update places set n = n + 1", "update places set n = 6 - id"]).await;
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&["places"]).await, was);
}

#[tokio::test]
async fn what_is_unique_is_exchanged_back() {
    let make = "create table seats (id int primary key, who text unique, row int not null, unique (row));
        insert into seats select g, 'w' || g, g from generate_series(1, 4) g";
    let ground = Ground::of(make, &["seats"]).await;
    let (was, call) = (ground.all(&["seats"]).await, call());
    let changes = [
        "update seats set who = 'tmp' where id = 1",
        "update seats set who = 'w1' where id = 2",
        "update seats set who = 'w2' where id = 1",
        "update seats set id = 9 where id = 3",
        "update seats set id = 3 where id = 4",
        "delete from seats where id = 9",
        "insert into seats values (4, 'w3', 3)",
    ];
    ground.runs(&call, &changes).await;
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&["seats"]).await, was);
    ground.assert_over().await;
}

/// What one call frees, another one of its run takes. Branches are undone at the same time, in whichever order.
#[tokio::test]
async fn a_call_waits_for_later_ones_of_its_run_that_have_what_is_unique() {
    let make = "create table seats (id int primary key, who text unique, during int4range, exclude using gist (during with &&));
        insert into seats values (1, 'ada', '[1,9)'), (2, 'bob', null)";
    let ground = Ground::of(make, &["seats"]).await;
    let was = ground.all(&["seats"]).await;
    let hands_on = [
        ["update seats set who = null where id = 1", "update seats set who = 'ada' where id = 2"],
        ["delete from seats where id = 1", "update seats set who = 'ada' where id = 2"],
        ["update seats set during = null where id = 1", "update seats set during = '[2,3)' where id = 2"],
    ];
    for [frees, takes] in hands_on {
        let run = new_run();
        let [first, second] = ["order/first", "order/second"].map(|name| Call::of(run, name));
        ground.runs(&first, &[frees]).await;
        ground.runs(&second, &[takes]).await;
        let error = ground.undo(&first).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{takes}: {error:?}");
        ground.undo(&second).await.unwrap();
        ground.undo(&first).await.unwrap();
        assert_eq!(ground.all(&["seats"]).await, was, "{takes}");
        ground.assert_over().await;
    }
}

#[tokio::test]
async fn what_others_forbid_is_said_by_each_of_two_calls_at_once() {
    let make = "create table items (id int primary key);
        create table sales (id int primary key, item int references items)";
    let ground = Ground::of(make, &["items"]).await;
    let run = new_run();
    let [one, two] = ["order/one", "order/two"].map(|name| Call::of(run, name));
    let (mut tx, mut other) = (ground.begin(&one).await, ground.begin(&two).await);
    exec(&mut tx, "insert into items values (1)").await.unwrap();
    exec(&mut other, "insert into items values (2)").await.unwrap();
    exec(&mut tx, "insert into items values (3)").await.unwrap();
    one.guard(&ground.log).done(tx, "1".to_owned()).await.unwrap();
    two.guard(&ground.log).done(other, "1".to_owned()).await.unwrap();
    ground.sql("insert into sales values (1, 1), (2, 2)").await;
    // The other one has changed nothing that is in the way.
    for call in [&two, &one] {
        assert!(blocked(ground.undo(call).await).contains("sales_item_fkey"));
    }
    ground.sql("delete from sales").await;
    ground.undo(&one).await.unwrap();
    ground.undo(&two).await.unwrap();
    ground.assert_over().await;
}

const SEATS: &str = "create table seats (id int primary key, who text unique);
    create table notes (id int primary key, seat int references seats on delete cascade, v text);
    create table parents (id int primary key, v text);
    create table children (id int primary key, parent int references parents on delete cascade);
    insert into seats values (1, 'ada'), (2, 'bob'); insert into notes values (1, 1, 'note');
    insert into parents values (1, 'p'); insert into children values (1, 1);";
const EXCHANGE: [&str; 3] = [
    "update seats set who = 'tmp' where id = 1",
    "update seats set who = 'ada' where id = 2",
    "update seats set who = 'bob' where id = 1",
];

/// To exchange what is unique, rows go and come. Their children would only go.
#[tokio::test]
async fn what_is_exchanged_back_takes_no_children_with_it() {
    let its = ["seats", "notes", "parents", "children"];
    let back = ["update notes set v = 'x'", "update notes set v = 'note'"];
    for and in [&[][..], &back[..], &back[..1]] {
        let ground = Ground::of(SEATS, &its).await;
        let (was, call) = (ground.all(&its).await, call());
        ground.runs(&call, &[&EXCHANGE, and].concat()).await;
        let changed = ground.all(&its).await;
        blocked(ground.undo(&call).await);
        assert_eq!(ground.all(&its).await, changed, "{and:?}");
        // By way of a third value, as a person can.
        let mut tx = ground.log.mend(call.run(), call.name(), "ada", "exchanged").await.unwrap();
        for sql in EXCHANGE {
            exec(&mut tx, &sql.replace("'ada'", "'ADA'").replace("'bob'", "'ada'").replace("'ADA'", "'bob'"))
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
        ground.undo(&call).await.unwrap();
        assert_eq!(ground.all(&its).await, was, "{and:?}");
        ground.assert_over().await;
    }
}

/// Only where that is in the way.
#[tokio::test]
async fn what_is_exchanged_back_leaves_other_tables_and_what_excludes_itself_alone() {
    let its = ["seats", "notes", "parents", "children", "rooms"];
    let make = format!(
        "{SEATS} delete from notes; create table rooms (id int primary key, during int4range, exclude using gist (during with &&));
        insert into rooms values (1, '[1,3)'), (2, '[3,5)')"
    );
    let ground = Ground::of(&make, &its).await;
    let (was, call) = (ground.all(&its).await, call());
    let and = [
        "update parents set v = 'q'",
        "update rooms set during = 'empty' where id = 1",
        "update rooms set during = '[1,3)' where id = 2",
        "update rooms set during = '[3,5)' where id = 1",
    ];
    ground.runs(&call, &[&EXCHANGE[..], &and].concat()).await;
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&its).await, was);
    ground.assert_over().await;
}

const TRIGGERS: &str = "
    create table counters (id int primary key, v int, n int not null default 0);
    create table audit (id serial primary key, what text);
    create table untracked (what text);
    create function note() returns trigger language plpgsql as $$
        begin
            insert into audit (what) values (tg_op || coalesce(new.id, old.id));
            insert into untracked values (tg_op);
            if tg_op = 'UPDATE' then update counters set n = n + 1 where id = new.id; end if;
            return null;
        end $$;
    create function stamp() returns trigger language plpgsql as $$ begin new.n = new.n + 100; return new; end $$;
    insert into counters select g, g from generate_series(1, 3) g;
    create trigger note after insert or delete or update of v on counters
        for each row when (not es_undo.undoing()) execute function note();
    create trigger stamp before update of v on counters
        for each row when (not es_undo.undoing()) execute function stamp();";

#[tokio::test]
async fn what_triggers_write_is_undone_and_they_do_not_fire_again() {
    let its = ["counters", "audit"];
    let ground = Ground::of(TRIGGERS, &its).await;
    let (was, call) = (ground.all(&its).await, call());
    let changes = [
        "update counters set v = v + 1",
        "update counters set v = v + 1 where id = 2",
        "delete from counters where id = 3",
        "insert into counters values (4, 4)",
        "update counters set id = 5 where id = 4",
    ];
    ground.runs(&call, &changes).await;
    assert_eq!(
        ground.all(&["counters"]).await,
        ["counters (1,2,101)", "counters (2,4,202)", "counters (5,4,0)"]
    );
    assert_eq!((ground.count("audit").await, ground.count("untracked").await), (6, 6));
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&its).await, was);
    // What is not tracked stays; and nothing came to it.
    assert_eq!(ground.count("untracked").await, 6);
    ground.assert_over().await;
}
