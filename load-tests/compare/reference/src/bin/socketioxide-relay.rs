//! A relay that keeps nothing, built with socketioxide as its documentation shows.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::serve::ListenerExt;
use serde::{Deserialize, Serialize};
use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Packets that may wait for one client; what does not fit is lost. The service's bound, not the library's 128.
const WAITING_MAX: usize = 1024;

#[derive(Deserialize)]
struct ChatMessage {
    sender_id: String,
    receiver_id: String,
    conversation_id: String,
    text_content: String,
    client_message_id: Option<String>,
}

#[derive(Serialize)]
struct Message {
    _id: String,
    conversation_id: String,
    sender_id: String,
    receiver_id: String,
    text_content: String,
    message_type: &'static str,
    timestamp: &'static str,
    is_spam: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_message_id: Option<String>,
    seq: u64,
}

#[derive(Deserialize, Serialize)]
struct Typing {
    sender_id: String,
    receiver_id: String,
    conversation_id: String,
}

#[derive(Serialize)]
struct Done {
    status: &'static str,
}

impl ChatMessage {
    fn accept(self, seq: u64) -> Message {
        Message {
            _id: format!("{seq:024x}"),
            conversation_id: self.conversation_id,
            sender_id: self.sender_id,
            receiver_id: self.receiver_id,
            text_content: self.text_content,
            message_type: "text",
            timestamp: "2026-01-01T00:00:00.000Z",
            is_spam: false,
            client_message_id: self.client_message_id,
            seq,
        }
    }
}

async fn connected(socket: SocketRef) {
    static SEQ: AtomicU64 = AtomicU64::new(0);
    socket.on(
        "joinRoom",
        async |socket: SocketRef, Data(user): Data<String>, ack: AckSender| {
            socket.join(user);
            ack.send(&Done { status: "ok" }).ok();
        },
    );
    socket.on(
        "chatMessage",
        async |socket: SocketRef, io: SocketIo, Data(message): Data<ChatMessage>| {
            let message = message.accept(SEQ.fetch_add(1, Ordering::Relaxed));
            let room = message.receiver_id.clone();
            io.to(room).emit("newMessage", &message).await.ok();
            socket.emit("messageSent", &message).ok();
        },
    );
    socket.on(
        "typing",
        async |socket: SocketRef, Data(typing): Data<Typing>| {
            // Not volatile: that keeps one packet a client, and a loop of eight in flight would wait for lost ones.
            let others = socket.to(typing.receiver_id.clone());
            others.emit("typing", &typing).await.ok();
        },
    );
}

async fn serve() -> std::io::Result<()> {
    let (layer, io) = SocketIo::builder()
        .max_buffer_size(WAITING_MAX)
        .build_layer();
    io.ns("/", connected);
    let port = std::env::var("PORT").unwrap_or_else(|_| "3001".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listens on {}", listener.local_addr()?.port());
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, axum::Router::new().layer(layer)).await
}

fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve())
}
