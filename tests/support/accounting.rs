//! Nothing lost, nothing doubled: what was offered, acknowledged, refused and shown, held against what is stored.
//!
//! A message is known by its text, which its sender numbers: `run/sender/n`. An undecided message (its connection was
//! cut first) may be stored or not, but never twice.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde_json::Value;

use super::history;

/// The books of one test, over all its runs.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Text to what became of it.
    offered: HashMap<String, Offer>,
    /// One list a connection: conversation, and what it was shown in the order shown.
    shown: Vec<(String, Vec<Stored>)>,
    /// Contradictions seen on the way.
    contradictions: Vec<String>,
}

#[derive(Clone, Debug)]
struct Offer {
    conversation: String,
    fate: Fate,
    /// Some offer of it was cut off undecided, so it may be stored whatever is said later.
    maybe: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Undecided,
    Acked(Stored),
    Rejected,
}

/// A message's identity: two that differ in one of these are not the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    pub id: String,
    pub text: String,
    pub seq: u64,
}

impl Stored {
    pub fn of(message: &Value) -> Stored {
        Stored {
            id: history::id(message),
            text: text(message),
            seq: message["seq"].as_u64().expect("a message has a seq"),
        }
    }
}

/// A message's `text_content`.
pub fn text(message: &Value) -> String {
    message["text_content"]
        .as_str()
        .expect("a message has a text")
        .to_string()
}

// === What happens ===

impl Account {
    /// About to be sent, for the first time or again.
    pub fn offer(&mut self, conversation: &str, text: &str) {
        let offer = self.offered.entry(text.into()).or_insert_with(|| Offer {
            conversation: conversation.into(),
            fate: Fate::Undecided,
            maybe: false,
        });
        if offer.fate == Fate::Rejected {
            offer.fate = Fate::Undecided;
        }
    }

    /// `messageSent`, or a positive acknowledgement; both may come.
    pub fn ack(&mut self, message: &Value) {
        let acked = Stored::of(message);
        let Some(offer) = self.offered.get_mut(&acked.text) else {
            self.contradictions
                .push(format!("acknowledged, never offered: {acked:?}"));
            return;
        };
        match &offer.fate {
            Fate::Acked(before) if *before != acked => {
                self.contradictions
                    .push(format!("acknowledged as {before:?}, then {acked:?}"));
            }
            Fate::Rejected => self
                .contradictions
                .push(format!("rejected, then {acked:?}")),
            Fate::Acked(_) | Fate::Undecided => offer.fate = Fate::Acked(acked),
        }
    }

    /// A refusal with this code. `unknown` decides nothing.
    pub fn reject(&mut self, text: &str, code: &str) {
        let Some(offer) = self.offered.get_mut(text) else {
            self.contradictions
                .push(format!("refused, never offered: {text}"));
            return;
        };
        if code == "unknown" {
            offer.maybe = true;
        } else if matches!(offer.fate, Fate::Acked(_)) {
            self.contradictions
                .push(format!("acknowledged, then refused ({code}): {text}"));
        } else {
            offer.fate = Fate::Rejected;
        }
    }

    /// The connection was cut before this one was decided.
    pub fn cut(&mut self, text: &str) {
        if let Some(offer) = self.offered.get_mut(text) {
            offer.maybe = true;
        }
    }

    /// A reader's connection to one conversation; the handle for [`Account::show`].
    pub fn reader(&mut self, conversation: &str) -> usize {
        self.shown.push((conversation.into(), Vec::new()));
        self.shown.len() - 1
    }

    /// `newMessage` on that connection.
    pub fn show(&mut self, reader: usize, message: &Value) {
        self.shown[reader].1.push(Stored::of(message));
    }

    /// Messages acknowledged so far.
    pub fn acked(&self) -> Vec<Stored> {
        let acked = |offer: &Offer| match &offer.fate {
            Fate::Acked(stored) => Some(stored.clone()),
            Fate::Undecided | Fate::Rejected => None,
        };
        self.offered.values().filter_map(acked).collect()
    }

    /// How many: cheaper than [`Account::acked`].
    pub fn acked_count(&self) -> usize {
        let acked = |offer: &&Offer| matches!(offer.fate, Fate::Acked(_));
        self.offered.values().filter(acked).count()
    }

    /// Acknowledged in run `run` and shown to nobody so far.
    pub fn unshown(&self, run: u64) -> usize {
        let shown: HashSet<_> = self.shown.iter().flat_map(|(_, list)| list).collect();
        let of_run = |one: &&Stored| one.text.starts_with(&format!("{run}/"));
        self.acked()
            .iter()
            .filter(of_run)
            .filter(|one| !shown.contains(one))
            .count()
    }

    /// Texts whose fate is not known.
    pub fn undecided(&self) -> HashSet<String> {
        let open = self
            .offered
            .iter()
            .filter(|(_, offer)| offer.fate == Fate::Undecided);
        open.map(|(text, _)| text.clone()).collect()
    }

    pub fn conversations(&self) -> HashSet<String> {
        self.offered
            .values()
            .map(|offer| offer.conversation.clone())
            .collect()
    }
}

// === Verdict ===

