//! What `/socket.io/` answers with, as the reference server does.

use http::StatusCode;
use http::header::{CACHE_CONTROL, CONNECTION};

use crate::http::reply::{self, Reply};
use crate::hub::session::{Handshake, PollingForm};
use crate::protocol::engineio::{self, HandshakeError, Revision};
use crate::protocol::engineio_v3::{self, Framing};
use crate::protocol::frame::Frame;
use crate::protocol::jsonp;

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

/// A polling answer with these packets, in the form that the client's handshake asked for.
pub fn packets(handshake: &Handshake, frames: &[Frame]) -> Reply {
    let PollingForm { base64, jsonp } = handshake.polling;
    let framing = match handshake.revision {
        Revision::V4 => Framing::Text,
        Revision::V3 => Framing::of_frames(frames, !base64 && jsonp.is_none()),
    };
    let mut body = Vec::with_capacity(frames.iter().map(|frame| frame.len() + 2).sum());
    match handshake.revision {
        Revision::V4 => engineio::write_payload(&mut body, frames),
        Revision::V3 => engineio_v3::write_payload(&mut body, frames, framing),
    };
    let (kind, body) = match jsonp {
        None => (framing.content_type(), body),
        Some(index) => (jsonp::CONTENT_TYPE, script(index, &body)),
    };
    let answer = reply::reply(StatusCode::OK, kind, body);
    reply::with(answer, CACHE_CONTROL, "no-store")
}

fn script(index: jsonp::Index, payload: &[u8]) -> Vec<u8> {
    let payload = str::from_utf8(payload).expect("a payload without binary packets is text");
    let mut script = Vec::with_capacity(payload.len() + 32);
    jsonp::write_answer(&mut script, index, payload);
    script
}
