//! Nothing acknowledged is lost, whatever way the server stops: killed, told to stop, or its disk copied in mid-write.
//!
//! Eight senders write over websockets as fast as the server acknowledges, four readers watch. Half of the senders name
//! their messages (`client_message_id`) and send again what was undecided when the server died; the others do not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how a test fails"
)]

mod support;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use support::accounting::{Account, Stored, Verdict, text};
use support::client::Client;
use support::packet::Incoming;
use support::random::Random;
use support::server::Server;
use support::{history, within_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9_under_load() {
    let mut random = Random::new(Random::seed_from_env("RESTART_SEED"));
    let kills = number_from_env("RESTART_KILLS", 5);
    let mut server = Server::start(&[]).await;
    let mut books = Books::new();
    for run in 1..=kills {
        let mut load = Load::start(&server, &mut books, run, u64::MAX).await;
        load.acked(random.within(200..2_500)).await;
        // An acknowledgement is a moment of its own; a crash should also fall between two of them.
        tokio::time::sleep(Duration::from_micros(random.within(0..5_000))).await;
        server.kill9().await;
        load.finished().await;
        server = server.restart().await;
        let verdict = settled(&server, &books).await;
        println!("kill {run}: {verdict}");
        verdict.assert_clean();
    }
    let mut load = Load::start(&server, &mut books, kills + 1, 50).await;
    load.all_shown(kills + 1).await;
    load.finished().await;
    let verdict = settled(&server, &books).await;
    println!("at last: {verdict}");
    verdict.assert_clean();
    let undecided = books.undecided_named();
    assert!(
        undecided.is_empty(),
        "sent again, never decided: {undecided:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_exits_0_and_loses_nothing() {
    let mut random = Random::new(Random::seed_from_env("RESTART_SEED"));
    let mut server = Server::start(&[("DRAIN_TIMEOUT_MS", "10000")]).await;
    let mut books = Books::new();
    let mut load = Load::start(&server, &mut books, 1, u64::MAX).await;
    load.acked(random.within(200..2_500)).await;
    let status = server.terminate(Duration::from_secs(20)).await;
    load.finished().await;
    assert!(status.success(), "exit status after SIGTERM: {status}");
    let server = server.restart().await;
    let verdict = settled(&server, &books).await;
    println!("after SIGTERM: {verdict}");
    verdict.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_data_in_mid_write_holds_all_that_was_acknowledged() {
    let mut random = Random::new(Random::seed_from_env("RESTART_SEED"));
    let mut server = Server::start(&[]).await;
    let mut books = Books::new();
    let mut load = Load::start(&server, &mut books, 1, u64::MAX).await;
    let mut copies = Vec::new();
    for _ in 0..3 {
        load.acked(random.within(100..1_000)).await;
        tokio::time::sleep(Duration::from_micros(random.within(0..5_000))).await;
        let copy = tempfile::tempdir().unwrap();
        let account = &books.account;
        let acked = server.frozen(|root| {
            copy_folder(root, copy.path());
            account.lock().unwrap().acked()
        });
        copies.push((acked.await, copy));
    }
    server.kill9().await;
    load.finished().await;
    for (acked, copy) in copies {
        let server = Server::start_in(copy.path(), &[]).await;
        let stored = all_stored(&server, &books).await;
        let verdict = books.account.lock().unwrap().settle(&stored);
        // Acknowledged after the copy was taken: not in it, and no loss.
        let verdict = Verdict {
            lost: missing(&acked, &stored),
            shown_not_stored: Vec::new(),
            ..verdict
        };
        println!("copy after {} acknowledgements: {verdict}", acked.len());
        verdict.assert_clean();
    }
}

/// Those of `acked` that are not stored as they were acknowledged.
fn missing(acked: &[Stored], stored: &HashMap<String, Vec<Value>>) -> Vec<String> {
    let stored: std::collections::HashSet<_> = stored.values().flatten().map(Stored::of).collect();
    let missing = acked.iter().filter(|one| !stored.contains(one));
    missing.map(|one| format!("{one:?}")).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

// === Books ===

/// The accounts of all runs, and what each naming sender still has to send again.
struct Books {
    account: Arc<Mutex<Account>>,
    undecided: Vec<Arc<Mutex<Vec<String>>>>,
}

impl Books {
    fn new() -> Books {
        Books {
            account: Arc::default(),
            undecided: (0..SENDERS).map(|_| Arc::default()).collect(),
        }
    }

    fn undecided_named(&self) -> Vec<String> {
        let lists = self
            .undecided
            .iter()
            .map(|list| list.lock().unwrap().clone());
        lists.flatten().collect()
    }
}

/// The verdict once history stands still: two equal reads in a row, within 30 s.
async fn settled(server: &Server, books: &Books) -> Verdict {
    let stored = within_for(
        Duration::from_secs(30),
        "two equal reads of history",
        async {
            let mut before = all_stored(server, books).await;
            loop {
                let now = all_stored(server, books).await;
                if now == before {
                    return now;
                }
                before = now;
            }
        },
    );
    let stored = stored.await;
    books.account.lock().unwrap().settle(&stored)
}

async fn all_stored(server: &Server, books: &Books) -> HashMap<String, Vec<Value>> {
    let conversations = books.account.lock().unwrap().conversations();
    let mut stored = HashMap::new();
    for conversation in conversations {
        let messages = history::whole(server.address, &conversation).await;
        stored.insert(conversation, messages);
    }
    stored
}

// === Load ===

/// Senders and readers at work.
struct Load {
    senders: JoinSet<()>,
    readers: JoinSet<()>,
    account: Arc<Mutex<Account>>,
    /// Acknowledgements of this run.
    acked: watch::Receiver<u64>,
    /// Changes with each message shown.
    shown: watch::Receiver<()>,
}

impl Load {
    /// Starts them; each sender stops by itself after `messages` new ones.
    async fn start(server: &Server, books: &mut Books, run: u64, messages: u64) -> Load {
        let mut readers = JoinSet::new();
        let (shown_sender, shown) = watch::channel(());
        let shown_sender = Arc::new(shown_sender);
        for conversation in (0..SENDERS).step_by(SENDERS / CONVERSATIONS) {
            let conversation = conversation_of(conversation);
            let mut client = Client::websocket(server.address).await;
            client.join(&receiver_of(&conversation)).await;
            readers.spawn(read(
                client,
                books.account.clone(),
                conversation,
                shown_sender.clone(),
            ));
        }
        let (sender, acked) = watch::channel(0);
        let sender = Arc::new(sender);
        let mut senders = JoinSet::new();
        for number in 0..SENDERS {
            let one = Sender {
                run,
                name: format!("s{number}"),
                conversation: conversation_of(number),
                account: books.account.clone(),
                again: (number % 2 == 0).then(|| books.undecided[number].clone()),
                acked: sender.clone(),
                in_flight: VecDeque::new(),
                asked: HashMap::new(),
                stopping: false,
            };
            senders.spawn(one.send(server.address, messages));
        }
        Load {
            senders,
            readers,
            account: books.account.clone(),
            acked,
            shown,
        }
    }

    /// Waits for so many more acknowledgements.
    async fn acked(&mut self, more: u64) {
        let goal = *self.acked.borrow() + more;
        let reached = self.acked.wait_for(|acked| *acked >= goal);
        let reached = within_for(
            Duration::from_secs(60),
            "acknowledgements under load",
            reached,
        );
        assert!(
            reached.await.is_ok(),
            "all senders ended before {goal} acknowledgements"
        );
    }

    /// For senders that stop by themselves: waits until the readers were shown all that was acknowledged in this run.
    async fn all_shown(&mut self, run: u64) {
        self.senders_ended().await;
        let account = self.account.clone();
        let all = self
            .shown
            .wait_for(|()| account.lock().unwrap().unshown(run) == 0);
        within_for(
            Duration::from_secs(10),
            "every acknowledged message to be shown",
            all,
        )
        .await
        .expect("readers that live");
    }

    async fn senders_ended(&mut self) {
        let end = async {
            while let Some(result) = self.senders.join_next().await {
                result.unwrap();
            }
        };
        within_for(Duration::from_secs(60), "the senders to end", end).await;
    }

    /// Waits until every sender has ended, and sends the readers home.
    async fn finished(&mut self) {
        self.senders_ended().await;
        self.readers.abort_all();
        while let Some(result) = self.readers.join_next().await {
            assert!(
                result.is_ok() || result.unwrap_err().is_cancelled(),
                "a reader panicked"
            );
        }
        assert!(
            !self.account.lock().unwrap().conversations().is_empty(),
            "nothing was sent"
        );
    }
}

fn conversation_of(sender: usize) -> String {
    format!("room-{}", sender / (SENDERS / CONVERSATIONS))
}

fn receiver_of(conversation: &str) -> String {
    format!("reader-of-{conversation}")
}

async fn read(
    mut client: Client,
    account: Arc<Mutex<Account>>,
    conversation: String,
    shown: Arc<watch::Sender<()>>,
) {
    let reader = account.lock().unwrap().reader(&conversation);
    while let Some(incoming) = client.next().await {
        if let Incoming::Event(event) = incoming
            && event.name == "newMessage"
        {
            account.lock().unwrap().show(reader, event.data());
            shown.send_replace(());
        }
    }
}

/// One sender's connection: keeps [`IN_FLIGHT`] messages undecided until it is cut, or has sent enough.
struct Sender {
    run: u64,
    name: String,
    conversation: String,
    account: Arc<Mutex<Account>>,
    /// Where a naming sender keeps what it must send again; `None` for one that asks for acknowledgements instead.
    again: Option<Arc<Mutex<Vec<String>>>>,
    acked: Arc<watch::Sender<u64>>,
    in_flight: VecDeque<String>,
    /// Acknowledgement id to text.
    asked: HashMap<u64, String>,
    /// The server said that it drains.
    stopping: bool,
}

impl Sender {
    async fn send(mut self, address: SocketAddr, messages: u64) {
        let mut client = Client::websocket(address).await;
        let mut waiting: VecDeque<String> = match &self.again {
            Some(again) => std::mem::take(&mut *again.lock().unwrap()).into(),
            None => VecDeque::new(),
        };
        let mut number = 0;
        let mut open = true;
        while open {
            while open && !self.stopping && self.in_flight.len() < IN_FLIGHT {
                let text = match waiting.pop_front() {
                    Some(text) => text,
                    None if number == messages => break,
                    None => {
                        number += 1;
                        format!("{}/{}/{number}", self.run, self.name)
                    }
                };
                open = self.offer(&mut client, text).await;
            }
            if self.in_flight.is_empty() && number == messages {
                break;
            }
            match client.next().await {
                Some(incoming) => self.receive(incoming),
                None => open = false,
            }
        }
        self.cut(waiting);
    }

    async fn offer(&mut self, client: &mut Client, text: String) -> bool {
        self.account
            .lock()
            .unwrap()
            .offer(&self.conversation, &text);
        self.in_flight.push_back(text.clone());
        let mut data = json!({
            "sender_id": self.name,
            "receiver_id": receiver_of(&self.conversation),
            "conversation_id": self.conversation,
            "text_content": text,
        });
        if self.again.is_some() {
            data["client_message_id"] = json!(text);
            return client.try_emit("chatMessage", data).await;
        }
        match client.try_emit_asking("chatMessage", data).await {
            Some(id) => self.asked.insert(id, text).is_none(),
            None => false,
        }
    }

    fn receive(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Event(event) if event.name == "messageSent" => self.ack(event.data()),
            Incoming::Event(event) if event.name == "messageError" => {
                if let Some(text) = event.data()["client_message_id"].as_str() {
                    self.refused(text, event.data());
                }
            }
            Incoming::Ack { id, args, .. } => {
                let text = self
                    .asked
                    .remove(&id)
                    .expect("an acknowledgement that was asked for");
                match args[0]["status"].as_str() {
                    Some("ok") => self.ack(&args[0]["message"]),
                    _ => self.refused(&text, &args[0]),
                }
            }
            _ => {}
        }
    }

    fn ack(&mut self, message: &Value) {
        self.account.lock().unwrap().ack(message);
        if self.decided(&text(message)) {
            self.acked.send_modify(|acked| *acked += 1);
        }
    }

    fn refused(&mut self, text: &str, error: &Value) {
        let code = error["code"].as_str().expect("a refusal has a code");
        assert!(
            REFUSALS.contains(&code),
            "unexpected refusal under load: {error}"
        );
        self.account.lock().unwrap().reject(text, code);
        self.stopping |= code == "draining";
        self.decided(text);
    }

    /// False when it was decided before.
    fn decided(&mut self, text: &str) -> bool {
        let place = self.in_flight.iter().position(|other| other == text);
        place
            .and_then(|place| self.in_flight.remove(place))
            .is_some()
    }

    /// The connection is gone: what is open stays open, in the order sent.
    fn cut(mut self, waiting: VecDeque<String>) {
        let mut account = self.account.lock().unwrap();
        self.in_flight.iter().for_each(|text| account.cut(text));
        if let Some(again) = &self.again {
            again
                .lock()
                .unwrap()
                .extend(self.in_flight.drain(..).chain(waiting));
        }
    }
}

fn number_from_env(name: &str, default: u64) -> u64 {
    let number = std::env::var(name).ok().map(|text| text.parse().unwrap());
    number.unwrap_or(default)
}

/// What a healthy server may answer under load: lanes are full, it stops, or a stop overtook the append.
const REFUSALS: [&str; 3] = ["busy", "draining", "unknown"];
const SENDERS: usize = 8;
const CONVERSATIONS: usize = 4;
/// Messages of one sender that may be undecided at once.
const IN_FLIGHT: usize = 16;
