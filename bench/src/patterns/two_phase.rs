//! Two-phase commit: a row is inserted in two databases; and the same by hand.

use anyhow::ensure;
use es_core::App;
use es_postgres::{PgBackend, PgParticipant};
use futures::future::try_join;
use sagas::two_phase::{TwoPhase, TwoPhaseApp as _};
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgPool, Postgres};

use super::ground::{Done, Ground, Take, ended, insert};

const MARK: &str = "insert into markers (run, state) values ($1, 'done')";
const DECIDE: &str = "insert into work (run, state) values ($1, 'commit')";
const DECIDE_AND_LIST: &str = "with list as (insert into markers (run, state) values ($1, 'left, right'))
    insert into work (run, state) values ($1, 'commit')";
const FORGET: &str = "delete from markers where run = $1";

pub async fn run(ground: Ground) -> anyhow::Result<Done> {
    ground.tables().await?;
    let participant = async |name, pool: &PgPool| {
        let participant = PgParticipant::new(name, pool.clone())?;
        participant.install().await?;
        anyhow::Ok(participant)
    };
    let both = [participant("left", &ground.left).await?, participant("right", &ground.right).await?];
    let store = ground.store().await?;
    let [left, right] = both.clone();
    let two_phase = TwoPhase::on(store.clone())?.participant(left).participant(right).build()?;
    let app = App::on(store).two_phase(&two_phase).start().await?;
    let done = ground.timed(|n| commits(two_phase.clone(), both.clone(), Take::of(n))).await?;
    ended(&app).await;
    ground.took([&ground.left, &ground.right]).await?;
    Ok(done)
}

async fn commits(two_phase: TwoPhase<PgBackend>, both: [PgParticipant; 2], take: Take) -> anyhow::Result<()> {
    let mut tx = two_phase.begin();
    for participant in &both {
        insert(tx.branch(participant).await?, &take.run, "taken").await?;
    }
    let committed = tx.commit().await?;
    ensure!(committed.pending.is_empty(), "{committed:?}");
    Ok(())
}

/// No marker says later what was committed, and nobody recovers what is left prepared.
pub async fn by_hand(ground: Ground) -> anyhow::Result<Done> {
    ground.tables().await?;
    by_hand_on(ground, false).await
}

/// With the rows that the framework writes for that: a marker in each branch, and one that says until the end what is not
/// committed yet.
pub async fn by_hand_with_markers(ground: Ground) -> anyhow::Result<Done> {
    ground.tables().await?;
    for pool in [&ground.journal, &ground.left, &ground.right] {
        sqlx::raw_sql("create table markers (run text primary key, state text not null)")
            .execute(pool)
            .await?;
    }
    by_hand_on(ground, true).await
}

async fn by_hand_on(ground: Ground, marks: bool) -> anyhow::Result<Done> {
    let pools = [ground.journal.clone(), ground.left.clone(), ground.right.clone()];
    let done = ground.timed(|n| commits_by_hand(pools.clone(), Take::of(n), marks)).await?;
    ground.took([&ground.left, &ground.right]).await?;
    ground.has(&ground.journal, "select count(*) from work where state = 'commit'").await?;
    if marks {
        ground.has(&ground.left, "select count(*) from markers").await?;
        ground.has(&ground.right, "select count(*) from markers").await?;
        let open: i64 = sqlx::query_scalar("select count(*) from markers").fetch_one(&ground.journal).await?;
        ensure!(open == 0, "{open} are not forgotten");
    }
    Ok(done)
}

/// As it is done by the framework: one branch begins after the other, both are prepared at the same time, then it is decided
/// in the database of the journal, and then both are committed at the same time.
async fn commits_by_hand([journal, left, right]: [PgPool; 3], take: Take, marks: bool) -> anyhow::Result<()> {
    let (mut left, mut right) = (begun(&left, &take).await?, begun(&right, &take).await?);
    let both = |verb: &str| ["left", "right"].map(|side| format!("{verb} '{side}:{}'", take.run));
    if marks {
        try_join(marked(&mut left, MARK, &take), marked(&mut right, MARK, &take)).await?;
    }
    let [one, other] = both("prepare transaction");
    try_join(says(&mut left, one), says(&mut right, other)).await?;
    let decide = if marks { DECIDE_AND_LIST } else { DECIDE };
    marked(&mut journal.acquire().await?, decide, &take).await?;
    let [one, other] = both("commit prepared");
    try_join(says(&mut left, one), says(&mut right, other)).await?;
    if marks {
        marked(&mut journal.acquire().await?, FORGET, &take).await?;
    }
    Ok(())
}

type Connection = PoolConnection<Postgres>;

async fn begun(pool: &PgPool, take: &Take) -> sqlx::Result<Connection> {
    let mut conn = pool.acquire().await?;
    says(&mut conn, "begin".to_owned()).await?;
    insert(&mut conn, &take.run, "taken").await?;
    Ok(conn)
}

async fn marked(conn: &mut Connection, statement: &'static str, take: &Take) -> sqlx::Result<()> {
    sqlx::query(statement).bind(&take.run).execute(&mut **conn).await.map(drop)
}

async fn says(conn: &mut Connection, statement: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut **conn).await.map(drop)
}
