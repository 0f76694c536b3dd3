//! The headers by which a client asks for a part of a file, or only for a newer one (RFC 9110, 13 and 14).
//!
//! Pure, and total on any input: a header that cannot be read is as good as none.

use std::ops::Range;
use std::time::{Duration, SystemTime};

/// What a `Range` header asks of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranged {
    /// All of it: 200.
    Whole,
    /// These bytes, at least one, within the file: 206.
    One(Range<u64>),
    /// Bytes that the file does not have: 416.
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `size` bytes. Several ranges are answered with the whole file, as a server may.
pub fn parse(header: &str, size: u64) -> Ranged {
    one_range(header).map_or(Ranged::Whole, |asked| asked.within(size))
}

/// Whether an `If-Range` header lets the range stand: a strong entity tag equal to the file's, or the file's very date.
pub fn if_range_holds(header: &str, etag: Option<&str>, modified: SystemTime) -> bool {
    let header = header.trim_ascii();
    if header.contains('"') {
        return etag == Some(header) && !header.starts_with("W/");
    }
    // A file is never written again under its name, so the date is as good as a strong tag.
    httpdate::parse_http_date(header).is_ok_and(|date| date == whole_seconds(modified))
}

/// Whether an `If-None-Match` header names the file's entity tag, so that the client has it: 304.
pub fn if_none_match_names(header: &str, etag: Option<&str>) -> bool {
    if header.trim_ascii() == "*" {
        return true;
    }
    etag.is_some_and(|etag| entity_tags(header).any(|tag| tag == opaque(etag)))
}

/// Whether an `If-Modified-Since` header shows that the client has the file: 304. Not asked when there is an
/// `If-None-Match`.
pub fn is_unmodified_since(header: &str, modified: SystemTime) -> bool {
    httpdate::parse_http_date(header.trim_ascii())
        .is_ok_and(|since| whole_seconds(modified) <= since)
}

/// A range as the header has it.
#[derive(Clone, Copy)]
enum Asked {
    /// From the first byte to the last, if that is said.
    From(u64, Option<u64>),
    /// So many bytes at the end.
    Last(u64),
}

impl Asked {
    fn within(self, size: u64) -> Ranged {
        let range = match self {
            Self::From(first, last) => {
                first..last.map_or(size, |last| last.saturating_add(1).min(size))
            }
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        match range.is_empty() {
            true => Ranged::Unsatisfiable,
            false => Ranged::One(range),
        }
    }
}

fn one_range(header: &str) -> Option<Asked> {
    let (unit, ranges) = header.split_once('=')?;
    if !unit.trim_ascii().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut ranges = ranges
        .split(',')
        .map(str::trim_ascii)
        .filter(|r| !r.is_empty());
    let (range, None) = (ranges.next()?, ranges.next()) else {
        return None;
    };
    let (first, last) = range.split_once('-')?;
    match (first.trim_ascii_end(), last.trim_ascii_start()) {
        ("", last) => Some(Asked::Last(number(last)?)),
        (first, "") => Some(Asked::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Asked::From(first, Some(last)))
        }
    }
}

/// Digits; more than fit are as good as the largest number, for no file is larger.
fn number(digits: &str) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// The opaque parts of the tags in a list, weak ones too.
fn entity_tags(list: &str) -> impl Iterator<Item = &str> {
    // Between one quote and the next there is, by turns, what separates tags and what a tag says.
    list.split('"').skip(1).step_by(2)
}

fn opaque(etag: &str) -> &str {
    let etag = etag.strip_prefix("W/").unwrap_or(etag);
    etag.trim_matches('"')
}

