//! Senders and readers that come back: a client whose node has gone goes to another and sends again what was open.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::accounting::{Account, Verdict, text};
use crate::support::client::Client;
use crate::support::packet::Incoming;
use crate::support::{history, within_for};

const SENDERS: usize = 6;
const CONVERSATIONS: usize = 3;
/// Readers of one conversation: one begins on each of two nodes.
pub const READERS: usize = 2;
/// Messages of one sender that may be undecided at once.
const IN_FLIGHT: usize = 8;
/// For anything under load.
const PATIENCE: Duration = Duration::from_secs(90);

/// Clients at work.
pub struct Load {
    pub account: Arc<Mutex<Account>>,
    /// Where clients may connect.
    live: Arc<watch::Sender<Vec<SocketAddr>>>,
    stopping: watch::Sender<bool>,
    acked: Arc<watch::Sender<usize>>,
    shown: Arc<watch::Sender<usize>>,
    senders: JoinSet<()>,
    readers: JoinSet<()>,
}

impl Load {
    /// Starts them; the senders go on until they are told to stop.
    pub async fn start(nodes: Vec<SocketAddr>) -> Load {
        let mut load = Load {
            account: Arc::default(),
            live: Arc::new(watch::Sender::new(nodes)),
            stopping: watch::Sender::new(false),
            acked: Arc::default(),
            shown: Arc::default(),
            senders: JoinSet::new(),
            readers: JoinSet::new(),
        };
        let (joined, mut joins) = tokio::sync::mpsc::channel(CONVERSATIONS * READERS);
        for number in 0..CONVERSATIONS * READERS {
            let reader = Reader {
                number: number / CONVERSATIONS,
                conversation: format!("room-{}", number % CONVERSATIONS),
                account: load.account.clone(),
                live: load.live.subscribe(),
                shown: load.shown.clone(),
            };
            load.readers.spawn(reader.run(joined.clone()));
        }
        for _ in 0..CONVERSATIONS * READERS {
            within_for(PATIENCE, "a reader to join", joins.recv()).await;
        }
        for number in 0..SENDERS {
            let sender = Sender {
                number,
                conversation: format!("room-{}", number % CONVERSATIONS),
                account: load.account.clone(),
                live: load.live.subscribe(),
                acked: load.acked.clone(),
                open: VecDeque::new(),
                sent: 0,
                stopping: load.stopping.subscribe(),
            };
            load.senders.spawn(sender.run());
        }
        load
    }

    /// Says where clients may connect from now on.
    pub fn live(&self, nodes: &[SocketAddr]) {
        self.live.send_replace(nodes.to_vec());
    }

    /// Waits for so many more acknowledgements.
    pub async fn more(&self, acknowledgements: usize) {
        let goal = *self.acked.borrow() + acknowledgements;
        let mut acked = self.acked.subscribe();
        let reached = acked.wait_for(|acked| *acked >= goal);
        within_for(PATIENCE, "acknowledgements", reached)
            .await
            .expect("senders that live");
    }

    /// Tells the senders to stop, and waits until all they sent is acknowledged: how many that are.
    pub async fn stop(&mut self) -> usize {
        self.stopping.send_replace(true);
        let ended = async {
            while let Some(ended) = self.senders.join_next().await {
                ended.expect("a sender that does not panic");
            }
        };
        within_for(PATIENCE, "the senders to end", ended).await;
        *self.acked.borrow()
    }

    /// Waits until so many were shown.
    pub async fn shown(&self, messages: usize) {
        let mut shown = self.shown.subscribe();
        let reached = shown.wait_for(|shown| *shown >= messages);
        within_for(PATIENCE, "messages to be shown", reached)
            .await
            .expect("readers that live");
    }

    /// Holds the books against what every node tells, once they tell the same.
    pub async fn settled(&self, nodes: &[SocketAddr]) -> Verdict {
        let conversations = self.account.lock().unwrap().conversations();
        let mut told: Vec<HashMap<String, Vec<Value>>> = Vec::new();
        for node in nodes {
            let mut of_node = HashMap::new();
            for conversation in &conversations {
                let whole = history::whole(*node, conversation).await;
                of_node.insert(conversation.clone(), whole);
            }
            told.push(of_node);
        }
        for other in &told[1..] {
            assert!(*other == told[0], "two nodes tell two histories");
        }
        self.account.lock().unwrap().settle(&told[0])
    }
}

// === Reader ===

