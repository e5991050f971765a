//! Rows as text: every type, written under the settings of one session and read under those of another.

use super::{Ground, call, exec};

const ALL: &str = r#"
    create schema types;
    create type types.mood as enum ('so so', 'gre"at', 'a,b');
    create type types.pair as (a int, "B c" text);
    create domain types.short as text check (length(value) < 20);
    create domain types.pairs as types.pair[];
    create table types.all (
        id bigint primary key, n numeric, f4 real, f8 double precision, t text, c char(5), v varchar(9), b bytea,
        d date, ts timestamp, tz timestamptz, tm time, tmz timetz, i interval, bo bool, u uuid, j json, jb jsonb,
        ia int[], ta text[], tta text[][], r int4range, nr numrange, tr tstzrange, mr int4multirange, m types.mood, ma types.mood[],
        p types.pair, pa types.pairs, s types.short, mo money, x xml, bi bit(5), vb varbit, ip inet, ci cidr, pt point,
        tv tsvector, o oid, nm name, ch "char", lo int8, g text generated always as (upper(t)) stored);
    insert into types.all (id) values (1);
    insert into types.all values
        (2, 'NaN', 'NaN', '-0', E'a"b\\c''d,(e)\n\t ', 'ab', '', '\x00ff5c22', '2024-02-03', '2024-02-03 04:05:06.789012',
         '2024-02-03 04:05:06.789012+05:45', '04:05:06.7', '04:05:06+03', '-1 mon +3 days -04:05:06.789', true, gen_random_uuid(),
         '{"b": 1,  "a": [1.0, "x\"y"], "b": 2}', '{"a": 1.00}', '{1,null,3}', array['a"b', null, 'null', '', 'c,d', '{e}', E'\\'],
         array[['a', 'b'], ['c', null]], '[1,5)', '(,1.50]', '["2024-02-03 04:05:06+00","infinity")', '{[1,2),[5,9)}', 'gre"at',
         array['so so', 'a,b']::types.mood[], row(null, 'x "y" (z), \')::types.pair, array[row(1, null), null]::types.pairs,
         'short', '-1,234.56', '<a b="c">&lt;</a>', b'10101', b'1', '10.0.0.1/8', '10.0.0.0/8', '(1.1,-0)', 'a:1A fat:2',
         4294967295, 'nm', 'x', -9223372036854775808),
        (3, 'Infinity', '-Infinity', 'Infinity', '', null, null, '', '-infinity', 'infinity', '-infinity', '24:00', null,
         '178000000 years', false, null, 'null', 'null', '{}', '{}', null, 'empty', null, null, '{}', null, '{}', null, '{}',
         '', null, null, null, '', null, null, null, '', 0, '', '', 0),
        (4, 1.2300, 1e-45, 1.7976931348623157e308, 'ä€😀', 'ä', null, null, '4713-01-01 BC', '0044-03-15 BC', null, null, null,
         'P1Y2M3DT4H5M6S', null, null, null, null, '[0:1]={1,2}', null, null, null, null, null, null, null, null, null, null,
         null, null, null, null, null, null, null, null, null, null, null, null, null);"#;

const CHANGES: [&str; 4] = [
    "update types.all a set (n, f4, f8, t, c, v, b, d, ts, tz, tm, tmz, i, bo, u, j, jb, ia, ta, tta, r, nr, tr, mr, m, ma, p, pa, s, mo,
        x, bi, vb, ip, ci, pt, tv, o, nm, ch, lo) = (select n, f4, f8, t, c, v, b, d, ts, tz, tm, tmz, i, bo, u, j, jb, ia, ta, tta, r,
        nr, tr, mr, m, ma, p, pa, s, mo, x, bi, vb, ip, ci, pt, tv, o, nm, ch, lo from types.all z where z.id = a.id % 4 + 1)",
    "update types.all set id = id + 10 where id = 2",
    "delete from types.all where id in (3, 4)",
    "insert into types.all (id, t) values (3, 'x'), (5, 'y')",
];

#[tokio::test]
async fn every_type_comes_back_byte_for_byte() {
    let ground = Ground::of(ALL, &["types.all"]).await;
    let was = ground.all(&["types.all"]).await;
    assert_eq!(was.len(), 4);
    // All of it in one call, and each change in one of its own.
    for changes in [&CHANGES[..], &CHANGES[..1], &CHANGES[1..2], &CHANGES[2..3], &["delete from types.all"]] {
        let call = call();
        ground.runs(&call, changes).await;
        assert_ne!(ground.all(&["types.all"]).await, was);
        ground.undo(&call).await.unwrap();
        assert_eq!(ground.all(&["types.all"]).await, was);
    }
    ground.assert_over().await;
}

