//! Two bare commits, one after the other: a statement each, that inserts a row.

use sqlx::PgPool;

use super::ground::{Done, Ground, Take, insert};

/// In the two databases of the user's own.
pub async fn run(ground: Ground) -> anyhow::Result<Done> {
    let pools = [ground.left.clone(), ground.right.clone()];
    commits(&ground, pools).await
}

/// In one of them, and in that of the journal.
pub async fn with_journal(ground: Ground) -> anyhow::Result<Done> {
    let pools = [ground.left.clone(), ground.journal.clone()];
    commits(&ground, pools).await
}

async fn commits(ground: &Ground, pools: [PgPool; 2]) -> anyhow::Result<Done> {
    ground.tables().await?;
    let each = |n| {
        let (pools, take) = (pools.clone(), Take::of(n));
        async move {
            for pool in pools {
                insert(&mut *pool.acquire().await?, &take.run, "taken").await?;
            }
            Ok(())
        }
    };
    let done = ground.timed(each).await?;
    ground.took([&pools[0], &pools[1]]).await?;
    Ok(done)
}