/// The counts of one look at the books; each list holds what is wrong and should be empty.
#[derive(Debug, Default)]
pub struct Verdict {
    pub offered: usize,
    pub acked: usize,
    pub rejected: usize,
    pub undecided: usize,
    pub shown: usize,
    pub stored: usize,
    /// Acknowledged and not stored as acknowledged.
    pub lost: Vec<String>,
    /// An `_id` or a text that is stored, or was shown to one connection, more than once.
    pub doubled: Vec<String>,
    /// Stored and never offered, or refused, or in another conversation.
    pub ghosts: Vec<String>,
    /// Out of order: in the store by sender's number or `seq`, or shown in another order than stored.
    pub misordered: Vec<String>,
    /// Shown and not stored.
    pub shown_not_stored: Vec<String>,
    /// Answers that contradict each other.
    pub contradictions: Vec<String>,
}

impl Account {
    /// Holds the books against `stored`: every conversation's whole history in its order.
    pub fn settle(&self, stored: &HashMap<String, Vec<Value>>) -> Verdict {
        let mut verdict = Verdict {
            offered: self.offered.len(),
            acked: self.acked_count(),
            undecided: self.undecided().len(),
            shown: self.shown.iter().map(|(_, list)| list.len()).sum(),
            stored: stored.values().map(Vec::len).sum(),
            contradictions: self.contradictions.clone(),
            ..Verdict::default()
        };
        verdict.rejected = verdict.offered - verdict.acked - verdict.undecided;
        let mut all = HashSet::new();
        for (conversation, messages) in stored {
            let messages: Vec<_> = messages.iter().map(Stored::of).collect();
            self.check_stored(conversation, &messages, &mut verdict);
            self.check_shown(conversation, &messages, &mut verdict);
            all.extend(messages);
        }
        let acked = self.acked().into_iter();
        verdict.lost = acked
            .filter(|one| !all.contains(one))
            .map(|one| format!("{one:?}"))
            .collect();
        verdict
    }

    fn check_stored(&self, conversation: &str, messages: &[Stored], verdict: &mut Verdict) {
        verdict
            .doubled
            .extend(doubled(messages, &format!("history of {conversation}")));
        let mut last_seq = None;
        let mut last_number = HashMap::new();
        for message in messages {
            match self.offered.get(&message.text) {
                Some(offer) if offer.conversation != conversation => {
                    verdict
                        .ghosts
                        .push(format!("in {conversation}, not its own: {message:?}"));
                }
                Some(offer) if offer.fate == Fate::Rejected && !offer.maybe => {
                    verdict
                        .ghosts
                        .push(format!("refused, yet stored: {message:?}"));
                }
                Some(_) => {}
                None => verdict.ghosts.push(format!("never offered: {message:?}")),
            }
            if last_seq
                .replace(message.seq)
                .is_some_and(|last| last >= message.seq)
            {
                verdict
                    .misordered
                    .push(format!("seq does not rise at {message:?}"));
            }
            let (sender, number) = sender_and_number(&message.text);
            if last_number
                .insert(sender, number)
                .is_some_and(|last| last >= number)
            {
                verdict
                    .misordered
                    .push(format!("its sender's number does not rise: {message:?}"));
            }
        }
    }

    fn check_shown(&self, conversation: &str, messages: &[Stored], verdict: &mut Verdict) {
        let places: HashMap<_, _> = messages.iter().zip(0usize..).collect();
        for (_, shown) in self.shown.iter().filter(|(of, _)| of == conversation) {
            verdict
                .doubled
                .extend(doubled(shown, &format!("a reader of {conversation}")));
            let mut last = None;
            for message in shown {
                match places.get(message) {
                    None => verdict.shown_not_stored.push(format!("{message:?}")),
                    Some(place) => {
                        if last.replace(*place).is_some_and(|last| last >= *place) {
                            verdict
                                .misordered
                                .push(format!("shown out of order: {message:?}"));
                        }
                    }
                }
            }
        }
    }
}

impl Verdict {
    /// Panics with the whole account unless every list is empty.
    pub fn assert_clean(&self) {
        let wrong = [
            &self.lost,
            &self.doubled,
            &self.ghosts,
            &self.misordered,
            &self.shown_not_stored,
            &self.contradictions,
        ];
        let some: Vec<_> = wrong.iter().flat_map(|list| list.iter().take(5)).collect();
        assert!(some.is_empty(), "{self}\nfor example:\n{some:#?}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "offered {} acked {} rejected {} undecided {} shown {} stored {} | lost {} doubled {} \
             ghosts {} misordered {} shown-not-stored {} contradictions {}",
            self.offered,
            self.acked,
            self.rejected,
            self.undecided,
            self.shown,
            self.stored,
            self.lost.len(),
            self.doubled.len(),
            self.ghosts.len(),
            self.misordered.len(),
            self.shown_not_stored.len(),
            self.contradictions.len()
        )
    }
}

fn doubled(messages: &[Stored], place: &str) -> Vec<String> {
    let (mut ids, mut texts) = (HashSet::new(), HashSet::new());
    let mut found = Vec::new();
    for message in messages {
        // Both sets must see every message, so no short circuit.
        let (new_id, new_text) = (ids.insert(&message.id), texts.insert(&message.text));
        if !new_id || !new_text {
            found.push(format!("twice in {place}: {message:?}"));
        }
    }
    found
}

/// `run/sender/n` into `sender` and (run, n): numbers start again with each run, runs are numbered.
fn sender_and_number(text: &str) -> (String, (u64, u64)) {
    let mut parts = text.split('/');
    let run = parts.next().and_then(|run| run.parse().ok());
    let sender = parts.next().unwrap_or_default();
    let number = parts.next().and_then(|number| number.parse().ok());
    match (run, number) {
        (Some(run), Some(number)) => (sender.to_string(), (run, number)),
        _ => (text.to_string(), (0, 0)),
    }
}
