//! The store in MongoDB when its server is not there, goes away, falls silent and comes back.

use std::net::SocketAddr;
use std::time::Duration;

use chat_svc::store::mongo::{MongoConfig, MongoStore};
use chat_svc::store::{Cursor, PageQuery, Store, StoreError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::mongo::{server, with_database};
use crate::{conversation, messages, page, run};

#[test]
fn an_address_where_nobody_listens_is_named() {
    run(async {
        let mut config = MongoConfig::new("mongodb://ann:secret@127.0.0.1:1/x");
        config.selection_timeout = Duration::from_millis(50);
        let error = MongoStore::open(config).await.err().unwrap();
        let text = error.to_string();
        assert!(matches!(error, StoreError::Unavailable(_)), "{text}");
        assert!(
            text.contains("127.0.0.1:1") && !text.contains("secret"),
            "{text}"
        );
        assert!(
            text.contains("refused") && !text.contains("Topology"),
            "{text}"
        );
    });
}

#[test]
fn an_address_that_is_none_is_refused() {
    run(async {
        for uri in [
            "",
            "http://x",
            "mongodb://",
            "mongodb://ann:sec/ret@x",
            "mongodb://x/?w=-1",
        ] {
            let error = MongoStore::open(MongoConfig::new(uri)).await.err().unwrap();
            let text = error.to_string();
            assert!(matches!(error, StoreError::Failed(_)), "{uri}: {text}");
            assert!(text.contains("address") && !text.contains("sec"), "{text}");
        }
    });
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    run(async {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let mut config = MongoConfig::new(format!("mongodb://{address}"));
        config.selection_timeout = Duration::from_millis(100);
        config.call_timeout = Duration::from_millis(200);
        let error = MongoStore::open(config).await.err().unwrap();
        assert!(matches!(error, StoreError::Unavailable(_)));
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    });
}

#[test]
fn wrong_credentials_are_told() {
    let Some(server) = server() else { return };
    run(async {
        let (address, _) = server.split_once('?').unwrap_or((&server, ""));
        let hosts = address
            .rsplit(['@', '/'])
            .find(|part| part.contains(':'))
            .unwrap();
        let uri = format!("mongodb://nobody:wr0ng@{hosts}/?authMechanism=SCRAM-SHA-256");
        let error = MongoStore::open(MongoConfig::new(uri)).await.err().unwrap();
        let text = error.to_string();
        assert!(matches!(error, StoreError::Failed(_)), "{text}");
        assert!(
            text.contains("credentials") && !text.contains("wr0ng"),
            "{text}"
        );
    });
}

#[test]
fn a_server_that_goes_away_and_comes_back_is_used_again() {
    with_database(async |_, mut config| {
        let line = Line::to(&config.uri).await;
        config.uri = line.uri.clone();
        config.selection_timeout = Duration::from_millis(300);
        config.call_timeout = Duration::from_millis(500);
        let store = MongoStore::open(config).await.unwrap();
        let chat = conversation();
        let all = messages(&chat, 1..=60);
        store.insert_many(&all[..20]).await.unwrap();
        for (state, batch) in [(State::Cut, &all[20..40]), (State::Silent, &all[40..])] {
            line.state.send_replace(state);
            unavailable(store.insert_many(batch).await);
            unavailable(store.report_spam(all[0].id).await);
            unavailable(store.find(&[all[0].id]).await);
            unavailable(store.ping().await);
            let query = PageQuery {
                conversation: &chat,
                cursor: Cursor::Newest,
                limit: 9,
            };
            unavailable(store.page(query).await);
            line.state.send_replace(State::Open);
            let mut tries = 0;
            // Each try waits for the server as long as a call may take.
            while store.insert_many(batch).await.is_err() {
                tries += 1;
                assert!(tries < 100, "the store does not come back");
            }
        }
        assert_eq!(page(&store, &chat, Cursor::Newest, 99).await, all);
    });
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
    assert!(
        matches!(answer, Err(StoreError::Unavailable(_))),
        "{answer:?}"
    );
}

// === Line ===

/// The way to the server, which can be cut.
struct Line {
    uri: String,
    state: watch::Sender<State>,
    _serving: JoinSet<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    /// Connections end; new ones too.
    Cut,
    /// Connections stay, and nothing passes.
    Silent,
}

impl Line {
    async fn to(uri: &str) -> Self {
        let (scheme, rest) = uri.split_once("://").unwrap();
        let (hosts, path) = rest.split_once('/').unwrap();
        let (credentials, host) = match hosts.rsplit_once('@') {
            Some((credentials, host)) => (format!("{credentials}@"), host),
            None => (String::new(), hosts),
        };
        let target = tokio::net::lookup_host(host).await.unwrap().next().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, watched) = watch::channel(State::Open);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                lines.spawn(carry(client, target, watched.clone()));
            }
        });
        let (database, options) = path.split_once('?').unwrap_or((path, ""));
        Self {
            uri: format!(
                "{scheme}://{credentials}{address}/{database}?directConnection=true&{options}"
            )
            .trim_end_matches('&')
            .to_owned(),
            state,
            _serving: serving,
        }
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let copying = tokio::io::copy_bidirectional(&mut client, &mut server);
    tokio::pin!(copying);
    loop {
        let now = *state.borrow_and_update();
        tokio::select! {
            _ = &mut copying, if now == State::Open => return,
            changed = state.changed() => if changed.is_err() { return },
            () = std::future::ready(()), if now == State::Cut => return,
        }
    }
}
