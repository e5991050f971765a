//! What the server is asked for one command, counted by the server.

use bench_kit::{Job, Work};

use super::contender::Contender;
use super::plan::{EACH, STREAMS};
use super::report::{Table, number};
use super::server::Server;

pub fn measure(server: &Server, all: &[Contender]) -> anyhow::Result<Table> {
    let head = ["side", "1 caller, 1 aggregate", "1 caller, each time another", "32 callers"];
    let mut table = Table::new("Statements for one command", &head);
    table.notes.push(format!(
        "Counted with `pg_stat_statements`, `begin` and `commit` included. \
         \"Each time another\" loads an aggregate of {EACH} events that nobody has in memory."
    ));
    server.run("create extension if not exists pg_stat_statements")?;
    for side in all.iter().filter(|side| side.can(Work::Command) && !side.brings_server) {
        let mut one = calls(side, 1, 200);
        one.first = side.fresh(1);
        let mut many = calls(side, 32, 20);
        many.first = side.fresh(32);
        let mut cold = calls(side, 1, 200);
        cold.span = STREAMS;
        // The raw limit knows no aggregate that it has not made.
        let jobs = [Some(one), Some(cold).filter(|_| side.name != "raw"), Some(many)];
        let count = |job: Option<Job>| match job {
            Some(job) => count(server, side, &job).map(number),
            None => Ok(String::new()),
        };
        table.side(side, jobs.into_iter().map(count).collect());
    }
    Ok(table)
}

fn calls(side: &Contender, callers: u64, each: u64) -> Job {
    let mut job = side.job(Work::Command, callers);
    job.until.seconds = 60.0;
    job.until.calls = Some(each);
    job
}

fn count(server: &Server, side: &Contender, job: &Job) -> anyhow::Result<f64> {
    let crew = side.ready(job, 1)?;
    server.run("select pg_stat_statements_reset()")?;
    let calls: u64 = crew.go()?.iter().map(|done| done.calls).sum();
    let counted: i64 = server.ask(async |conn| {
        let sql = "select coalesce(sum(s.calls), 0)::bigint from pg_stat_statements s
                   join pg_database d on d.oid = s.dbid where d.datname = $1";
        sqlx::query_scalar(sql).bind(&side.database).fetch_one(conn).await
    })?;
    Ok(counted as f64 / calls as f64)
}
