//! What `/socket.io/` answers with, as the reference server does.

use http::StatusCode;
use http::header::{CACHE_CONTROL, CONNECTION};

use crate::http::reply::{self, Reply};
use crate::protocol::engineio::HandshakeError;

/// A refusal as polling clients read it.
pub fn refuse_polling(error: HandshakeError) -> Reply {
    let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    reply::json(status, error.json())
}

/// A refusal of a websocket handshake: always 400, the bare message, and the connection ends.
pub fn refuse_websocket(error: HandshakeError) -> Reply {
    let refusal = reply::reply(StatusCode::BAD_REQUEST, "text/html", error.message());
    reply::with(refusal, CONNECTION, "close")
}

/// The packets of a polling answer.
pub fn packets(body: impl Into<bytes::Bytes>) -> Reply {
    let answer = reply::reply(StatusCode::OK, "text/plain; charset=UTF-8", body);
    reply::with(answer, CACHE_CONTROL, "no-store")
}