/// What of a time an HTTP date can say.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_as_browsers_send_them() {
        use Ranged::{One, Unsatisfiable, Whole};
        let cases = [
            ("bytes=0-", One(0..10)),
            ("bytes=0-0", One(0..1)),
            ("bytes=9-", One(9..10)),
            ("bytes=2-5", One(2..6)),
            ("bytes=2-99", One(2..10)),
            ("bytes=-3", One(7..10)),
            ("bytes=-99", One(0..10)),
            ("Bytes = 2 - 5 ", One(2..6)),
            ("bytes=2-5,", One(2..6)),
            ("bytes=10-", Unsatisfiable),
            ("bytes=10-12", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=99999999999999999999-", Unsatisfiable),
            ("bytes=0-99999999999999999999", One(0..10)),
            ("bytes=0-18446744073709551615", One(0..10)),
            ("bytes=-18446744073709551616", One(0..10)),
            ("bytes=0-1,4-5", Whole),
            ("bytes=5-2", Whole),
            ("bytes=-", Whole),
            ("bytes=", Whole),
            ("bytes", Whole),
            ("", Whole),
            ("lines=0-1", Whole),
            ("bytes=a-b", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=1--2", Whole),
            ("bytes=0x1-2", Whole),
            ("\u{200A}bytes=2-5", Whole),
            ("bytes=2-\u{A0}5", Whole),
        ];
        for (header, expected) in cases {
            assert_eq!(parse(header, 10), expected, "{header:?}");
        }
    }

    #[test]
    fn an_empty_file_has_no_range() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            assert_eq!(parse(header, 0), Ranged::Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn if_range_takes_the_strong_tag_or_the_very_date() {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(1_785_585_600_123);
        let holds = |header: &str| if_range_holds(header, Some("\"a-1\""), modified);
        assert!(holds("\"a-1\""));
        assert!(!holds("\"a-2\""));
        assert!(!holds("W/\"a-1\""));
        assert!(holds("Sat, 01 Aug 2026 12:00:00 GMT"));
        assert!(!holds("Sat, 01 Aug 2026 12:00:01 GMT"));
        assert!(!holds("yesterday"));
        assert!(!if_range_holds("W/\"a\"", Some("W/\"a\""), modified));
        assert!(!if_range_holds("\"a\"", None, modified));
    }

    #[test]
    fn if_none_match_takes_lists_and_weak_tags() {
        let names = |header: &str| if_none_match_names(header, Some("\"a-1\""));
        assert!(names("\"a-1\""));
        assert!(names("W/\"a-1\""));
        assert!(names("\"x\", W/\"y,z\",\"a-1\""));
        assert!(names(" * "));
        assert!(!names("\"x\", \"y\""));
        assert!(!names("a-1"));
        assert!(!names(""));
        assert!(!if_none_match_names("\"a\"", None));
    }

    #[test]
    fn if_modified_since_counts_in_seconds() {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(1_785_585_600_999);
        assert!(is_unmodified_since(
            "Sat, 01 Aug 2026 12:00:00 GMT",
            modified
        ));
        assert!(is_unmodified_since(
            "Sat, 01 Aug 2026 12:00:01 GMT",
            modified
        ));
        assert!(!is_unmodified_since(
            "Sat, 01 Aug 2026 11:59:59 GMT",
            modified
        ));
        assert!(!is_unmodified_since("soon", modified));
    }

    proptest! {
        #[test]
        fn a_range_lies_within_the_file(header in "(bytes=)?[0-9]{0,21}-?[0-9, -]{0,21}", size: u64) {
            if let Ranged::One(range) = parse(&header, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn any_header_is_answered(header in ".{0,60}", size: u64) {
            let _total = parse(&header, size);
            let _total = if_range_holds(&header, Some(&header), SystemTime::UNIX_EPOCH);
            let _total = if_none_match_names(&header, Some(&header));
            let _total = is_unmodified_since(&header, SystemTime::UNIX_EPOCH);
        }

        #[test]
        fn first_and_last_byte_are_both_given(size in 1u64.., a: u64, b: u64) {
            let (first, last) = (a.min(b) % size, a.max(b));
            let expected = first..last.saturating_add(1).min(size);
            prop_assume!(first <= last);
            prop_assert_eq!(parse(&format!("bytes={first}-{last}"), size), Ranged::One(expected));
        }
    }
}
