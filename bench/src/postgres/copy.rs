//! `COPY`: the fastest way in, for a bulk that nobody else writes to.

use bench_kit::{Side, Work, deposit};
use sqlx::PgPool;
use sqlx::postgres::PgPoolCopyExt as _;

use super::raw::Raw;

#[derive(Clone)]
pub struct Copy(PgPool);

impl Side for Copy {
    const CAN: &'static [Work] = &[Work::Fill];

    async fn open(url: &str) -> anyhow::Result<Self> {
        Ok(Self(PgPool::connect(url).await?))
    }

    async fn create(url: &str) -> anyhow::Result<()> {
        Raw::create(url).await
    }

    async fn command(&self, aggregate: u64, events: usize) -> anyhow::Result<()> {
        self.fill(aggregate, 1, events).await
    }

    async fn load(&self, _: u64) -> anyhow::Result<i64> {
        anyhow::bail!("COPY only writes")
    }

    async fn fill(&self, first: u64, streams: u64, events: usize) -> anyhow::Result<()> {
        // In the text format a bytea is hexadecimal behind an escaped `\x`.
        let data: String = serde_json::to_vec(&deposit())?.iter().map(|byte| format!("{byte:02x}")).collect();
        let rows =
            (first..first + streams).flat_map(|stream| (1..=events).map(move |version| (stream, version)));
        let text: String =
            rows.map(|(stream, version)| format!("{stream}\t{version}\t1\t\\\\x{data}\n")).collect();
        let mut copy = self.0.copy_in_raw("copy events (stream, version, type, data) from stdin").await?;
        copy.send(text.into_bytes()).await?;
        copy.finish().await?;
        Ok(())
    }
}
