//! What the server has asked of one client and not been told yet: acknowledgements that are due.

use std::time::Duration;

use crate::protocol::socketio::Payload;

/// Acknowledgements that one client may owe at a time.
pub const ACKS_MAX: usize = 64;

/// Why there is no acknowledgement, nor will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    #[error("the client did not acknowledge in time")]
    Timeout,
    #[error("the client has gone")]
    Disconnected,
    /// The event was not sent.
    #[error("the client owes too many acknowledgements")]
    TooMany,
}

/// Hears of one acknowledgement, once. It must not wait.
pub type OnAck = Box<dyn FnOnce(Result<Payload<'_>, AckError>) + Send>;

/// The acknowledgements that one client owes. Ids are never used twice, so a late answer answers nothing else.
#[derive(Default)]
pub struct Acks {
    last_id: u64,
    due: Vec<Due>,
    /// The deadline that is looked at next.
    planned: Option<Duration>,
}

struct Due {
    id: u64,
    namespace: Box<str>,
    deadline: Duration,
    on_ack: OnAck,
}

impl Acks {
    /// Notes one more, and gives its id; hands `on_ack` back when there are [`ACKS_MAX`].
    pub fn add(
        &mut self,
        namespace: &str,
        deadline: Duration,
        on_ack: OnAck,
    ) -> Result<u64, OnAck> {
        if self.due.len() >= ACKS_MAX {
            return Err(on_ack);
        }
        self.last_id += 1;
        self.due.push(Due {
            id: self.last_id,
            namespace: namespace.into(),
            deadline,
            on_ack,
        });
        Ok(self.last_id)
    }

    /// Takes the one that the client answers; `None` for an id that is unknown, answered or expired.
    pub fn take(&mut self, namespace: &str, id: &str) -> Option<OnAck> {
        let id: u64 = id.parse().ok()?;
        let found = |due: &Due| due.id == id && *due.namespace == *namespace;
        let at = self.due.iter().position(found)?;
        Some(self.due.remove(at).on_ack)
    }

    /// The earliest deadline, if nobody is going to look at that time or before.
    pub fn plan(&mut self) -> Option<Duration> {
        let next = self.due.iter().map(|due| due.deadline).min()?;
        let is_planned = self.planned.is_some_and(|planned| planned <= next);
        (!is_planned).then(|| *self.planned.insert(next))
    }

    /// Takes those whose time is over, in the order asked. What was planned has come.
    pub fn expired(&mut self, now: Duration) -> Vec<OnAck> {
        self.planned = None;
        self.extract(|due| due.deadline <= now)
    }

    /// Takes all of a namespace, or all there are.
    pub fn clear(&mut self, namespace: Option<&str>) -> Vec<OnAck> {
        self.extract(|due| namespace.is_none_or(|name| *due.namespace == *name))
    }

    fn extract(&mut self, chosen: impl Fn(&Due) -> bool) -> Vec<OnAck> {
        let taken = self.due.extract_if(.., |due| chosen(due));
        taken.map(|due| due.on_ack).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> OnAck {
        Box::new(|_| {})
    }

    #[test]
    fn an_ack_is_taken_once_and_by_its_own_namespace() {
        let mut acks = Acks::default();
        let id = acks.add("/", Duration::MAX, nobody()).ok().unwrap();
        let id = id.to_string();
        assert!(acks.take("/other", &id).is_none());
        assert!(acks.take("/", "99").is_none() && acks.take("/", "x").is_none());
        assert!(acks.take("/", "99999999999999999999").is_none());
        assert!(acks.take("/", &id).is_some());
        assert!(acks.take("/", &id).is_none());
    }

    #[test]
    fn so_many_may_be_due_and_no_more() {
        let mut acks = Acks::default();
        for n in 1..=ACKS_MAX as u64 {
            assert_eq!(acks.add("/", Duration::MAX, nobody()).ok(), Some(n));
        }
        assert!(acks.add("/", Duration::MAX, nobody()).is_err());
        assert!(acks.take("/", "3").is_some());
        let next = acks.add("/", Duration::MAX, nobody()).ok();
        assert_eq!(next, Some(ACKS_MAX as u64 + 1), "ids are not used again");
    }

    #[test]
    fn deadlines_hold_to_the_tick_and_are_planned_once() {
        let at = Duration::from_millis;
        let mut acks = Acks::default();
        let plans = [at(30), at(10), at(20)].map(|deadline| {
            acks.add("/", deadline, nobody()).ok().unwrap();
            acks.plan()
        });
        assert_eq!(plans, [Some(at(30)), Some(at(10)), None]);
        assert_eq!(acks.expired(at(9)).len(), 0);
        assert_eq!(acks.plan(), Some(at(10)));
        assert_eq!(acks.expired(at(20)).len(), 2);
        assert_eq!((acks.plan(), acks.plan()), (Some(at(30)), None));
        assert!(acks.take("/", "1").is_some());
        assert_eq!(acks.plan(), None);
        acks.add("/", at(40), nobody()).ok().unwrap();
        assert_eq!(acks.plan(), None, "somebody looks at 30");
    }

    #[test]
    fn leaving_a_namespace_clears_its_own() {
        let mut acks = Acks::default();
        for namespace in ["/", "/x", "/"] {
            acks.add(namespace, Duration::MAX, nobody()).ok().unwrap();
        }
        assert_eq!(acks.clear(Some("/")).len(), 2);
        assert_eq!(acks.clear(None).len(), 1);
        assert_eq!(acks.plan(), None);
    }
}
