//! What an error of the driver means: for a call, for one document among others, and at the opening.

use std::borrow::Cow;
use std::time::Duration;

use mongodb::error::{Error, ErrorKind, IndexedWriteError};

use crate::store::StoreError;

// === Fault ===

/// Why a call did not end well.
pub(super) enum Fault {
    Late(Duration),
    Driver(Error),
}

impl Fault {
    /// As the trait tells it: nearly everything about a server passes.
    pub(super) fn while_running(&self, hosts: &str) -> StoreError {
        match self {
            Self::Driver(error) if matches!(*error.kind, ErrorKind::Shutdown) => {
                StoreError::Failed("it is closed".into())
            }
            _ => StoreError::Unavailable(format!("MongoDB at {hosts}: {}", self.cause()).into()),
        }
    }

    /// As an operator has to hear it: what no waiting will mend is [`StoreError::Failed`].
    pub(super) fn at_opening(&self, hosts: &str) -> StoreError {
        let cause = self.cause();
        let Self::Driver(error) = self else {
            let text = format!("MongoDB at {hosts} does not answer: {cause}");
            return StoreError::Unavailable(text.into());
        };
        match &*error.kind {
            ErrorKind::Authentication { .. } => refused(hosts, &cause),
            ErrorKind::Command(command) if CREDENTIAL_CODES.contains(&command.code) => {
                refused(hosts, &cause)
            }
            ErrorKind::InvalidTlsConfig { .. }
            | ErrorKind::InvalidArgument { .. }
            | ErrorKind::IncompatibleServer { .. } => {
                let text = format!("MongoDB at {hosts} cannot be used: {cause}");
                StoreError::Failed(text.into())
            }
            ErrorKind::ServerSelection { .. } | ErrorKind::DnsResolve { .. } => {
                let text = format!("no MongoDB server answers at {hosts}: {cause}");
                StoreError::Unavailable(text.into())
            }
            _ => self.while_running(hosts),
        }
    }

    /// What went wrong, in the words of whoever noticed.
    pub(super) fn cause(&self) -> Cow<'_, str> {
        match self {
            Self::Late(after) => format!("no answer within {after:?}").into(),
            Self::Driver(error) => match &*error.kind {
                ErrorKind::Command(command) => command.message.as_str().into(),
                ErrorKind::Authentication { message, .. } => message.as_str().into(),
                ErrorKind::ServerSelection { message, .. } => selection_cause(message).into(),
                kind => kind.to_string().into(),
            },
        }
    }
}

fn refused(hosts: &str, cause: &str) -> StoreError {
    StoreError::Failed(format!("MongoDB at {hosts} refuses the credentials: {cause}").into())
}

/// The driver describes the whole topology; what a server said, or did not say, is somewhere in the middle.
fn selection_cause(message: &str) -> &str {
    let Some((_, cause)) = message.split_once("Error: Kind: ") else {
        return "no server was found in time";
    };
    cause.split(", labels").next().unwrap_or(cause)
}

// === of documents ===

/// What became of one document of an unordered insert.
pub(super) enum Verdict {
    /// It is there already.
    Duplicate,
    /// It can never be taken.
    Poison,
    /// It may be taken later.
    Passing,
}

/// Reads a document's own error.
pub(super) fn of_document(error: &IndexedWriteError) -> Verdict {
    match error.code {
        DUPLICATE_KEY if is_of_id(&error.message) => Verdict::Duplicate,
        // Another unique index, of an operator's making: the message itself is not there.
        DUPLICATE_KEY => Verdict::Poison,
        code if DOCUMENT_CODES.contains(&code) => Verdict::Poison,
        _ => Verdict::Passing,
    }
}

/// Servers that name the index name it as MongoDB does.
fn is_of_id(message: &str) -> bool {
    !message.contains(" index: ") || message.contains(" index: _id_ ")
}

/// Whether a whole insert was refused for what it is, not for the state that the server, or the way there, is in.
pub(super) fn is_refusal(error: &Error) -> bool {
    match &*error.kind {
        // Larger than the server lets a message be. (What is no BSON is an answer: the command is ours.)
        ErrorKind::InvalidArgument { .. } => true,
        ErrorKind::Command(command) => {
            !STATE_CODES.contains(&command.code)
                && !CREDENTIAL_CODES.contains(&command.code)
                && !STATE_LABELS.iter().any(|label| error.contains_label(label))
        }
        _ => false,
    }
}

const DUPLICATE_KEY: i32 = 11_000;

/// Bad value, unparsable, wrong type, too deep, invalid BSON, names with `$`, bad `_id`, empty and dotted names, failed
/// validation, parallel arrays, too large (three kinds), key too long: all about the document.
const DOCUMENT_CODES: &[i32] = &[
    2, 9, 14, 15, 22, 52, 53, 55, 56, 57, 121, 171, 10_334, 17_280, 17_419, 17_420,
];

/// Host unreachable or not found, time limits, write concern, shutdown, network, no primary, stepping down,
/// interrupted, disk full, too much asked (three kinds): all about the server.
const STATE_CODES: &[i32] = &[
    6, 7, 50, 63, 64, 79, 89, 91, 100, 133, 134, 150, 189, 202, 234, 262, 365, 462, 9_001, 10_058,
    10_107, 11_600, 11_601, 11_602, 13_388, 13_435, 13_436, 14_031, 16_500,
];

/// What servers, and the driver, call an error that may pass.
const STATE_LABELS: &[&str] = &[
    "RetryableWriteError",
    "RetryableError",
    "SystemOverloadedError",
];

/// Not authorised, authentication failed, and a hosted service's word for both.
const CREDENTIAL_CODES: &[i32] = &[13, 18, 8_000];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_is_one_of_the_id_alone() {
        let of = |index: &str| {
            is_of_id(&format!(
                "E11000 duplicate key error collection: c.m{index} dup key: {{ x: 1 }}"
            ))
        };
        assert!(of(" index: _id_"));
        assert!(of(""));
        assert!(!of(" index: client_message_id_1"));
    }

    #[test]
    fn a_selection_error_is_cut_to_its_cause() {
        let told = "Server selection timeout: No available servers. Topology: { Type: Unknown, Servers: [ { Address: \
                    127.0.0.1:1, Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), labels: {} } ] }";
        assert_eq!(
            selection_cause(told),
            "I/O error: Connection refused (os error 111)"
        );
        assert_eq!(selection_cause("x"), "no server was found in time");
    }
}
