//! What one session can prove, should its connection break: that the client has been told all it is owed beside the
//! messages of its rooms, which are replayed.
//!
//! An answer to a message (`messageSent`, `messageError`) is never replayed. It is known to have arrived once the
//! client has answered a ping that went out behind it, or names an offset that it can only have read behind it.

use crate::protocol::engineio::Sid;
use crate::protocol::recovery::Offset;

/// Kept for a session that may be recovered.
#[derive(Debug)]
pub struct Proof {
    /// Names the session to its client alone.
    pub pid: Sid,
    /// The socket's public id.
    pub id: Sid,
    /// What had been shown when the session began: no message before it is the session's.
    pub since: Offset,
    /// Messages of the client that have not been answered.
    open: u32,
    /// Answers queued to the client, and how many of them stood before the last ping, and before the last pong's ping.
    told: u64,
    pinged: u64,
    heard: u64,
    /// Pings that are not answered. Pongs carry no number, but come in the pings' order.
    under_way: u32,
    /// So many pongs are still to come until that of the ping which `pinged` counts for; 0: it counts for none.
    left: u32,
    /// The progress of what was shown, at the last answer.
    told_at: u64,
}

/// What the client has been told of its own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// All answers, for certain.
    Everything,
    /// All, if it has read a message that was shown behind this progress.
    IfReadBeyond(u64),
    /// Not all.
    NotAll,
}

impl Proof {
    pub fn new(pid: Sid, id: Sid, since: Offset) -> Self {
        Self {
            pid,
            id,
            since,
            open: 0,
            told: 0,
            pinged: 0,
            heard: 0,
            under_way: 0,
            left: 0,
            told_at: 0,
        }
    }

    /// The client has sent a message. True when all had been told before.
    pub fn asked(&mut self) -> bool {
        let was_clean = self.told() == Told::Everything;
        self.open += 1;
        was_clean
    }

    /// An answer has been queued. `progress` is of what was shown, taken after that.
    pub fn answered(&mut self, progress: u64) {
        self.open = self.open.saturating_sub(1);
        self.told += 1;
        self.told_at = progress;
    }

    /// A ping is about to be queued.
    pub fn pinged(&mut self) {
        self.under_way += 1;
        if self.left == 0 {
            self.pinged = self.told;
            self.left = self.under_way;
        }
    }

    /// The client has answered a ping. True when that proves all to be told, and nothing did before.
    pub fn heard(&mut self) -> bool {
        self.under_way = self.under_way.saturating_sub(1);
        if self.left != 1 {
            self.left = self.left.saturating_sub(1);
            return false;
        }
        self.left = 0;
        let was_clean = self.told() == Told::Everything;
        self.heard = self.pinged;
        !was_clean && self.told() == Told::Everything
    }

    pub fn told(&self) -> Told {
        match self.open {
            0 if self.heard == self.told => Told::Everything,
            0 => Told::IfReadBeyond(self.told_at),
            _ => Told::NotAll,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof() -> Proof {
        let since = Offset {
            epoch: 1,
            next: Default::default(),
        };
        Proof::new(Sid::new([1; 15]), Sid::new([2; 15]), since)
    }

    #[test]
    fn an_answer_is_told_when_a_ping_behind_it_is_answered() {
        let mut proof = proof();
        assert_eq!(proof.told(), Told::Everything);
        assert!(proof.asked());
        assert_eq!(proof.told(), Told::NotAll);
        proof.pinged();
        proof.answered(7);
        assert!(!proof.heard(), "the ping went out before the answer");
        assert_eq!(proof.told(), Told::IfReadBeyond(7));
        assert!(!proof.asked());
        proof.answered(8);
        assert!(!proof.heard(), "a pong that answers no ping");
        proof.pinged();
        assert_eq!(proof.told(), Told::IfReadBeyond(8));
        assert!(proof.heard());
        assert_eq!(proof.told(), Told::Everything);
        assert!(!proof.heard());
    }

    #[test]
    fn of_two_pings_under_way_the_first_is_answered() {
        let mut proof = proof();
        proof.pinged();
        proof.asked();
        proof.answered(7);
        proof.pinged();
        assert!(!proof.heard(), "the pong of the first");
        // Another is under way when the second is answered, for which nothing was noted.
        proof.pinged();
        assert!(!proof.heard(), "the pong of the second");
        assert_eq!(proof.told(), Told::IfReadBeyond(7));
        assert!(proof.heard(), "the pong of the third");
        assert_eq!(proof.told(), Told::Everything);
        assert!(!proof.heard(), "of none");
    }
}
