//! The store in MongoDB, or in what speaks its protocol: one collection, one document a message.
//!
//! Writes are acknowledged by a majority, reads come from the primary, and every call ends within its time limit. A
//! collection that an earlier service filled is taken over as it is: its messages have no `seq`, come before all that
//! have one, in the order of their ids, and are shown with the fields of the contract.
//!
//! Sharding: `{conversation_id: 1, seq: 1}` keeps a page on one shard and lets a very large conversation be split.
//! MongoDB keeps `_id` unique within a shard only, so where a conversation may be split a resend whose first copy the
//! log already holds could be stored twice; `{conversation_id: 1}` rules that out and suits all but huge
//! conversations.

mod document;
mod encode;
mod fault;
mod insert;

use std::future::Future;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::RawDocumentBuf;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::ErrorKind;
use mongodb::options::{
    ClientOptions, CollectionOptions, ReadPreference, ReturnDocument, SelectionCriteria,
    WriteConcern,
};
use mongodb::{Client, Collection, IndexModel};

use crate::chat::id::{MessageId, Seq};
use crate::chat::message::Message;
use crate::store::mongo::document::to_message;
use crate::store::mongo::encode::int64;
use crate::store::mongo::fault::Fault;
use crate::store::{Cursor, Inserted, PAGE_BYTES_MAX, PageQuery, Store, StoreError};

// === MongoStore ===

/// Where the messages are and how long a call may take.
#[derive(Clone, Debug)]
pub struct MongoConfig {
    /// A connection string; its database is used, [`DATABASE`] when it names none.
    pub uri: String,
    pub collection: String,
    /// To reach a server at all.
    pub connect_timeout: Duration,
    /// To find one that takes the call, a new primary for instance.
    pub selection_timeout: Duration,
    /// For one call as a whole, selection included.
    pub call_timeout: Duration,
    /// For the index to be made at the opening: a large collection of an earlier service takes its time.
    pub index_timeout: Duration,
}

/// The database of a connection string that names none.
pub const DATABASE: &str = "chat_db";

/// The collection that an earlier service used.
pub const COLLECTION: &str = "messages";

impl MongoConfig {
    /// The usual names and limits.
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            collection: COLLECTION.to_owned(),
            connect_timeout: Duration::from_secs(5),
            selection_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(15),
            index_timeout: Duration::from_secs(600),
        }
    }
}

/// A [`Store`] in a MongoDB collection.
pub struct MongoStore {
    client: Client,
    messages: Collection<RawDocumentBuf>,
    /// For errors: where, without the credentials.
    hosts: String,
    call_timeout: Duration,
}

impl MongoStore {
    /// Connects, tries the credentials and makes the index. One try: a server that may yet come is
    /// [`StoreError::Unavailable`], what no waiting will mend [`StoreError::Failed`]; either is one sentence, without
    /// the password.
    pub async fn open(config: MongoConfig) -> Result<Self, StoreError> {
        let options = client_options(&config).await?;
        let hosts: Vec<_> = options.hosts.iter().map(ToString::to_string).collect();
        let hosts = hosts.join(",");
        let failed = |error| Fault::Driver(error).at_opening(&hosts);
        let client = Client::with_options(options).map_err(failed)?;
        let database = client
            .default_database()
            .unwrap_or_else(|| client.database(DATABASE));
        let collection = CollectionOptions::builder()
            .write_concern(WriteConcern::majority())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        let store = Self {
            messages: database.collection_with_options(&config.collection, collection),
            client,
            call_timeout: config.call_timeout,
            hosts,
        };
        let opening = |fault: Fault| fault.at_opening(&store.hosts);
        store.try_ping().await.map_err(opening)?;
        let keys = doc! {"conversation_id": 1, "seq": 1, "_id": 1};
        let index = IndexModel::builder().keys(keys).build();
        let made = async { store.messages.create_index(index).await };
        within(config.index_timeout, made).await.map_err(opening)?;
        Ok(store)
    }

    /// One call: within its time, and told as the trait tells errors.
    fn call<'a, T: 'a>(
        &'a self,
        work: impl Future<Output = mongodb::error::Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        let within = within(self.call_timeout, work);
        async { within.await.map_err(|fault| self.told(&fault)) }.boxed()
    }

    fn told(&self, fault: &Fault) -> StoreError {
        fault.while_running(&self.hosts)
    }

    async fn try_ping(&self) -> Result<(), Fault> {
        let database = self.client.database(self.messages.namespace().db.as_str());
        let ping = async { database.run_command(doc! {"ping": 1}).await };
        within(self.call_timeout, ping).await.map(|_| ())
    }
}

