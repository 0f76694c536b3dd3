//! What every store keeps, whatever it stands on. Conversations and ids are fresh in every test, so that a server
//! shared with others serves as well as a folder of our own.

#![allow(clippy::unwrap_used)] // a scenario may fail wherever it stands

mod embedded;
mod making;
mod mongo;
mod mongo_away;

use std::collections::BTreeSet;
use std::future::Future;

use chat_svc::chat::id::{ConversationId, MessageId, Seq};
use chat_svc::chat::message::Message;
use chat_svc::store::{Cursor, Inserted, PAGE_BYTES_MAX, PageQuery, Store};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRunner};

use making::{conversation, fresh_id, message, messages, moved, sized, with_text};

/// One module a store: each scenario below as a test of its own. `$with` runs a scenario on a fresh store.
macro_rules! contract {
    ($store:ident, $with:path; $($scenario:ident),+ $(,)?) => {
        mod $store {
            $(#[test]
            fn $scenario() {
                $with(super::$scenario);
            })+
        }
    };
}

/// The whole contract.
macro_rules! whole_contract {
    ($store:ident, $with:path) => {
        contract!(
            $store, $with;
            an_insert_is_idempotent_by_id,
            the_first_of_two_equal_ids_in_a_batch_wins,
            a_replayed_insert_keeps_the_spam_report,
            an_inserted_spam_flag_comes_back,
            a_report_of_an_unknown_message_finds_nothing,
            a_report_changes_nothing_else,
            pages_are_exact_at_their_borders,
            pages_of_any_store_are_those_of_a_sorted_list,
            a_page_ends_with_the_message_that_brings_it_to_its_bytes,
            one_message_above_the_bytes_of_a_page_is_a_page,
            extreme_places_keep_their_order,
            messages_without_a_place_come_first_by_id,
            conversations_do_not_leak_into_each_other,
            bodies_come_back_to_the_byte,
            find_gives_those_that_are_there,
            nothing_asked_is_nothing_done,
            concurrent_inserts_and_reports_lose_nothing,
            ping_answers,
        );
    };
}

whole_contract!(embedded_keeps, crate::embedded::with_store);
whole_contract!(mongo_keeps, crate::mongo::with_store);

// === scenarios ===

async fn an_insert_is_idempotent_by_id(store: &dyn Store) {
    let chat = conversation();
    let first = messages(&chat, [1, 2]);
    assert_eq!(store.insert_many(&first).await.unwrap(), done(2, 0));

    let mut replay = messages(&chat, [3]);
    replay.insert(0, moved(&first[1], 9));
    assert_eq!(store.insert_many(&replay).await.unwrap(), done(1, 1));
    let stored = page(store, &chat, Cursor::Newest, 10).await;
    assert_eq!(
        stored,
        [first, replay.split_off(1)].concat(),
        "a duplicate keeps the first one's place"
    );
}

async fn the_first_of_two_equal_ids_in_a_batch_wins(store: &dyn Store) {
    let chat = conversation();
    let first = message(&chat, 1);
    let batch = [first.clone(), moved(&first, 2)];
    assert_eq!(store.insert_many(&batch).await.unwrap(), done(1, 1));
    assert_eq!(page(store, &chat, Cursor::Newest, 10).await, [first]);
}

async fn a_replayed_insert_keeps_the_spam_report(store: &dyn Store) {
    let chat = conversation();
    let plain = messages(&chat, [1]);
    store.insert_many(&plain).await.unwrap();
    store.report_spam(plain[0].id).await.unwrap().unwrap();
    assert_eq!(store.insert_many(&plain).await.unwrap(), done(0, 1));
    assert!(page(store, &chat, Cursor::Newest, 1).await[0].is_spam);
}

async fn an_inserted_spam_flag_comes_back(store: &dyn Store) {
    let chat = conversation();
    let mut spam = message(&chat, 1);
    spam.is_spam = true;
    store
        .insert_many(std::slice::from_ref(&spam))
        .await
        .unwrap();
    assert_eq!(page(store, &chat, Cursor::Newest, 1).await, [spam]);
}

async fn a_report_of_an_unknown_message_finds_nothing(store: &dyn Store) {
    assert_eq!(store.report_spam(fresh_id()).await.unwrap(), None);
}

