//! Bad input that only a server can show: numbers and times at their ends, rows that cannot be read, proxies.

use es_core::store::{CommitError, EventStore as _, ExpectedVersion, Position, StoreError, Version};
use es_core::{ErrorKind, chain};
use es_postgres::{PgBackend, PgOptions};

use crate::support::{append, commit, exact, fresh, run, stream, with};

/// B61
#[tokio::test]
async fn the_last_position_is_given_out_and_none_after_it() {
    let (database, store) = fresh().await;
    store.commit(commit("a")).await.unwrap();
    let last = i64::MAX as u64;
    let far = format!(
        "begin; set local es.maintenance = 'on'; update es.events set position = {}; commit",
        last - 1
    );
    run(database.url(), &far).await;
    let store = with(&database, |o| o).await;
    // In one batch: the first one has the number, the other none.
    let outcomes = futures::future::join_all((0..2).map(|n| store.commit(commit(&format!("b{n}"))))).await;
    assert_eq!(outcomes[0].as_ref().unwrap().position, Position(last));
    assert!(matches!(outcomes[1], Err(CommitError::Overflow { .. })), "{:?}", outcomes[1]);
    let error = store.commit(commit("c")).await.unwrap_err();
    assert!(matches!(error, CommitError::Overflow { .. }), "{}", chain(&error));
    assert_eq!(store.stream(&stream("b0"), Version(0), 5).await.unwrap().len(), 1);
}

/// B61
#[tokio::test]
async fn the_last_version_is_given_out_and_none_after_it() {
    let (database, store) = fresh().await;
    store.commit(commit("a")).await.unwrap();
    let last = i64::MAX as u64;
    let far = format!(
        "begin; set local es.maintenance = 'on'; update es.events set version = {}; commit",
        last - 1
    );
    run(database.url(), &far).await;
    let store = with(&database, |o| o).await;
    store.commit(exact("a", last - 1)).await.unwrap();
    for expected in [ExpectedVersion::Any, ExpectedVersion::Exact(Version(last))] {
        let error = store.commit(append("a", expected, 1)).await.unwrap_err();
        assert!(matches!(error, CommitError::Overflow { .. }), "{}", chain(&error));
    }
    // Others go on.
    store.commit(commit("b")).await.unwrap();
}

/// B62, B65
#[tokio::test]
async fn a_time_without_end_is_named_and_the_rest_can_be_read() {
    let (database, store) = fresh().await;
    store.commit(append("a", ExpectedVersion::Any, 1)).await.unwrap();
    store.commit(append("b", ExpectedVersion::Any, 1)).await.unwrap();
    for time in ["infinity", "294276-01-01", "-infinity"] {
        let far = format!(
            "begin; set local es.maintenance = 'on'; \
             update es.events set recorded_at = '{time}' where position = 2; commit"
        );
        run(database.url(), &far).await;
        let read = store.stream(&stream("b"), Version(0), 5).await;
        if time == "-infinity" || read.is_err() {
            let error = read.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{time}: {error}");
            assert!(error.to_string().contains("position 2"), "{time}: {error}");
        }
        assert_eq!(store.stream(&stream("a"), Version(0), 5).await.unwrap().len(), 1);
        let violations = store.verify().await.unwrap();
        let named = |v: &String| v.contains("times that can be read") && v.ends_with("position 2");
        assert!(violations.iter().any(named), "{time}: {violations:?}");
    }
}

/// B65
#[tokio::test]
async fn a_checkpoint_that_cannot_be_read_is_named_and_the_rest_is_shown() {
    let (database, store) = fresh().await;
    store.commit(commit("a")).await.unwrap();
    let rows = "insert into es.rows (tbl, key, rev, data) values
        ('checkpoints', 'good/1~1#0000', 1, '{\"position\":1,\"last\":1023}'),
        ('checkpoints', 'bad/1~1#0000', 1, 'not json'),
        ('checkpoints', 'worse/1~1#0000', 1, '\\xff00'),
        ('checkpoints', 'odd/1~1#0000', 1, '{\"position\":\"far\",\"last\":1023}'),
        ('checkpoints', 'merged/1~1#0512', 1, '{\"position\":1}')";
    run(database.url(), rows).await;
    let stats = store.stats().await.unwrap();
    assert_eq!(stats.checkpoints, [("good/1~1#0000".to_owned(), Position(1))]);
    assert_eq!(stats.unreadable, ["bad/1~1#0000", "odd/1~1#0000", "worse/1~1#0000"]);
    let violations = store.verify().await.unwrap();
    assert_eq!(violations.len(), stats.unreadable.len(), "{violations:?}");
    for name in &stats.unreadable {
        let named = format!("the place of {name} cannot be read");
        assert!(violations.iter().any(|violation| violation.ends_with(&named)), "{violations:?}");
    }
}