struct Reader {
    number: usize,
    conversation: String,
    account: Arc<Mutex<Account>>,
    live: watch::Receiver<Vec<SocketAddr>>,
    shown: Arc<watch::Sender<usize>>,
}

impl Reader {
    async fn run(mut self, joined: tokio::sync::mpsc::Sender<()>) {
        let room = format!("reader-of-{}", self.conversation);
        for attempt in self.number.. {
            let node = node(&mut self.live, attempt).await;
            let Some(mut client) = connect(node, Some(&room)).await else {
                continue;
            };
            let _ = joined.try_send(());
            let list = self.account.lock().unwrap().reader(&self.conversation);
            while let Some(incoming) = client.next().await {
                if let Incoming::Event(event) = incoming
                    && event.name == "newMessage"
                {
                    self.account.lock().unwrap().show(list, event.data());
                    self.shown.send_modify(|shown| *shown += 1);
                }
            }
        }
    }
}

// === Sender ===

struct Sender {
    number: usize,
    conversation: String,
    account: Arc<Mutex<Account>>,
    live: watch::Receiver<Vec<SocketAddr>>,
    acked: Arc<watch::Sender<usize>>,
    /// Texts sent and not decided, in the order sent.
    open: VecDeque<String>,
    sent: usize,
    stopping: watch::Receiver<bool>,
}

impl Sender {
    async fn run(mut self) {
        for attempt in self.number.. {
            let node = node(&mut self.live, attempt).await;
            let Some(mut client) = connect(node, None).await else {
                continue;
            };
            if self.send(&mut client).await.is_some() {
                return;
            }
            let mut account = self.account.lock().unwrap();
            self.open.iter().for_each(|text| account.cut(text));
        }
    }

    /// `None` when it has to go on with another connection.
    async fn send(&mut self, client: &mut Client) -> Option<()> {
        for text in self.open.clone() {
            self.offer(client, &text).await?;
        }
        loop {
            let stopping = *self.stopping.borrow();
            if stopping && self.open.is_empty() {
                return Some(());
            }
            while !stopping && self.open.len() < IN_FLIGHT {
                self.sent += 1;
                let text = format!("1/s{}/{}", self.number, self.sent);
                self.open.push_back(text.clone());
                self.offer(client, &text).await?;
            }
            let Incoming::Event(event) = client.next().await? else {
                continue;
            };
            match event.name.as_str() {
                "messageSent" => self.ack(event.data()),
                "messageError" => {
                    // What was refused is sent again, with all that came after it, so that the order stays.
                    let error = event.data();
                    let code = error["code"].as_str().expect("a code");
                    assert!(REFUSALS.contains(&code), "unexpected: {error}");
                    return None;
                }
                other => panic!("a sender is sent {other}"),
            }
        }
    }

    async fn offer(&mut self, client: &mut Client, text: &str) -> Option<()> {
        self.account.lock().unwrap().offer(&self.conversation, text);
        let message = json!({
            "sender_id": format!("s{}", self.number),
            "receiver_id": format!("reader-of-{}", self.conversation),
            "conversation_id": self.conversation,
            "text_content": text,
            "client_message_id": text,
        });
        client.try_emit("chatMessage", message).await.then_some(())
    }

    fn ack(&mut self, message: &Value) {
        self.account.lock().unwrap().ack(message);
        let acked = text(message);
        if let Some(place) = self.open.iter().position(|text| *text == acked) {
            self.open.remove(place);
            self.acked.send_modify(|acked| *acked += 1);
        }
    }
}

/// A live node, another one with each attempt.
async fn node(live: &mut watch::Receiver<Vec<SocketAddr>>, attempt: usize) -> SocketAddr {
    let nodes = live.wait_for(|nodes| !nodes.is_empty()).await;
    let nodes = nodes.expect("the load lives");
    nodes[attempt % nodes.len()]
}

/// `None` when the node ended under it, which our client tells by a panic.
async fn connect(node: SocketAddr, room: Option<&str>) -> Option<Client> {
    let connected = async {
        let mut client = Client::websocket(node).await;
        if let Some(room) = room {
            client.join(room).await;
        }
        client
    };
    let connected = AssertUnwindSafe(connected).catch_unwind().await.ok();
    if connected.is_none() {
        tokio::task::yield_now().await;
    }
    connected
}

/// What nodes that come and go may answer.
const REFUSALS: [&str; 4] = ["busy", "draining", "unknown", "unavailable"];