const KEYS: &str = "create type mood as enum ('a', 'b');
    create domain own_mood as mood;
    create domain own_text as text;
    create domain own_own_text as own_text;
    create domain own_numeric as numeric(10, 2);
    create table keys (m own_mood, d own_own_text, n own_numeric, b bytea, c char(4), ts timestamptz, q numeric, ch \"char\", nm name,
        bo bool, x int, primary key (m, d, n, b, c, ts, q, ch, nm, bo));
    insert into keys values ('a', 'x', 1, '\\x00', 'ab', '2024-01-01', 1.500, 'c', 'nm', true, 1),
        ('b', 'y', 2, '\\x', 'c', 'infinity', 'NaN', '', '', false, 2)";

#[tokio::test]
async fn keys_of_every_type_find_their_rows() {
    let ground = Ground::of(KEYS, &["keys"]).await;
    let (was, call) = (ground.all(&["keys"]).await, call());
    let changes = [
        "update keys set x = x + 1",
        // The same key, written in another way.
        "update keys set q = 1.5 where x = 2",
        "update keys set d = 'z'",
        "insert into keys select 'a', 'x', 3, b, c, ts, q, ch, nm, bo, x from keys",
        "delete from keys where x = 3 and d = 'z'",
    ];
    ground.runs(&call, &changes).await;
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&["keys"]).await, was);
    ground.assert_over().await;
}

/// Each of them changes how a row is written, or read, by whoever does not say.
const ODD: [&[&str]; 4] = [
    &[
        "DateStyle = 'German'",
        "bytea_output = 'escape'",
        "extra_float_digits = -10",
        "TimeZone = 'Asia/Kathmandu'",
    ],
    &[
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = 'sql_standard'",
        "search_path = ''",
        "TimeZone = 'America/St_Johns'",
    ],
    &[
        "DateStyle = 'Postgres, MDY'",
        "IntervalStyle = 'iso_8601'",
        "default_transaction_isolation = 'serializable'",
    ],
    &[
        "array_nulls = off",
        "xmloption = 'document'",
        "quote_all_identifiers = on",
        "search_path = types, pg_catalog",
    ],
];

#[tokio::test]
async fn images_are_the_same_whatever_the_session() {
    let ground = Ground::of(ALL, &["types.all"]).await;
    // Its money has another sign there, where the server knows the place.
    let locale = "select collcollate from pg_collation where collcollate ~ '^(de|fr|ja|en)_.*[uU][tT][fF]-?8$' limit 1";
    let locale: Option<String> = sqlx::query_scalar(locale).fetch_optional(ground.pool()).await.unwrap();
    let (was, mut images) = (ground.all(&["types.all"]).await, Vec::new());
    for (writes, reads) in [(0, 1), (1, 2), (2, 3), (3, 0)] {
        let call = call();
        let odd = |of: usize| {
            let mut odd: String = ODD[of].iter().map(|set| format!("set {set};")).collect();
            odd.extend(locale.iter().map(|locale| format!("set lc_monetary = '{locale}';")));
            odd
        };
        let mut tx = ground.begin(&call).await;
        // In the middle of it, and not for others who get the connection.
        exec(&mut tx, &odd(writes).replace("set ", "set local ")).await.unwrap();
        for change in CHANGES {
            exec(&mut tx, change).await.unwrap();
        }
        call.guard(&ground.log).done(tx, "1".to_owned()).await.unwrap();
        let noted = "select string_agg(row(key, new_key, before, after)::text, ' ' order by row(key, new_key, before, after)::text)
            from es_undo.images, unnest(keys, new_keys, befores, afters) c (key, new_key, before, after)";
        let noted: String = sqlx::query_scalar(noted).fetch_one(ground.pool()).await.unwrap();
        images.push(noted);
        let undo = format!("{} select es_undo.restore('{}', '{}')", odd(reads), call.run(), call.name());
        ground.sql(&undo).await;
        assert_eq!(ground.all(&["types.all"]).await, was, "{writes} {reads}");
    }
    images.dedup();
    assert_eq!(images.len(), 1, "the same rows, written in several ways");
    ground.assert_over().await;
}
