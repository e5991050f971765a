//! Any statements on any rows within a call: undone, all is as it was.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::Connection as _;

use super::{Call, Ground, exec, new_run};

const TABLES: &str = "
    create table a (id int, k text, v text, u int unique, primary key (id, k));
    create table b (id int primary key, up int references b deferrable, v numeric, w float8,
        twice numeric generated always as (v * 2) stored);
    create table c (id int primary key, b int references b on delete cascade on update cascade, at timestamptz);
    create table d (id int generated always as identity primary key, b int references b on delete set null on update cascade, l text[]);
    create function more() returns trigger language plpgsql as $$
        begin
            update a set v = v || '+' where id = new.id and length(v) < 9;
            insert into d (b, l) values (null, array[new.id::text, null, '\"']);
            return null;
        end $$;
    create trigger more after update of u on a for each row when (not es_undo.undoing()) execute function more();";
const ITS: [&str; 4] = ["a", "b", "c", "d"];

fn statement(rng: &mut StdRng) -> String {
    let id = |rng: &mut StdRng| rng.random_range(1..8);
    let (x, y, z) = (id(rng), id(rng), id(rng));
    let text = ["'x'", "'a\"b'", "null", "''", "'(,)'", "E'\\\\'"][rng.random_range(0..6)];
    let float = ["'-0'", "'NaN'", "'Infinity'", "1e-300", "0.1", "null"][rng.random_range(0..6)];
    match rng.random_range(0..20) {
        0 => format!("insert into a values ({x}, 'k{}', {text}, {z})", y % 2),
        1 => format!(
            "insert into a values ({x}, 'k0', {text}, {y}) on conflict (id, k) do update set v = excluded.v, u = {z}"
        ),
        2 => format!("update a set v = {text} where id >= {x}"),
        3 => format!("update a set u = {y} where id = {x}"),
        4 => format!("update a set id = {y}, k = 'k1' where id = {x}"),
        5 => format!("delete from a where id = {x}"),
        6 => format!(
            "insert into b (id, up, v, w) values ({x}, {y}, {z}.50, {float}), ({y}, null, null, {float})"
        ),
        7 => format!("insert into b (id, up, v, w) values ({x}, {x}, 1, {float})"),
        8 => format!("update b set v = v + 1, w = {float} where id < {x}"),
        9 => format!("update b set id = {y} where id = {x}"),
        10 => format!("update b set up = {y} where id = {x}"),
        11 => format!("delete from b where id = {x}"),
        12 => format!("delete from b where id in ({x}, {y}, {z})"),
        13 => format!("insert into c values ({x}, {y}, '2024-01-01'::timestamptz + interval '1 h' * {z})"),
        14 => format!("update c set b = {y} where id = {x}"),
        15 => format!("delete from c where id > {x}"),
        16 => format!("insert into d (b, l) values ({x}, array[{text}, 'y'])"),
        17 => format!("update d set l = l || {text}::text, b = {y} where b = {x} or b is null"),
        18 => format!(
            "with gone as (delete from a where id = {x} returning *) insert into a select id, k || 'x', v, u from gone"
        ),
        _ => format!("update a set u = u where id = {x}"),
    }
}

/// Statements, each of which happens or is rolled back to a savepoint.
async fn some(conn: &mut sqlx::PgConnection, rng: &mut StdRng, told: &mut Vec<String>) {
    for _ in 0..rng.random_range(1..12) {
        let sql = statement(rng);
        let mut inner = conn.begin().await.unwrap();
        let went = exec(&mut inner, &sql).await;
        let stays = went.is_ok() && rng.random_range(0..8) > 0;
        told.push(format!("{} {sql}", if stays { "+" } else { "-" }));
        match stays {
            true => inner.commit().await.unwrap(),
            false => inner.rollback().await.unwrap(),
        }
    }
}

#[tokio::test]
async fn whatever_a_run_does_is_undone() {
    let seed = std::env::var("ES_UNDO_SEED").ok().and_then(|seed| seed.parse().ok());
    let rounds =
        std::env::var("ES_UNDO_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(60_u64);
    let ground = Ground::of(TABLES, &ITS).await;
    let mut changed = 0;
    for seed in seed.map_or(1..rounds + 1, |seed: u64| seed..seed + 1) {
        let (mut rng, mut told) = (StdRng::seed_from_u64(seed), Vec::new());
        let mut conn = ground.pool().acquire().await.unwrap();
        exec(&mut conn, "delete from c; delete from d; delete from a; delete from b").await.unwrap();
        some(&mut conn, &mut rng, &mut told).await;
        some(&mut conn, &mut rng, &mut told).await;
        drop(conn);
        let (was, run) = (ground.all(&ITS).await, new_run());
        let calls = ["one", "two", "three"].map(|name| Call::of(run, name));
        for call in &calls {
            told.push(call.name().to_owned());
            let mut tx = ground.begin(call).await;
            some(&mut tx, &mut rng, &mut told).await;
            call.guard(&ground.log).done(tx, "1".to_owned()).await.unwrap();
        }
        changed += u64::from(ground.all(&ITS).await != was);
        for call in calls.iter().rev() {
            ground.undo(call).await.unwrap_or_else(|error| panic!("ES_UNDO_SEED={seed}: {error}: {told:#?}"));
        }
        assert_eq!(ground.all(&ITS).await, was, "ES_UNDO_SEED={seed}: {told:#?}");
        ground.assert_over().await;
    }
    assert!(seed.is_some() || changed > rounds / 2, "{changed} of {rounds} rounds have changed anything");
}
