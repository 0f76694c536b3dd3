//! Inserting a batch: one unordered insert, whose errors are read document by document.
//!
//! A document that is there already counts as done, one that can never be taken is named, and anything that may pass
//! makes the whole call one to be repeated, which repeats nothing that was done.
//!
//! The command is written here, documents and all: the driver's own insert copies each document four times and
//! collects its id in maps. The driver repeats such a command for servers that are overloaded, the caller all others.
//! Source: the `insert` command
//! of MongoDB's manual.

use std::ops::Range;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::RawDocumentBuf;
use mongodb::bson::spec::ElementType;
use mongodb::bson::{self, Bson, Document, doc};
use mongodb::error::{Error, IndexedWriteError};
use serde::Deserialize;

use crate::chat::message::Message;
use crate::store::mongo::encode::{Cause, Documents, begin, end, push_name, push_text};
use crate::store::mongo::fault::{Fault, Verdict, is_refusal, of_document};
use crate::store::mongo::{MongoStore, within};
use crate::store::{Inserted, StoreError};

/// A message's place in the batch, and its document.
struct Row {
    index: usize,
    document: Range<usize>,
}

/// What the server says of an insert that it took.
#[derive(Deserialize)]
struct Reply {
    /// Documents inserted; other vendors' servers may count in another type.
    n: Bson,
    #[serde(rename = "writeErrors")]
    write_errors: Option<Vec<IndexedWriteError>>,
    #[serde(rename = "writeConcernError")]
    write_concern_error: Option<Bson>,
}

impl MongoStore {
    pub(super) async fn insert_all(&self, batch: &[Message]) -> Result<Inserted, StoreError> {
        let mut done = Inserted::default();
        let mut documents = Documents::with_room_for(batch);
        let mut rows: Vec<Row> = Vec::with_capacity(batch.len());
        for (index, message) in batch.iter().enumerate() {
            match documents.push(message) {
                Ok(document) => rows.push(Row { index, document }),
                Err(cause) => done.poison.push((index, cause)),
            }
        }
        self.insert_rows(&documents, &rows, &mut done).await?;
        done.inserted = batch.len() - done.duplicates - done.poison.len();
        done.poison.sort_unstable_by_key(|(index, _)| *index);
        Ok(done)
    }

    /// Inserts all, as many at once as a command holds; when the server refuses some as a whole, though it takes other
    /// documents, by halves, until the culprits stand alone.
    async fn insert_rows(
        &self,
        documents: &Documents,
        rows: &[Row],
        done: &mut Inserted,
    ) -> Result<(), StoreError> {
        let mut takes_others = false;
        let mut left = commands(rows);
        while let Some(some) = left.pop() {
            let Some(refusal) = self.insert_once(documents, some, done).await? else {
                continue;
            };
            let fault = Fault::Driver(refusal);
            if !takes_others {
                let witness = self.insert_witness().await;
                witness.map_err(|_| self.told(&fault))?;
                takes_others = true;
                left.push(some);
            } else if let [row] = some {
                done.poison
                    .push((row.index, fault.cause().into_owned().into()));
            } else {
                left.extend(<[_; 2]>::from(some.split_at(some.len() / 2)));
            }
        }
        Ok(())
    }

    /// One insert. `Some` when it was refused as a whole, for what it is.
    async fn insert_once(
        &self,
        documents: &Documents,
        rows: &[Row],
        done: &mut Inserted,
    ) -> Result<Option<Error>, StoreError> {
        let command = command(self.messages.name(), documents, rows)
            .map_err(|error| self.told(&Fault::Driver(error)))?;
        let database = self.client.database(&self.messages.namespace().db);
        let insert = async { database.run_raw_command(command).await };
        let reply = match within(self.call_timeout, insert).await {
            Ok(reply) => reply,
            Err(Fault::Driver(error)) if is_refusal(&error) => return Ok(Some(error)),
            Err(fault) => return Err(self.told(&fault)),
        };
        let judged = judge(reply, rows).map_err(|what| {
            let text = format!("MongoDB at {}: {what}", self.hosts);
            StoreError::Unavailable(text.into())
        })?;
        done.duplicates += judged.duplicates;
        done.poison.extend(judged.poison);
        Ok(None)
    }

