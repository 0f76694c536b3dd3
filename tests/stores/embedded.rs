//! The embedded store: what only it keeps.

use bytes::Bytes;
use chat_svc::chat::id::{MessageId, Seq};
use chat_svc::chat::message::Message;
use chat_svc::store::embedded::EmbeddedStore;
use chat_svc::store::{Cursor, Store, StoreError};
use tempfile::TempDir;

use crate::nul_is_a_character_like_any_other;
use crate::{conversation, done, message, messages, page, run, sized};

/// Runs a scenario on a store in a folder of its own.
pub fn with_store(scenario: impl AsyncFnOnce(&dyn Store)) {
    run(async {
        let (store, _folder) = fresh();
        scenario(&store).await;
    });
}

fn fresh() -> (EmbeddedStore, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (EmbeddedStore::open(folder.path()).unwrap(), folder)
}

#[test]
fn nul_is_kept() {
    with_store(nul_is_a_character_like_any_other);
}

#[test]
fn bodies_are_not_even_written_anew() {
    with_store(async |store| {
        let chat = conversation();
        let mut odd = message(&chat, 1);
        odd.body = Bytes::from(format!(
            r#"{{"_id":"{}","text_content":"\u0000\ud83d\ude00\/\n","n":1.0e+2  , "a" : [ ]"#,
            odd.id
        ));
        store.insert_many(std::slice::from_ref(&odd)).await.unwrap();
        assert_eq!(page(store, &chat, Cursor::Newest, 9).await, [odd]);
    });
}

#[test]
fn a_folder_opened_again_has_everything() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/when/missing");
        let chat = conversation();
        let mut all = messages(&chat, 0..2_000);
        let store = EmbeddedStore::open(&path).unwrap();
        store.insert_many(&all).await.unwrap();
        store.report_spam(all[7].id).await.unwrap().unwrap();
        store.close().await.unwrap();
        drop(store);

        all[7].is_spam = true;
        let store = EmbeddedStore::open(&path).unwrap();
        assert!(page(&store, &chat, Cursor::Newest, 9_999).await == all);
        assert_eq!(store.insert_many(&all).await.unwrap(), done(0, 2_000));
    });
}

/// An insert is written in parts of a thousand messages or a little more.
#[test]
fn an_insert_of_many_parts_is_read_found_and_taken_once() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let chats: Vec<_> = (0..100).map(|_| conversation()).collect();
        // Half of them in one conversation, the others in all the rest.
        let chat = |seq: u64| match seq % 2 {
            0 => &chats[0],
            _ => &chats[1 + (seq / 2 % 99) as usize],
        };
        let all: Vec<Message> = (1..=6_000).map(|seq| message(chat(seq), seq)).collect();
        let store = EmbeddedStore::open(folder.path()).unwrap();
        assert_eq!(store.insert_many(&all).await.unwrap(), done(6_000, 0));
        // As after a crash, when only some of them had been written.
        let later: Vec<Message> = (6_001..=9_000).map(|seq| message(chat(seq), seq)).collect();
        store.insert_many(&later[1_500..]).await.unwrap();
        assert_eq!(store.insert_many(&later).await.unwrap(), done(1_500, 1_500));
        store.close().await.unwrap();
        drop(store);

        let store = EmbeddedStore::open(folder.path()).unwrap();
        let all = [all, later].concat();
        for chat in &chats {
            let expected: Vec<&Message> = all.iter().filter(|m| m.conversation == *chat).collect();
            let read = page(&store, chat, Cursor::Newest, 9_999).await;
            assert!(read.iter().eq(expected));
        }
        let ids: Vec<MessageId> = all.iter().map(|message| message.id).collect();
        let mut found = store.find(&ids).await.unwrap();
        found.sort_by_key(Message::place);
        assert!(found == all);
        assert_eq!(store.insert_many(&all).await.unwrap(), done(0, 9_000));
    });
}

/// What was stored before the folder was opened again is looked at as what this opening stored.
#[test]
fn a_folder_opened_again_takes_what_belongs_between() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let chat = conversation();
        let all = messages(&chat, 0..600);
        let thirds = [0, 2, 1].map(|third| {
            let of_third = all.iter().enumerate().filter(move |(n, _)| n % 3 == third);
            of_third
                .map(|(_, message)| message.clone())
                .collect::<Vec<_>>()
        });
        for third in &thirds {
            let store = EmbeddedStore::open(folder.path()).unwrap();
            store.insert_many(third).await.unwrap();
            store.close().await.unwrap();
        }
        let store = EmbeddedStore::open(folder.path()).unwrap();
        assert!(page(&store, &chat, Cursor::Newest, 9_999).await == all);
        for n in [0, 1, 299, 598, 599] {
            let (seq, id) = all[n].place();
            assert!(
                page(&store, &chat, Cursor::After(seq, id), 50).await
                    == all[n + 1..600.min(n + 51)]
            );
            assert!(
                page(&store, &chat, Cursor::Before(seq, id), 50).await
                    == all[n.saturating_sub(50)..n]
            );
        }
        assert_eq!(store.insert_many(&all).await.unwrap(), done(0, 600));
    });
}

/// More than the store writes in memory first, so that it moves to tables and values apart from their keys.
#[test]
fn what_left_memory_is_read_reported_and_opened_again() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let chats = [conversation(), conversation()];
        let mut all: Vec<Message> = (0..1_600)
            .map(|seq| sized(message(&chats[seq as usize % 2], seq), 20_000))
            .collect();
        let store = EmbeddedStore::open(folder.path()).unwrap();
        for batch in all.chunks(80) {
            store.insert_many(batch).await.unwrap();
        }
        for message in all.iter_mut().step_by(7) {
            message.is_spam = true;
            store.report_spam(message.id).await.unwrap().unwrap();
        }
        store.close().await.unwrap();
        drop(store);
        let store = EmbeddedStore::open(folder.path()).unwrap();
        assert_eq!(store.insert_many(&all).await.unwrap(), done(0, 1_600));
        for (first, chat) in chats.iter().enumerate() {
            let expected: Vec<&Message> = all.iter().skip(first).step_by(2).collect();
            let mut place = (Seq(0), MessageId([0; 12]));
            let mut read = Vec::new();
            while read.len() < expected.len() {
                let next = page(&store, chat, Cursor::After(place.0, place.1), 50).await;
                place = next.last().expect("more").place();
                read.extend(next);
            }
            assert!(read.iter().eq(expected));
        }
    });
}

#[test]
fn a_second_opening_names_the_folder_and_the_cause() {
    run(async {
        let (first, folder) = fresh();
        let error = EmbeddedStore::open(folder.path()).err().unwrap();
        let text = error.to_string();
        assert!(
            text.contains(&folder.path().display().to_string()),
            "{text}"
        );
        assert!(text.contains("in use by another process"), "{text}");
        first.close().await.unwrap();
        EmbeddedStore::open(folder.path()).unwrap();
    });
}

#[test]
fn a_path_that_is_no_folder_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = EmbeddedStore::open(file.path()).err().unwrap().to_string();
    assert!(
        error.contains(&file.path().display().to_string()),
        "{error}"
    );
}

#[test]
fn a_closed_store_says_so_and_closes_again() {
    run(async {
        let (store, _folder) = fresh();
        store.close().await.unwrap();
        store.close().await.unwrap();
        let refused = store.insert_many(&messages(&conversation(), [1])).await;
        assert!(matches!(refused, Err(StoreError::Failed(_))));
        assert!(matches!(store.ping().await, Err(StoreError::Failed(_))));
    });
}