async fn a_report_changes_nothing_else(store: &dyn Store) {
    let chat = conversation();
    let mut expected = messages(&chat, 1..=3);
    store.insert_many(&expected).await.unwrap();
    expected[1].is_spam = true;
    let reported = expected[1].clone();
    for _ in 0..2 {
        let answer = store.report_spam(reported.id).await.unwrap();
        assert_eq!(answer.as_ref(), Some(&reported));
    }
    assert_eq!(page(store, &chat, Cursor::Newest, 10).await, expected);
    assert_eq!(store.find(&[reported.id]).await.unwrap(), [reported]);
}

async fn pages_are_exact_at_their_borders(store: &dyn Store) {
    let chat = conversation();
    let all = messages(&chat, [10, 20, 30, 40]);
    store.insert_many(&all).await.unwrap();
    let cases: &[(Cursor, usize, &[u64])] = &[
        (Cursor::Newest, 0, &[]),
        (Cursor::Newest, 1, &[40]),
        (Cursor::Newest, 3, &[20, 30, 40]),
        (Cursor::Newest, 4, &[10, 20, 30, 40]),
        (Cursor::Newest, usize::MAX, &[10, 20, 30, 40]),
        (after(0), 2, &[10, 20]),
        (after(9), 1, &[10]),
        (after(10), 1, &[20]),
        (after(10), 9, &[20, 30, 40]),
        (after(25), 9, &[30, 40]),
        (after(40), 9, &[]),
        (after(10), 0, &[]),
        (before(10), 9, &[]),
        (before(11), 9, &[10]),
        (before(40), 2, &[20, 30]),
        (before(40), 9, &[10, 20, 30]),
        (before(99), 1, &[40]),
        (before(40), 0, &[]),
    ];
    for (cursor, limit, expected) in cases {
        let page = page(store, &chat, *cursor, *limit).await;
        assert_eq!(seqs(&page), *expected, "{cursor:?}, at most {limit}");
    }
    assert!(
        page(store, &conversation(), Cursor::Newest, 9)
            .await
            .is_empty()
    );
}

async fn pages_of_any_store_are_those_of_a_sorted_list(store: &dyn Store) {
    let mut runner = TestRunner::new(Config::default());
    // Each place in one of three batches: what comes later stands before, behind and between what is there.
    let case = (
        proptest::collection::btree_map(0u64..40, 0usize..3, 0..40),
        proptest::collection::vec((0u8..3, 0u64..42, 0usize..8), 1..8),
    );
    for _ in 0..16 {
        let (places, queries) = case.new_tree(&mut runner).unwrap().current();
        let (chat, other) = (conversation(), conversation());
        let mut batches = [const { Vec::new() }; 3];
        // Rows come in falling order, so that the store does the sorting; some are long.
        for (place, batch) in places.iter().rev() {
            let long = (place % 4 == 0) as usize * 12_000;
            batches[*batch].push(sized(message(&chat, *place), 500 + long));
            batches[*batch].push(message(&other, *place));
        }
        for batch in &batches {
            store.insert_many(batch).await.unwrap();
        }
        let reported = batches.iter_mut().flatten().filter(|m| m.seq.0 % 3 == 0);
        for message in reported {
            message.is_spam = true;
            let answer = store.report_spam(message.id).await.unwrap();
            assert_eq!(answer.as_ref(), Some(&*message));
        }
        let mut all: Vec<Message> = batches.into_iter().flatten().collect();
        assert_eq!(store.insert_many(&all).await.unwrap(), done(0, all.len()));
        all.sort_by_key(Message::place);
        for chat in [&chat, &other] {
            let stored = page(store, chat, Cursor::Newest, 99).await;
            let expected = all.iter().filter(|m| m.conversation == *chat);
            assert!(stored.iter().eq(expected), "{places:?}");
        }
        let ids: Vec<MessageId> = all.iter().map(|message| message.id).collect();
        let mut found = store.find(&ids).await.unwrap();
        found.sort_by_key(Message::place);
        assert_eq!(found.len(), all.len(), "{places:?}");
        assert!(found.iter().all(|message| all.contains(message)));
        let places = places.into_keys().collect();
        for (kind, seq, limit) in queries {
            let cursor = match kind {
                0 => Cursor::Newest,
                1 => after(seq),
                _ => before(seq),
            };
            let page = page(store, &chat, cursor, limit).await;
            assert_eq!(seqs(&page), of_a_list(&places, cursor, limit), "{cursor:?}");
        }
    }
}