    /// Shows that the server takes documents into this collection, so that one that it refuses has only itself to
    /// blame. The witness is of no conversation, so that no page shows it, and is taken away again.
    async fn insert_witness(&self) -> Result<(), Fault> {
        let id = doc! {"_id": ObjectId::new()};
        let witness = RawDocumentBuf::try_from(&id).map_err(|e| Fault::Driver(e.into()))?;
        within(self.call_timeout, async {
            self.messages.insert_one(witness).await?;
            self.messages.delete_one(id).await
        })
        .await
        .map(|_| ())
    }
}

/// What an answer says of the rows that it does not call inserted.
#[derive(Debug, Default, PartialEq)]
struct Judged {
    duplicates: usize,
    poison: Vec<(usize, Cause)>,
}

/// Reads an answer: all of it, or nothing is believed to be stored.
fn judge(reply: Document, rows: &[Row]) -> Result<Judged, String> {
    let unreadable = |what: String| format!("its answer to an insert cannot be read: {what}");
    let reply: Reply =
        bson::deserialize_from_document(reply).map_err(|error| unreadable(error.to_string()))?;
    match reply.write_concern_error {
        None | Some(Bson::Null) => {}
        Some(error) => return Err(format!("not written as safely as was asked: {error}")),
    }
    let inserted = match reply.n {
        Bson::Int32(n) => usize::try_from(n).ok(),
        Bson::Int64(n) => usize::try_from(n).ok(),
        Bson::Double(n) => Some(n as usize),
        _ => None,
    };
    let inserted = inserted.ok_or_else(|| unreadable(format!("n is {}", reply.n)))?;
    let errors = reply.write_errors.unwrap_or_default();
    if inserted + errors.len() != rows.len() {
        let (errors, rows) = (errors.len(), rows.len());
        return Err(format!(
            "of {rows} documents it calls {inserted} inserted and {errors} refused"
        ));
    }
    let mut judged = Judged::default();
    for own in errors {
        match (of_document(&own), rows.get(own.index)) {
            (Verdict::Duplicate, _) => judged.duplicates += 1,
            (Verdict::Poison, Some(row)) => judged.poison.push((row.index, own.message.into())),
            (Verdict::Passing, _) | (Verdict::Poison, None) => return Err(own.message),
        }
    }
    Ok(judged)
}

/// The rows of each command, the last first: all that fit, and at least one.
fn commands(rows: &[Row]) -> Vec<&[Row]> {
    let mut commands = Vec::new();
    let mut bytes = 0;
    let mut start = 0;
    for (at, row) in rows.iter().enumerate() {
        let size = row.document.len() + ROW_BYTES;
        if bytes + size > COMMAND_BYTES_MAX && at > start {
            commands.extend(rows.get(start..at));
            (start, bytes) = (at, 0);
        }
        bytes += size;
    }
    commands.extend(rows.get(start..).filter(|last| !last.is_empty()));
    commands.reverse();
    commands
}

/// The command that inserts these rows. The driver adds the database, the session and the cluster's time.
fn command(
    collection: &str,
    documents: &Documents,
    rows: &[Row],
) -> mongodb::error::Result<RawDocumentBuf> {
    let size: usize = rows.iter().map(|row| row.document.len() + ROW_BYTES).sum();
    let mut out = Vec::with_capacity(size + collection.len() + 128);
    let command = begin(&mut out);
    push_name(&mut out, ElementType::String, "insert");
    push_text(&mut out, collection);
    push_name(&mut out, ElementType::Boolean, "ordered");
    out.push(0);
    // A command takes nothing over from its collection.
    push_name(&mut out, ElementType::EmbeddedDocument, "writeConcern");
    let concern = begin(&mut out);
    push_name(&mut out, ElementType::String, "w");
    push_text(&mut out, "majority");
    end(&mut out, concern);
    push_name(&mut out, ElementType::Array, "documents");
    let array = begin(&mut out);
    let mut number = itoa::Buffer::new();
    for (n, row) in rows.iter().enumerate() {
        push_name(&mut out, ElementType::EmbeddedDocument, number.format(n));
        out.extend_from_slice(documents.get(row.document.clone()));
    }
    end(&mut out, array);
    end(&mut out, command);
    Ok(RawDocumentBuf::from_bytes(out)?)
}