impl Store for MongoStore {
    fn insert_many<'a>(
        &'a self,
        batch: &'a [Message],
    ) -> BoxFuture<'a, Result<Inserted, StoreError>> {
        self.insert_all(batch).boxed()
    }

    fn page<'a>(&'a self, query: PageQuery<'a>) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
        self.call(self.read_page(query))
    }

    fn find<'a>(&'a self, ids: &'a [MessageId]) -> BoxFuture<'a, Result<Vec<Message>, StoreError>> {
        if ids.is_empty() {
            return async { Ok(Vec::new()) }.boxed();
        }
        self.call(async {
            let ids: Vec<Bson> = ids.iter().map(|id| object_id(*id).into()).collect();
            let filter = doc! {"_id": {"$in": ids}};
            let mut found = Rows::default();
            let cursor = self.messages.find(filter).batch_size(READ_BATCH).await?;
            found.take(cursor).await?;
            Ok(found.messages)
        })
    }

    fn report_spam(&self, id: MessageId) -> BoxFuture<'_, Result<Option<Message>, StoreError>> {
        self.call(async move {
            let filter = doc! {"_id": object_id(id)};
            let reported = self
                .messages
                .find_one_and_update(filter, doc! {"$set": {"is_spam": true}})
                .return_document(ReturnDocument::After)
                .await?;
            Ok(reported.as_deref().and_then(to_message))
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        async { self.try_ping().await.map_err(|fault| self.told(&fault)) }.boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.call(async {
            self.client.clone().shutdown().await;
            Ok(())
        })
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = mongodb::error::Result<T>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(Fault::Driver),
        Err(_) => Err(Fault::Late(limit)),
    }
}

async fn client_options(config: &MongoConfig) -> Result<ClientOptions, StoreError> {
    let parsed = within(config.selection_timeout, async {
        ClientOptions::parse(&config.uri).await
    });
    let mut options = parsed.await.map_err(|fault| match fault {
        Fault::Driver(error) if matches!(*error.kind, ErrorKind::InvalidArgument { .. }) => {
            let ErrorKind::InvalidArgument { message, .. } = &*error.kind else {
                return Fault::Driver(error).at_opening("");
            };
            StoreError::Failed(format!("the MongoDB address is not valid: {message}").into())
        }
        fault => fault.at_opening("the name in its address"),
    })?;
    options
        .app_name
        .get_or_insert_with(|| "chat-svc".to_owned());
    options.connect_timeout = Some(config.connect_timeout);
    options.server_selection_timeout = Some(config.selection_timeout);
    Ok(options)
}

// === reading ===

impl MongoStore {
    async fn read_page(&self, query: PageQuery<'_>) -> mongodb::error::Result<Vec<Message>> {
        let mut page = Rows {
            bytes_max: PAGE_BYTES_MAX,
            ..Rows::default()
        };
        let rising = matches!(query.cursor, Cursor::After(..));
        let direction = if rising { 1 } else { -1 };
        for mut filter in stretches(query.cursor) {
            if page.messages.len() >= query.limit || page.is_full() {
                break;
            }
            filter.insert("conversation_id", query.conversation.as_str());
            let left = query.limit - page.messages.len();
            let find = self.messages.find(filter).batch_size(READ_BATCH);
            let find = find.sort(doc! {"seq": direction, "_id": direction});
            let limit = i64::try_from(left).unwrap_or(i64::MAX);
            page.take(find.limit(limit).await?).await?;
        }
        if !rising {
            page.messages.reverse();
        }
        Ok(page.messages)
    }
}

/// Messages read so far, and how many bytes of them are enough.
struct Rows {
    messages: Vec<Message>,
    bytes: usize,
    bytes_max: usize,
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            bytes: 0,
            bytes_max: usize::MAX,
        }
    }
}

impl Rows {
    fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// Up to the one that fills it; the server is asked for no more.
    async fn take(&mut self, mut cursor: RawCursor) -> mongodb::error::Result<()> {
        while !self.is_full() && cursor.advance().await? {
            let document = cursor.current();
            match to_message(document) {
                Some(message) => {
                    self.bytes += message.size();
                    self.messages.push(message);
                }
                None => tracing::warn!(id = ?document.get("_id"), "a document is no message"),
            }
        }
        Ok(())
    }
}

type RawCursor = mongodb::Cursor<RawDocumentBuf>;

/// The documents beyond a cursor, as filters to be read one after the other, the nearest first. A missing `seq` is
/// `null` to a filter and sorts before numbers; the bounds stand so that each stretch is one range of the index.
/// Comparing `_id` with an ObjectId leaves out what has another kind of id and so cannot be a message.
fn stretches(cursor: Cursor) -> Vec<Document> {
    let any_id = || doc! {"$gte": ObjectId::from_bytes([0; 12])};
    match cursor {
        Cursor::Newest => vec![doc! {"_id": any_id()}],
        Cursor::Before(Seq::NONE, id) => {
            vec![doc! {"seq": Bson::Null, "_id": {"$lt": object_id(id)}}]
        }
        Cursor::Before(seq, id) => {
            let seq = int64(seq);
            let same = doc! {"_id": {"$lt": object_id(id)}};
            vec![
                doc! {"seq": {"$lte": seq}, "$or": [{"seq": {"$lt": seq}}, same]},
                doc! {"seq": Bson::Null, "_id": any_id()},
            ]
        }
        Cursor::After(Seq::NONE, id) => vec![
            doc! {"seq": Bson::Null, "_id": {"$gt": object_id(id)}},
            doc! {"seq": {"$gte": 0_i64}},
        ],
        Cursor::After(seq, id) => {
            let seq = int64(seq);
            let same = doc! {"_id": {"$gt": object_id(id)}};
            vec![doc! {"seq": {"$gte": seq}, "$or": [{"seq": {"$gt": seq}}, same]}]
        }
    }
}

fn object_id(id: MessageId) -> ObjectId {
    ObjectId::from_bytes(id.0)
}

/// Documents in one answer of the server: more than a page has.
const READ_BATCH: u32 = 1_000;