/// B68: as `PgBouncer` says it.
#[tokio::test]
async fn a_proxy_that_takes_no_settings_is_refused_in_words_that_say_so() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        let (mut client, _) = proxy.accept().await.unwrap();
        let mut startup = [0; 1024];
        assert!(client.read(&mut startup).await.unwrap() > 8);
        let fields = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter in options: search_path\0\0";
        let length = u32::try_from(fields.len() + 4).unwrap();
        client.write_all(&[b"E", &length.to_be_bytes()[..], fields].concat()).await.unwrap();
        client.shutdown().await.unwrap();
    });
    let options = PgOptions::new(&format!("postgres://ada:s3cret@{address}/shop?sslmode=disable")).unwrap();
    let error = PgBackend::connect_with(options).await.unwrap_err();
    answering.await.unwrap();
    let StoreError::Misuse { what } = &error else { panic!("{error:?}") };
    assert!(what.contains("proxy") && what.contains(&address.to_string()), "{what}");
    assert!(!what.contains("s3cret"), "{what}");
}

/// A proxy that has a session of the server for each transaction: whoever begins one gets the session that was used last.
mod pooling {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    type Free = Arc<Mutex<Vec<UnixStream>>>;

    /// A message with its type; without one, the first of a client.
    async fn message(from: &mut (impl AsyncRead + Unpin), typed: bool) -> std::io::Result<Vec<u8>> {
        let mut head = vec![0; 4 + usize::from(typed)];
        from.read_exact(&mut head).await?;
        let length: [u8; 4] = head[head.len() - 4..].try_into().unwrap();
        let start = head.len();
        head.resize(start + u32::from_be_bytes(length) as usize - 4, 0);
        from.read_exact(&mut head[start..]).await?;
        Ok(head)
    }

    /// Hands on what the server says, until it waits for the next; says whether a transaction is open.
    async fn answer(server: &mut UnixStream, client: &mut TcpStream) -> std::io::Result<bool> {
        loop {
            let said = message(server, true).await?;
            client.write_all(&said).await?;
            if said[0] == b'Z' {
                return Ok(said[5] != b'I');
            }
        }
    }

    async fn serve(mut client: TcpStream, socket: String, free: Free) -> std::io::Result<()> {
        let mut own = UnixStream::connect(&socket).await?;
        own.write_all(&message(&mut client, false).await?).await?;
        answer(&mut own, &mut client).await?;
        // Behind all others: those are used first.
        free.lock().unwrap().insert(0, own);
        let mut held = None;
        loop {
            let mut sent = Vec::new();
            loop {
                let part = message(&mut client, true).await?;
                let kind = part[0];
                sent.extend(part);
                match kind {
                    b'X' => return Ok(()),
                    b'Q' | b'S' => break,
                    _ => {}
                }
            }
            let next = || free.lock().unwrap().pop().expect("each client brings one");
            let mut server = held.take().unwrap_or_else(next);
            server.write_all(&sent).await?;
            if answer(&mut server, &mut client).await? {
                held = Some(server);
            } else {
                free.lock().unwrap().push(server);
            }
        }
    }

    /// The port that it listens at.
    pub(super) async fn start(socket: String) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let free = Free::default();
        drop(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                drop(tokio::spawn(serve(client, socket.clone(), free.clone())));
            }
        }));
        port
    }
}

/// B68
#[tokio::test]
async fn a_proxy_that_pools_transactions_is_refused_in_words_that_say_so() {
    use sqlx::postgres::PgConnectOptions;
    let (database, _store) = fresh().await;
    let options: PgConnectOptions = database.url().parse().unwrap();
    let socket = options.get_socket().unwrap().join(format!(".s.PGSQL.{}", options.get_port()));
    let port = pooling::start(socket.to_str().unwrap().to_owned()).await;
    let user = options.get_username();
    let url = format!("postgres://{user}@127.0.0.1:{port}/{}?sslmode=disable", database.name());
    let error = PgBackend::connect(&url).await.unwrap_err();
    let StoreError::Misuse { what } = &error else { panic!("{}", chain(&error)) };
    assert!(what.contains("a proxy") && what.contains("pools transactions"), "{what}");
}