async fn a_page_ends_with_the_message_that_brings_it_to_its_bytes(store: &dyn Store) {
    let half = PAGE_BYTES_MAX / 2;
    // From either end, the first two messages have exactly a page's bytes, or one byte less.
    for (short, count) in [(0, 2), (1, 3)] {
        let chat = conversation();
        let sizes = [half, half - short, half, half - short];
        let all: Vec<Message> = (1..)
            .zip(sizes)
            .map(|(seq, size)| sized(message(&chat, seq), size))
            .collect();
        store.insert_many(&all).await.unwrap();
        for (cursor, expected) in [
            (after(0), &all[..count]),
            (before(9), &all[4 - count..]),
            (Cursor::Newest, &all[4 - count..]),
        ] {
            let page = page(store, &chat, cursor, 9).await;
            assert_eq!(seqs(&page), seqs(expected), "{cursor:?}, {short} short");
        }
    }
}

async fn one_message_above_the_bytes_of_a_page_is_a_page(store: &dyn Store) {
    let chat = conversation();
    let all = [1, 2].map(|seq| sized(message(&chat, seq), PAGE_BYTES_MAX + 1));
    store.insert_many(&all).await.unwrap();
    assert_eq!(page(store, &chat, after(0), 9).await, all[..1]);
    assert_eq!(page(store, &chat, Cursor::Newest, 9).await, all[1..]);
    // What has no place comes first, in a stretch of its own: a full page does not reach into it.
    let mut old = message(&chat, 0);
    old.seq = Seq::NONE;
    store.insert_many(&[old]).await.unwrap();
    assert_eq!(page(store, &chat, before(2), 9).await, all[..1]);
}

async fn extreme_places_keep_their_order(store: &dyn Store) {
    let chat = conversation();
    let places = [0, 255, 256, 65_535, 1 << 40, (1 << 53) - 1];
    store
        .insert_many(&messages(&chat, places.into_iter().rev()))
        .await
        .unwrap();
    assert_eq!(
        seqs(&page(store, &chat, Cursor::Newest, 9).await),
        places,
        "by number, not by digit or low byte"
    );
    let before = page(store, &chat, before(1 << 40), 1).await;
    assert_eq!(seqs(&before), [65_535]);
    let after = page(store, &chat, after((1 << 53) - 1), 9).await;
    assert!(after.is_empty());
}

async fn messages_without_a_place_come_first_by_id(store: &dyn Store) {
    let chat = conversation();
    let mut all = messages(&chat, [0, 0, 0, 0, 7, 8]);
    all[..4].sort_by_key(|message| message.id);
    let shuffled = [4, 2, 0, 5, 3, 1].map(|index: usize| all[index].clone());
    store.insert_many(&shuffled).await.unwrap();
    for limit in 1..=all.len() {
        assert_eq!(
            page(store, &chat, Cursor::Newest, limit).await,
            all[all.len() - limit..]
        );
        for (index, message) in all.iter().enumerate() {
            let (seq, id) = message.place();
            let back = page(store, &chat, Cursor::Before(seq, id), limit).await;
            assert_eq!(back, all[index.saturating_sub(limit)..index]);
            let on = page(store, &chat, Cursor::After(seq, id), limit).await;
            assert_eq!(on, all[index + 1..all.len().min(index + 1 + limit)]);
        }
    }
}

async fn conversations_do_not_leak_into_each_other(store: &dyn Store) {
    let wide = "w".repeat(1024 - unique().len());
    let tails = [
        "",
        "a",
        "aa",
        "a:b",
        "\u{7f}",
        "é",
        "\u{ff}",
        "\u{10ffff}",
        "%00",
        &wide,
    ];
    keep_apart(store, &tails).await;
}

/// Not in the contract of every server: some that speak MongoDB's protocol cannot hold a NUL.
async fn nul_is_a_character_like_any_other(store: &dyn Store) {
    keep_apart(store, &["", "\0", "\0\0", "a", "a\0"]).await;
    let chat = conversation();
    let message = with_text(message(&chat, 1), "\0a\0");
    let batch = std::slice::from_ref(&message);
    assert_eq!(store.insert_many(batch).await.unwrap(), done(1, 0));
    assert_eq!(page(store, &chat, Cursor::Newest, 9).await, [message]);
}

/// Conversations whose ids differ only at the end have each their own messages.
async fn keep_apart(store: &dyn Store, tails: &[&str]) {
    let base = unique();
    let chats: Vec<_> = tails
        .iter()
        .map(|tail| ConversationId::new(format!("{base}{tail}")).unwrap())
        .collect();
    let rows: Vec<_> = chats.iter().map(|chat| messages(chat, [7, 8])).collect();
    assert_eq!(
        store.insert_many(&rows.concat()).await.unwrap(),
        done(2 * tails.len(), 0)
    );
    for (chat, rows) in chats.iter().zip(&rows) {
        for cursor in [Cursor::Newest, after(0), before(9)] {
            assert_eq!(&page(store, chat, cursor, 99).await, rows, "{chat:?}");
        }
    }
}

