//! Frames, the handshake, and what is found in JSON by searching.

use std::io::{self, ErrorKind, Write};

use base64::Engine;
use memchr::memmem;
use sha1::{Digest, Sha1};

pub fn write_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The text behind `key`, up to its quote.
pub fn value_after<'a>(key: &[u8], json: &'a [u8]) -> &'a [u8] {
    let value = memmem::find(json, key).map_or(&[][..], |at| &json[at + key.len()..]);
    value.split(|byte| *byte == b'"').next().unwrap_or_default()
}

pub fn upgrade(out: &mut Vec<u8>, request: &[u8]) -> io::Result<()> {
    let key = request
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Sec-WebSocket-Key: "))
        .ok_or(ErrorKind::InvalidData)?;
    let mut hash = Sha1::new();
    hash.update(key.trim_ascii());
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = base64::engine::general_purpose::STANDARD.encode(hash.finalize());
    write!(
        out,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// Opcode, bytes of the head with its mask, bytes of the payload, when the whole frame is there.
pub fn frame_at(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let [first, second, rest @ ..] = bytes else {
        return None;
    };
    let (length, head) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 8),
        127 => (u64::from_be_bytes(*rest.first_chunk()?) as usize, 14),
        length => (usize::from(length), 6),
    };
    (bytes.len() >= head + length).then_some((first & 0x0f, head, length))
}

pub fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let word = u32::from_ne_bytes(mask);
    let (chunks, rest) = payload.as_chunks_mut::<4>();
    for chunk in chunks {
        *chunk = (u32::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    rest.iter_mut()
        .zip(mask)
        .for_each(|(byte, mask)| *byte ^= mask);
}

/// One text frame of all `parts`.
pub fn push_frame(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(0x81);
    match length {
        0..=125 => out.push(length as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
}
