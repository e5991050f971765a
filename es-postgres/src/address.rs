//! Where the server is: on one host, or on one of several, whichever is the primary now.
//!
//! The driver knows one host. Several are tried here, from the one on that was reached last; pools are told which that is.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgPool};

use crate::connect;

/// How long one of several hosts is waited for.
const WITHIN: Duration = Duration::from_secs(3);
const PORT: u16 = 5432;

/// Which of several hosts will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Any,
    /// Not a standby.
    Primary,
    /// A session writes without asking for it.
    ReadWrite,
}

/// How to connect. Debug would show the password.
#[derive(Clone)]
pub(crate) struct Address {
    options: PgConnectOptions,
    hosts: Arc<Hosts>,
}

/// The hosts to try; none: the one of the driver's options.
struct Hosts {
    all: Vec<(String, u16)>,
    target: Target,
    last: AtomicUsize,
    pools: Mutex<Vec<PgPool>>,
}

impl Hosts {
    fn new(all: Vec<(String, u16)>, target: Target) -> Arc<Self> {
        Arc::new(Self { all, target, last: AtomicUsize::new(0), pools: Mutex::default() })
    }
}

impl Address {
    /// One host.
    pub(crate) fn one(options: PgConnectOptions) -> Self {
        Self { options, hosts: Hosts::new(Vec::new(), Target::Any) }
    }

    /// By a URL as `libpq` reads it; `None` if it is malformed. The driver's error may quote it, and with it the password.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let Url { driver, hosts, target } = Url::parse(url)?;
        let options: PgConnectOptions = driver.parse().ok()?;
        let target = target.unwrap_or(if hosts.len() > 1 { Target::Primary } else { Target::Any });
        Some(Self { options: options.disable_statement_logging(), hosts: Hosts::new(hosts, target) })
    }

    /// The same for a store of its own: pools belong to one.
    pub(crate) fn for_a_store(&self) -> Self {
        let Hosts { all, target, .. } = &*self.hosts;
        Self { options: self.options.clone(), hosts: Hosts::new(all.clone(), *target) }
    }

    pub(crate) fn with<const N: usize>(&self, options: [(&str, &str); N]) -> Self {
        Self { options: self.options.clone().options(options), hosts: self.hosts.clone() }
    }

    /// The driver's options, with the host that was reached last.
    pub(crate) fn driver(&self) -> PgConnectOptions {
        self.at(self.hosts.last.load(Ordering::Relaxed))
    }

    /// A pool that follows to the host that was reached last.
    pub(crate) fn pool(&self, options: PgPoolOptions) -> PgPool {
        let pool = options.connect_lazy_with(self.driver());
        if !self.hosts.all.is_empty() {
            let mut pools = self.hosts.pools.lock().unwrap_or_else(PoisonError::into_inner);
            pools.retain(|pool| !pool.is_closed());
            pools.push(pool.clone());
        }
        pool
    }

    /// Connects to the host that was reached last, or to the next one that will do.
    pub(crate) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let Hosts { all, last, .. } = &*self.hosts;
        if all.is_empty() {
            return self.options.connect().await.map_err(|error| connect::at(&self.options, error));
        }
        let (first, mut failed) = (last.load(Ordering::Relaxed), Vec::new());
        for number in (first..first + all.len()).map(|number| number % all.len()) {
            match self.reach(number).await {
                Ok(conn) => {
                    if last.swap(number, Ordering::Relaxed) != number {
                        self.tell_pools(number);
                    }
                    return Ok(conn);
                }
                Err(error) => failed.push(error),
            }
        }
        Err(none_of(failed))
    }

    /// Finds out which host is the one, for pools that cannot.
    pub(crate) async fn look(&self) {
        if !self.hosts.all.is_empty()
            && let Ok(conn) = self.connect().await
        {
            drop(conn.close().await);
        }
    }

    async fn reach(&self, number: usize) -> Result<PgConnection, sqlx::Error> {
        let (options, target) = (self.at(number), self.hosts.target);
        let place = connect::place(&options);
        let reached = async {
            let mut conn = options.connect().await?;
            let (asked, why) = match target {
                Target::Any => return Ok(conn),
                Target::Primary => ("select pg_is_in_recovery()", "it is a standby"),
                Target::ReadWrite => {
                    ("select current_setting('transaction_read_only') = 'on'", "it does not write")
                }
            };
            if sqlx::query_scalar(asked).fetch_one(&mut conn).await? {
                return Err(sqlx::Error::Io(io::Error::other(why)));
            }
            Ok(conn)
        };
        let late = |_| Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "it does not answer")));
        let reached = tokio::time::timeout(WITHIN, reached).await;
        reached.unwrap_or_else(late).map_err(|error| named(&place, error))
    }

    fn at(&self, number: usize) -> PgConnectOptions {
        match self.hosts.all.get(number) {
            Some((host, port)) => self.options.clone().host(host).port(*port),
            None => self.options.clone(),
        }
    }

    /// Each pool has settings of its own.
    fn tell_pools(&self, number: usize) {
        let Some((host, port)) = self.hosts.all.get(number) else { return };
        for pool in &*self.hosts.pools.lock().unwrap_or_else(PoisonError::into_inner) {
            let options = (*pool.connect_options()).clone();
            pool.set_connect_options(options.host(host).port(*port));
        }
    }
}

