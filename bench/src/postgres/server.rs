//! A private PostgreSQL server with the defaults of its release, which sync every commit to the disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use sqlx::{AssertSqlSafe, PgConnection};
use tempfile::TempDir;

use super::raw::connect;

/// Stops with this value. `BENCH_POSTGRES` names another server instead, by URL and as a superuser.
pub struct Server {
    url: String,
    _private: Option<Private>,
}

struct Private {
    bin: PathBuf,
    folder: TempDir,
}

impl Server {
    pub fn start() -> anyhow::Result<Self> {
        if let Ok(url) = std::env::var("BENCH_POSTGRES") {
            return Ok(Self { url, _private: None });
        }
        let private = Private { bin: bin()?, folder: tempfile::Builder::new().prefix("bench-pg").tempdir()? };
        let socket = private.folder.path();
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(socket))?;
        }
        let data = private.data();
        run(private.tool("initdb").args(["--auth=trust", "--username=postgres", "--pgdata"]).arg(&data))?;
        let settings = format!(
            "-c listen_addresses= -c shared_preload_libraries=pg_stat_statements -k {}",
            socket.display()
        );
        let log = socket.join("log");
        run(private
            .tool("pg_ctl")
            .arg("start")
            .arg("-w")
            .arg("-D")
            .arg(&data)
            .arg("-l")
            .arg(log)
            .args(["-o", &settings]))?;
        let url = format!("postgres://postgres@localhost/postgres?host={}", socket.display());
        Ok(Self { url, _private: Some(private) })
    }

    /// An empty database, whatever had its name before.
    pub fn make(&self, database: &str) -> anyhow::Result<()> {
        self.ask(async |conn| {
            sqlx::raw_sql(AssertSqlSafe(format!("drop database if exists {database}")))
                .execute(&mut *conn)
                .await?;
            sqlx::raw_sql(AssertSqlSafe(format!("create database {database}"))).execute(conn).await.map(drop)
        })
    }

    /// As a superuser, in the database that the server's own URL names.
    pub fn ask<T>(&self, f: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async { f(&mut connect(&self.url).await?).await })?)
    }

    /// The URL of one of its databases.
    pub fn url(&self, database: &str) -> anyhow::Result<String> {
        let (path, options) = self.url.split_once('?').unwrap_or((&self.url, ""));
        let (server, _) = path.rsplit_once('/').context("the URL names a database")?;
        Ok(format!("{server}/{database}?{options}"))
    }
}

impl Private {
    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// PostgreSQL refuses to run as root.
    fn tool(&self, name: &str) -> Command {
        let program = self.bin.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.folder.path());
        command
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let stopped = run(self.tool("pg_ctl").args(["stop", "-m", "fast", "-w", "-D"]).arg(self.data()));
        if let Err(error) = stopped {
            eprintln!("the server did not stop: {error:#}");
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    // The server keeps what it inherits, so it gets nothing that somebody waits for.
    let name = command.get_program().display().to_string();
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let status = command.status().with_context(|| format!("{name} does not start"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn bin() -> anyhow::Result<PathBuf> {
    let told = Command::new("pg_config").arg("--bindir").output();
    let told = told.ok().and_then(|out| String::from_utf8(out.stdout).ok());
    let packaged = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let packaged = packaged.map(|version| version.path().join("bin"));
    let mut found: Vec<PathBuf> =
        told.map(|out| PathBuf::from(out.trim())).into_iter().chain(packaged).collect();
    found.retain(|bin| Path::new(bin).join("initdb").exists());
    found.pop().context("no initdb: install PostgreSQL, or name a server with BENCH_POSTGRES")
}