/// What a row's number and type add to it, at most.
const ROW_BYTES: usize = 22;

/// Documents of one command, with their numbers: a command is a document itself, of 16 MiB and a little more at most.
const COMMAND_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(sizes: &[usize]) -> Vec<Row> {
        let sizes = sizes.iter().enumerate();
        sizes
            .map(|(index, size)| Row {
                index,
                document: 0..*size,
            })
            .collect()
    }

    #[test]
    fn an_answer_is_believed_when_it_tells_of_every_document() {
        let duplicate = doc! {"index": 0, "code": 11_000, "errmsg": "E11000 index: _id_ dup key"};
        let invalid = doc! {"index": 2, "code": 121, "errmsg": "invalid"};
        let judged = |duplicates, poison: &[(usize, &'static str)]| Judged {
            duplicates,
            poison: poison
                .iter()
                .map(|(n, what)| (*n, (*what).into()))
                .collect(),
        };
        for (reply, expected) in [
            (doc! {"n": 3}, judged(0, &[])),
            (doc! {"n": 3_i64, "writeErrors": null}, judged(0, &[])),
            (
                doc! {"n": 3.0, "writeConcernError": null, "more": 1},
                judged(0, &[]),
            ),
            (doc! {"n": 2, "writeErrors": [&duplicate]}, judged(1, &[])),
            (
                doc! {"n": 1, "writeErrors": [&duplicate, &invalid]},
                judged(1, &[(2, "invalid")]),
            ),
        ] {
            assert_eq!(
                judge(reply.clone(), &rows(&[9; 3])),
                Ok(expected),
                "{reply}"
            );
        }
        let passing = doc! {"index": 0, "code": 189, "errmsg": "stepped down"};
        let beyond = doc! {"index": 3, "code": 121, "errmsg": "invalid"};
        for reply in [
            doc! {},
            doc! {"n": 2},
            doc! {"n": 4},
            doc! {"n": -1},
            doc! {"n": "3"},
            doc! {"n": 3, "writeErrors": [&duplicate]},
            doc! {"n": 3, "writeErrors": "none"},
            doc! {"n": 2, "writeErrors": [&passing]},
            doc! {"n": 2, "writeErrors": [&beyond]},
            doc! {"n": 2, "writeErrors": [{"index": 0}]},
            doc! {"n": 3, "writeConcernError": {"code": 64}},
        ] {
            assert!(judge(reply.clone(), &rows(&[9; 3])).is_err(), "{reply}");
        }
    }

    #[test]
    fn a_command_holds_what_fits_and_the_next_one_the_rest() {
        let half = COMMAND_BYTES_MAX / 2 - ROW_BYTES;
        for (sizes, expected) in [
            (&[][..], &[][..]),
            (&[half, half], &[2]),
            (&[half, half + 1], &[1, 1]),
            (&[half, half, 1], &[1, 2]),
            (&[COMMAND_BYTES_MAX, 1, 1], &[2, 1]),
        ] {
            let rows = rows(sizes);
            let commands = commands(&rows);
            let lengths: Vec<_> = commands.iter().map(|command| command.len()).collect();
            assert_eq!(lengths, expected);
            let indexes = commands.iter().rev().copied().flatten();
            assert!(indexes.map(|row| row.index).eq(0..rows.len()));
        }
    }
}
