//! What a client asks of a file: the first line is the header, the second the file's size, the third its entity tag.
//!
//! Any header is answered, and a range lies within the file.

use std::time::{Duration, SystemTime};

use chat_svc::http::range::{
    Ranged, if_none_match_names, if_range_holds, is_unmodified_since, parse,
};

pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let mut lines = text.split('\n');
    let header = lines.next().unwrap_or_default();
    let size = lines.next().and_then(|size| size.parse().ok());
    let size: u64 = size.unwrap_or(1000);
    let ranged = parse(header, size);
    if let Ranged::One(range) = &ranged {
        assert!(range.start < range.end && range.end <= size);
        let plain = format!("bytes={}-{}", range.start, range.end - 1);
        assert_eq!(parse(&plain, size), ranged);
        // The same of a file that is longer by one byte: at most that byte more.
        if let Ranged::One(longer) = parse(header, size.saturating_add(1)) {
            assert!(longer.end - range.end <= 1);
        }
    }
    if header.len() > 6 && ranged != Ranged::Whole {
        assert!(header.contains('=') && header.contains('-') && header.is_ascii());
    }
    conditions(header, lines.next());
}

fn conditions(header: &str, etag: Option<&str>) {
    let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(1_785_585_600_123);
    let holds = if_range_holds(header, etag, modified);
    if holds && header.contains('"') {
        assert_eq!(etag, Some(header.trim_ascii()));
    }
    let named = if_none_match_names(header, etag);
    assert!(!named || header.trim_ascii() == "*" || etag.is_some());
    let _total = is_unmodified_since(header, modified);
}
