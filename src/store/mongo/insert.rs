//! Inserting a batch: one unordered insert, whose errors are read document by document.
//!
//! A document that is there already counts as done, one that can never be taken is named, and anything that may pass
//! makes the whole call one to be repeated, which repeats nothing that was done.

use mongodb::bson::doc;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::RawDocumentBuf;
use mongodb::error::{Error, ErrorKind};

use crate::chat::message::Message;
use crate::store::mongo::document::of_message;
use crate::store::mongo::fault::{Fault, Verdict, is_refusal, of_document};
use crate::store::mongo::{MongoStore, within};
use crate::store::{Inserted, StoreError};

/// A document and its place in the batch.
type Row = (usize, RawDocumentBuf);

impl MongoStore {
    pub(super) async fn insert_all(&self, batch: &[Message]) -> Result<Inserted, StoreError> {
        let mut done = Inserted::default();
        let mut rows: Vec<Row> = Vec::with_capacity(batch.len());
        for (index, message) in batch.iter().enumerate() {
            match of_message(message) {
                Ok(document) => rows.push((index, document)),
                Err(cause) => done.poison.push((index, cause)),
            }
        }
        self.insert_rows(&rows, &mut done).await?;
        done.inserted = batch.len() - done.duplicates - done.poison.len();
        done.poison.sort_unstable_by_key(|(index, _)| *index);
        Ok(done)
    }

    /// Inserts all at once; when the server refuses that as a whole, though it takes other documents, by halves, until
    /// the culprits stand alone.
    async fn insert_rows(&self, rows: &[Row], done: &mut Inserted) -> Result<(), StoreError> {
        let mut takes_others = false;
        let mut left = vec![rows];
        while let Some(some) = left.pop() {
            let Some(refusal) = self.insert_once(some, done).await? else {
                continue;
            };
            let fault = Fault::Driver(refusal);
            if !takes_others {
                let witness = self.insert_witness().await;
                witness.map_err(|_| self.told(&fault))?;
                takes_others = true;
                left.push(some);
            } else if let [(index, _)] = some {
                done.poison
                    .push((*index, fault.cause().into_owned().into()));
            } else {
                left.extend(<[_; 2]>::from(some.split_at(some.len() / 2)));
            }
        }
        Ok(())
    }

    /// One insert. `Some` when it was refused as a whole, for what it is.
    async fn insert_once(
        &self,
        rows: &[Row],
        done: &mut Inserted,
    ) -> Result<Option<Error>, StoreError> {
        if rows.is_empty() {
            return Ok(None);
        }
        let documents = rows.iter().map(|(_, document)| document);
        let insert = async { self.messages.insert_many(documents).ordered(false).await };
        let error = match within(self.call_timeout, insert).await {
            Ok(_) => return Ok(None),
            Err(Fault::Driver(error)) => error,
            Err(late) => return Err(self.told(&late)),
        };
        if is_refusal(&error) {
            return Ok(Some(error));
        }
        let ErrorKind::InsertMany(failure) = &*error.kind else {
            return Err(self.told(&Fault::Driver(error)));
        };
        let own_errors = failure.write_errors.as_deref().unwrap_or_default();
        let not_durable = failure.write_concern_error.is_some() || own_errors.is_empty();
        if not_durable {
            return Err(self.told(&Fault::Driver(error)));
        }
        let mut duplicates = 0;
        let mut poison = Vec::new();
        for own in own_errors {
            match (of_document(own), rows.get(own.index)) {
                (Verdict::Duplicate, _) => duplicates += 1,
                (Verdict::Poison, Some((index, _))) => {
                    poison.push((*index, own.message.clone().into()));
                }
                (Verdict::Passing, _) | (Verdict::Poison, None) => {
                    let text = format!("MongoDB at {}: {}", self.hosts, own.message);
                    return Err(StoreError::Unavailable(text.into()));
                }
            }
        }
        done.duplicates += duplicates;
        done.poison.append(&mut poison);
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
