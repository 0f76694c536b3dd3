//! Senders and readers at work on one server, over all its lives, and the books kept of it.
//!
//! Eight senders write over websockets as fast as the server acknowledges, four readers watch. Half of the senders name
//! their messages (`client_message_id`) and send again what was undecided when the server died; the others do not.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::accounting::{Account, Verdict, text};
use super::client::Client;
use super::packet::Incoming;
use super::server::Server;
use super::{history, within_for};

// === Books ===

/// The accounts of all runs, and what each naming sender still has to send again.
pub struct Books {
    pub account: Arc<Mutex<Account>>,
    undecided: Vec<Arc<Mutex<Vec<String>>>>,
    /// What the server may refuse with.
    refusals: &'static [&'static str],
}

impl Books {
    pub fn new() -> Books {
        Books::allowing(&["busy", "draining", "unknown"])
    }

    /// Any other refusal is a failure. A healthy server may say under load that lanes are full, that it stops, or that
    /// a stop overtook the append.
    pub fn allowing(refusals: &'static [&'static str]) -> Books {
        Books {
            refusals,
            account: Arc::default(),
            undecided: (0..SENDERS).map(|_| Arc::default()).collect(),
        }
    }

    pub fn undecided_named(&self) -> Vec<String> {
        let lists = self
            .undecided
            .iter()
            .map(|list| list.lock().unwrap().clone());
        lists.flatten().collect()
    }
}

/// The verdict once history stands still: two equal reads in a row, within 30 s.
pub async fn settled(server: &Server, books: &Books) -> Verdict {
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

pub async fn all_stored(server: &Server, books: &Books) -> HashMap<String, Vec<Value>> {
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
pub struct Load {
    senders: JoinSet<()>,
    readers: JoinSet<()>,
    account: Arc<Mutex<Account>>,
    /// Acknowledgements of this run.
    acked: watch::Receiver<u64>,
    /// Changes with each message shown.
    shown: watch::Receiver<()>,
    /// The senders are to stop once all they sent is decided.
    enough: Arc<AtomicBool>,
}

impl Load {
    /// Starts them; each sender stops by itself after `messages` new ones.
    pub async fn start(server: &Server, books: &mut Books, run: u64, messages: u64) -> Load {
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
        let enough = Arc::new(AtomicBool::new(false));
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
                enough: enough.clone(),
                refusals: books.refusals,
            };
            senders.spawn(one.send(server.address, messages));
        }
        Load {
            senders,
            readers,
            account: books.account.clone(),
            acked,
            shown,
            enough,
        }
    }

    /// Waits for so many more acknowledgements.
    pub async fn acked(&mut self, more: u64) {
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

    /// Has the senders stop once all they sent is decided.
    pub fn enough(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    /// For senders that stop by themselves: waits until the readers were shown all that was acknowledged in this run.
    pub async fn all_shown(&mut self, run: u64) {
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

    pub async fn senders_ended(&mut self) {
        let end = async {
            while let Some(result) = self.senders.join_next().await {
                result.unwrap();
            }
        };
        within_for(Duration::from_secs(60), "the senders to end", end).await;
    }

    /// Waits until every sender has ended, and sends the readers home.
    pub async fn finished(&mut self) {
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

pub fn conversation_of(sender: usize) -> String {
    format!("room-{}", sender / (SENDERS / CONVERSATIONS))
}

pub fn receiver_of(conversation: &str) -> String {
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
    enough: Arc<AtomicBool>,
    refusals: &'static [&'static str],
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
            let enough = self.enough.load(Ordering::Relaxed);
            while open && !enough && !self.stopping && self.in_flight.len() < IN_FLIGHT {
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
            if self.in_flight.is_empty() && (enough || number == messages) {
                break;
            }
            match client.next().await {
                Some(incoming) => {
                    if self.receive(incoming) {
                        tokio::time::sleep(BACKOFF).await;
                    }
                }
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

    /// Whether it was a refusal.
    fn receive(&mut self, incoming: Incoming) -> bool {
        match incoming {
            Incoming::Event(event) if event.name == "messageSent" => self.ack(event.data()),
            Incoming::Event(event) if event.name == "messageError" => {
                if let Some(text) = event.data()["client_message_id"].as_str() {
                    self.refused(text, event.data());
                    return true;
                }
            }
            Incoming::Ack { id, args, .. } => {
                let text = self
                    .asked
                    .remove(&id)
                    .expect("an acknowledgement that was asked for");
                if args[0]["status"] != "ok" {
                    self.refused(&text, &args[0]);
                    return true;
                }
                self.ack(&args[0]["message"]);
            }
            _ => {}
        }
        false
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
            self.refusals.contains(&code),
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

/// A setting of the test run.
pub fn number_from_env(name: &str, default: u64) -> u64 {
    let number = std::env::var(name).ok().map(|text| text.parse().unwrap());
    number.unwrap_or(default)
}

/// How long a sender rests that was refused, as people do.
const BACKOFF: Duration = Duration::from_millis(50);
const SENDERS: usize = 8;
const CONVERSATIONS: usize = 4;
/// Messages of one sender that may be undecided at once.
const IN_FLIGHT: usize = 16;