/// With the place in it, where the server has said nothing.
fn named(place: &str, error: sqlx::Error) -> sqlx::Error {
    match error {
        sqlx::Error::Io(error) => sqlx::Error::Io(io::Error::new(error.kind(), format!("{place}: {error}"))),
        other => other,
    }
}

/// None will do: what a server has refused is a mistake only if all of them have.
fn none_of(mut failed: Vec<sqlx::Error>) -> sqlx::Error {
    let all: Vec<String> = failed.iter().map(ToString::to_string).collect();
    match failed.pop() {
        Some(last) if failed.iter().chain([&last]).all(|error| !matches!(error, sqlx::Error::Io(_))) => last,
        _ => {
            let why = format!("no host takes writes now: {}", all.join("; "));
            sqlx::Error::Io(io::Error::new(io::ErrorKind::NotConnected, why))
        }
    }
}

/// A URL, taken apart.
struct Url {
    /// With the first host alone, as the driver reads it.
    driver: String,
    hosts: Vec<(String, u16)>,
    target: Option<Target>,
}

impl Url {
    fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = match rest.split_once('/') {
            Some((authority, database)) => (authority, format!("/{database}")),
            None => (rest, String::new()),
        };
        let (user, places) = match authority.rsplit_once('@') {
            Some((user, places)) => (format!("{user}@"), places),
            None => (String::new(), authority),
        };
        let (mut hosts, mut ports, mut target) = (Vec::new(), Vec::new(), None);
        let (mut drivers, mut others) = (Vec::new(), Vec::new());
        for place in places.split(',').filter(|place| !place.is_empty()) {
            let (host, port) = host_and_port(place)?;
            hosts.push(host);
            ports.push(port);
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            drivers.push(pair);
            match pair.split_once('=') {
                Some(("host" | "hostaddr", all)) => {
                    hosts = decode(all)?.split(',').map(str::to_owned).collect();
                }
                Some(("port", all)) => {
                    ports = decode(all)?.split(',').map(|port| port.parse().ok()).collect::<Option<_>>()?;
                }
                Some(("target_session_attrs", which)) => {
                    target = Some(match which {
                        "any" => Target::Any,
                        "primary" => Target::Primary,
                        "read-write" => Target::ReadWrite,
                        _ => return None,
                    });
                    drivers.pop();
                }
                _ => others.push(pair.to_owned()),
            }
        }
        if hosts.len() < 2 && target.is_none_or(|target| target == Target::Any) {
            let driver = format!("{scheme}://{authority}{database}?{}", drivers.join("&"));
            let driver = if target.is_none() { url.to_owned() } else { driver };
            return Some(Self { driver, hosts: Vec::new(), target });
        }
        if hosts.is_empty() {
            hosts.push("localhost".to_owned());
        }
        let port = |i: usize| ports.get(i).or_else(|| ports.first().filter(|_| ports.len() == 1)).copied();
        if ports.len() > 1 && ports.len() != hosts.len() {
            return None;
        }
        let hosts: Vec<(String, u16)> =
            (0..).zip(hosts).map(|(i, host)| (host, port(i).unwrap_or(PORT))).collect();
        let query = others.join("&");
        let driver = format!("{scheme}://{user}localhost{database}?{query}");
        Some(Self { driver, hosts, target })
    }
}

