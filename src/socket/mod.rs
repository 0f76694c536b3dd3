//! Clients' connections: Engine.IO with its two transports, Socket.IO over it, and what the chat does with its events.

mod answer;
pub mod chat;
pub mod client_files;
pub mod endpoint;
pub mod engine;
pub mod namespaces;
mod polling;
mod websocket;

use std::cell::RefCell;

/// Bytes that a thread has fetched from the operating system and not handed out: a system call serves many sessions.
struct Pool {
    bytes: [u8; POOL_BYTES],
    used: usize,
}

const POOL_BYTES: usize = 512;

thread_local! {
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool { bytes: [0; POOL_BYTES], used: POOL_BYTES })
    };
}

/// Bytes from the operating system's random source, at most 512: more does not compile. What is handed out is not kept.
pub fn random<const N: usize>() -> [u8; N] {
    const { assert!(N <= POOL_BYTES) };
    POOL.with_borrow_mut(|pool| {
        if pool.used + N > POOL_BYTES {
            getrandom::fill(&mut pool.bytes).expect("the operating system has random numbers");
            pool.used = 0;
        }
        let fresh = &mut pool.bytes[pool.used..pool.used + N];
        pool.used += N;
        let mut bytes = [0; N];
        bytes.swap_with_slice(fresh);
        bytes
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_bytes_come_twice_also_where_the_pool_is_filled_anew() {
        let one = || random::<15>();
        let seen: HashSet<_> = (0..1_000).map(|_| one()).collect();
        assert_eq!(seen.len(), 1_000);
        assert_ne!(random::<POOL_BYTES>(), [0; POOL_BYTES]);
    }
}