async fn bodies_come_back_to_the_byte(store: &dyn Store) {
    let chat = conversation();
    let batch: Vec<_> = [
        "",
        "a\"b\\c/d\te\r\n\u{1b}\u{7f}",
        "Grüße, 你好, 😀, \u{2028}, \u{fffd}, \u{10ffff}",
        &"x".repeat(900_000),
    ]
    .iter()
    .zip(1..)
    .map(|(text, seq)| with_text(message(&chat, seq), text))
    .collect();
    assert_eq!(store.insert_many(&batch).await.unwrap(), done(4, 0));
    assert!(page(store, &chat, Cursor::Newest, 9).await == batch);
}

async fn find_gives_those_that_are_there(store: &dyn Store) {
    let (one, other) = (message(&conversation(), 1), message(&conversation(), 1));
    store
        .insert_many(&[one.clone(), other.clone()])
        .await
        .unwrap();
    let mut found = store.find(&[fresh_id(), other.id, one.id]).await.unwrap();
    found.sort_by_key(|message| message.id != one.id);
    assert_eq!(found, [one, other]);
}

async fn nothing_asked_is_nothing_done(store: &dyn Store) {
    assert_eq!(store.insert_many(&[]).await.unwrap(), done(0, 0));
    assert!(store.find(&[]).await.unwrap().is_empty());
}

async fn concurrent_inserts_and_reports_lose_nothing(store: &dyn Store) {
    let chat = conversation();
    let all = messages(&chat, 0..64);
    let halves = [&all[..40], &all[24..]];
    let inserts = halves.map(|half| async move {
        let mut sum = Inserted::default();
        for batch in half.chunks(4) {
            let Inserted {
                inserted,
                duplicates,
                poison,
            } = store.insert_many(batch).await.unwrap();
            assert!(poison.is_empty());
            sum.inserted += inserted;
            sum.duplicates += duplicates;
        }
        sum
    });
    let reports = all.iter().step_by(3).map(|message| async move {
        // Others insert it meanwhile: asked until it is there, which takes no more rounds than there are inserts.
        while store.report_spam(message.id).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    });
    let (inserted, _) = futures_util::future::join(
        futures_util::future::join_all(inserts),
        futures_util::future::join_all(reports),
    )
    .await;

    assert_eq!(inserted.iter().map(|sum| sum.inserted).sum::<usize>(), 64);
    assert_eq!(inserted.iter().map(|sum| sum.duplicates).sum::<usize>(), 16);
    let stored = page(store, &chat, Cursor::Newest, 99).await;
    assert_eq!(seqs(&stored), (0..64).collect::<Vec<_>>());
    assert!(
        stored
            .iter()
            .zip(0..)
            .all(|(m, i)| m.is_spam == (i % 3 == 0))
    );
}

async fn ping_answers(store: &dyn Store) {
    store.ping().await.unwrap();
}

// === what scenarios are written in ===

fn run(scenario: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(scenario);
}

fn unique() -> String {
    format!("store-{}", fresh_id())
}

fn after(seq: u64) -> Cursor {
    Cursor::After(Seq(seq), MessageId([0xff; 12]))
}

fn before(seq: u64) -> Cursor {
    Cursor::Before(Seq(seq), MessageId([0; 12]))
}

fn seqs(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.seq.0).collect()
}

fn done(inserted: usize, duplicates: usize) -> Inserted {
    Inserted {
        inserted,
        duplicates,
        poison: Vec::new(),
    }
}

async fn page(
    store: &dyn Store,
    conversation: &ConversationId,
    cursor: Cursor,
    limit: usize,
) -> Vec<Message> {
    store
        .page(PageQuery {
            conversation,
            cursor,
            limit,
        })
        .await
        .unwrap()
}

/// What a page must be, said with a list.
fn of_a_list(places: &BTreeSet<u64>, cursor: Cursor, limit: usize) -> Vec<u64> {
    let kept: Vec<u64> = places
        .iter()
        .copied()
        .filter(|place| match cursor {
            Cursor::Newest => true,
            Cursor::After(Seq(seq), _) => *place > seq,
            Cursor::Before(Seq(seq), _) => *place < seq,
        })
        .collect();
    match cursor {
        Cursor::After(..) => kept.into_iter().take(limit).collect(),
        Cursor::Newest | Cursor::Before(..) => kept[kept.len().saturating_sub(limit)..].to_vec(),
    }
}