/// `host`, `host:port`, `[::1]` or `[::1]:port`.
fn host_and_port(place: &str) -> Option<(String, u16)> {
    let (host, port) = match place.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, rest))) => (host, rest.strip_prefix(':')),
        Some(None) => return None,
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    Some((decode(host)?, port.map_or(Some(PORT), |port| port.parse().ok())?))
}

/// `%` and two digits stand for a byte.
fn decode(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(url: &str) -> Vec<(String, u16)> {
        Url::parse(url).unwrap().hosts
    }

    fn at(host: &str, port: u16) -> (String, u16) {
        (host.to_owned(), port)
    }

    #[test]
    fn one_host_is_the_drivers() {
        for url in ["postgres://ada:x%2Cy@db:5433/shop?sslmode=disable", "postgres:///shop?host=%2Ftmp"] {
            let parsed = Url::parse(url).unwrap();
            assert_eq!((&*parsed.driver, parsed.hosts), (url, vec![]));
        }
        let any = "postgres://ada@db:5433/shop?host=%2Ftmp&target_session_attrs=any&port=7";
        let parsed = Url::parse(any).unwrap();
        assert_eq!(parsed.hosts, []);
        assert_eq!(parsed.driver, "postgres://ada@db:5433/shop?host=%2Ftmp&port=7", "it stays where it is");
    }

    #[test]
    fn several_hosts_are_read_as_libpq_reads_them() {
        let url =
            "postgres://ada:x@db1,db2:5433,[::1]:5434/shop?sslmode=disable&target_session_attrs=read-write";
        let parsed = Url::parse(url).unwrap();
        assert_eq!(parsed.driver, "postgres://ada:x@localhost/shop?sslmode=disable");
        assert_eq!(parsed.hosts, [at("db1", 5432), at("db2", 5433), at("::1", 5434)]);
        assert_eq!(parsed.target, Some(Target::ReadWrite));
        let sockets = [at("/tmp/a", 7), at("/tmp/b", 7)];
        assert_eq!(hosts("postgres://u@localhost/db?host=%2Ftmp%2Fa,%2Ftmp%2Fb&port=7"), sockets);
        assert_eq!(hosts("postgres:///db?host=a,b&port=1,2"), [at("a", 1), at("b", 2)]);
        assert_eq!(hosts("postgres://db:9/x?target_session_attrs=primary"), [at("db", 9)]);
    }

    #[test]
    fn what_cannot_be_read_is_malformed() {
        for url in [
            "postgres://a,b:port/x",
            "postgres://[::1,b/x",
            "postgres:///x?host=a,b,c&port=1,2",
            "postgres://a,b/x?target_session_attrs=standby",
            "postgres:///x?host=%2,b",
        ] {
            assert!(Url::parse(url).is_none(), "{url}");
        }
    }

    #[test]
    fn a_refusal_of_one_host_is_no_mistake_while_another_cannot_be_reached() {
        let away = || sqlx::Error::Io(io::Error::from(io::ErrorKind::ConnectionRefused));
        let wrong = || sqlx::Error::Configuration("the password".into());
        let error = none_of(vec![named("db1:5432", away()), wrong()]);
        assert!(matches!(&error, sqlx::Error::Io(why) if why.to_string().contains("db1:5432: ")), "{error}");
        assert!(matches!(none_of(vec![wrong(), wrong()]), sqlx::Error::Configuration(_)));
    }
}
