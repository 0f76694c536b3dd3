//! `GET /api/chat/messages/:conversation_id` and `POST /api/chat/messages/:message_id/reportSpam`.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

use crate::chat::id::{ConversationId, MessageId};
use crate::chat::message::Message;
use crate::history::{History, HistoryError, Place};
use crate::http::query;
use crate::http::reply::{self, Error, Reply};
use crate::metrics::Metrics;

/// History over HTTP.
pub struct Messages {
    pub history: Arc<History>,
    pub metrics: Arc<Metrics>,
    /// Messages on a page when none are asked for.
    pub page_default: usize,
    /// Messages on a page at most.
    pub page_max: usize,
}

impl Messages {
    /// A page of a conversation: a JSON array in the order of `seq`.
    pub async fn page(&self, conversation: &str, query: Option<&str>) -> Reply {
        self.try_page(conversation, query)
            .await
            .unwrap_or_else(Error::reply)
    }

    async fn try_page(&self, conversation: &str, query: Option<&str>) -> Result<Reply, Error> {
        let conversation = conversation_id(conversation)?;
        let place = place(query)?;
        let limit = self.limit(query)?;
        let page = self
            .history
            .page(&conversation, place, limit)
            .await
            .map_err(|error| match error {
                HistoryError::UnknownCursor => {
                    Error::invalid("the cursor is no message of this conversation")
                }
                HistoryError::Unavailable(cause) => unavailable(&cause),
            })?;
        Ok(reply::json(StatusCode::OK, json_array(&page)))
    }

    fn limit(&self, query: Option<&str>) -> Result<usize, Error> {
        let Some(limit) = query::non_empty(query, "limit") else {
            return Ok(self.page_default);
        };
        match limit.parse::<u64>() {
            Ok(limit) if limit >= 1 => Ok(usize::try_from(limit)
                .unwrap_or(usize::MAX)
                .min(self.page_max)),
            // More digits than a number has are more than the most.
            _ if limit.len() > 19 && limit.bytes().all(|digit| digit.is_ascii_digit()) => {
                Ok(self.page_max)
            }
            _ => Err(Error::invalid("limit must be a whole number of at least 1")),
        }
    }

    /// Marks a message as spam and answers with it.
    pub async fn report_spam(&self, id: &str) -> Reply {
        let Some(id) = MessageId::parse(id) else {
            return Error::NOT_FOUND.reply();
        };
        match self.history.report_spam(id).await {
            Ok(Some(message)) => {
                self.metrics.spam_reports.inc();
                reply::json(StatusCode::OK, json(&message))
            }
            Ok(None) | Err(HistoryError::UnknownCursor) => Error::NOT_FOUND.reply(),
            Err(HistoryError::Unavailable(cause)) => unavailable(&cause).reply(),
        }
    }
}

fn unavailable(cause: &str) -> Error {
    tracing::warn!(cause, "history cannot be told");
    Error::unavailable("history is not available now, try again")
}

fn place(query: Option<&str>) -> Result<Place, Error> {
    let cursor = |name| match query::non_empty(query, name) {
        None => Ok(None),
        Some(id) => match MessageId::parse(&id) {
            Some(id) => Ok(Some(id)),
            None => Err(Error::invalid("a cursor must be a message id")),
        },
    };
    match (cursor("last_message_id")?, cursor("before")?) {
        (None, None) => Ok(Place::Newest),
        (Some(id), None) => Ok(Place::After(id)),
        (None, Some(id)) => Ok(Place::Before(id)),
        (Some(_), Some(_)) => Err(Error::invalid("give last_message_id or before, not both")),
    }
}

/// The conversation that a path segment names.
pub(super) fn conversation_id(segment: &str) -> Result<ConversationId, Error> {
    let decoded =
        query::segment(segment).ok_or(Error::invalid("the conversation id is not UTF-8"))?;
    ConversationId::new(Bytes::from(decoded.into_owned()))
        .ok_or(Error::invalid("a conversation id has 1 to 1024 bytes"))
}

/// A message as JSON.
pub(super) fn json(message: &Message) -> Vec<u8> {
    let mut json = Vec::with_capacity(message.size());
    message.write(&mut json);
    json
}

fn json_array(messages: &[Message]) -> Vec<u8> {
    let size: usize = messages.iter().map(|message| message.size() + 1).sum();
    let mut json = Vec::with_capacity(size + 2);
    json.push(b'[');
    for (n, message) in messages.iter().enumerate() {
        if n > 0 {
            json.push(b',');
        }
        message.write(&mut json);
    }
    json.push(b']');
    json
}
