//! Who is in which room: one room a user, held by all sockets of that user, on any number of threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use dashmap::DashMap;
use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::chat::id::UserId;
use crate::hub::session::Session;

/// Sockets by room. Sharded by room, so that rooms do not wait for one another.
#[derive(Default)]
pub struct Rooms {
    members: DashMap<UserId, Members, RandomState>,
    /// Rooms with a member: the map would have to lock every shard to count them.
    count: AtomicUsize,
}

type Members = SmallVec<[Arc<Session>; 1]>;

/// The socket is in as many rooms as it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRooms;

impl Rooms {
    /// Adds the socket to the room; false, and nothing happens, when it is there already, or closed.
    pub fn join(
        &self,
        session: &Arc<Session>,
        room: UserId,
        rooms_max: usize,
    ) -> Result<bool, TooManyRooms> {
        // Held throughout, so that a close cannot pass between the look at `closed` and the entry.
        let mut rooms = session.rooms.lock();
        if session.closed().is_some() || rooms.contains(&room) {
            return Ok(false);
        }
        if rooms.len() >= rooms_max {
            return Err(TooManyRooms);
        }
        let mut members = self.members.entry(room.clone()).or_default();
        if members.is_empty() {
            self.count.fetch_add(1, Relaxed);
        }
        members.push(session.clone());
        drop(members);
        rooms.push(room);
        Ok(true)
    }

    /// Takes the socket out of all its rooms; which they were.
    pub fn leave_all(&self, session: &Arc<Session>) -> Vec<UserId> {
        let rooms = std::mem::take(&mut *session.rooms.lock());
        for room in &rooms {
            let emptied = self.members.remove_if_mut(room, |_, members| {
                members.retain(|member| !Arc::ptr_eq(member, session));
                members.is_empty()
            });
            if emptied.is_some() {
                self.count.fetch_sub(1, Relaxed);
            }
        }
        rooms
    }

    /// Calls `each` once for every socket in one of the rooms. Other threads may wait meanwhile: `each` must be quick.
    pub fn for_each(&self, rooms: &[&str], mut each: impl FnMut(&Arc<Session>)) {
        if let [room] = rooms {
            if let Some(members) = self.members.get(*room) {
                members.iter().for_each(each);
            }
            return;
        }
        let mut seen: SmallVec<[Arc<Session>; 4]> = SmallVec::new();
        for room in rooms {
            if let Some(members) = self.members.get(*room) {
                for member in members.iter() {
                    if !seen.iter().any(|known| Arc::ptr_eq(known, member)) {
                        seen.push(member.clone());
                    }
                }
            }
        }
        seen.iter().for_each(&mut each);
    }

    /// Rooms with a member.
    pub fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
