//! A request's query: names and values, decoded; the first value of a name counts.

use std::borrow::Cow;

/// The value of `name` in a query string, `+` and percent escapes decoded.
pub fn value<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value)
}

/// As [`value`], but an empty one counts as none.
pub fn non_empty<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    value(query, name).filter(|value| !value.is_empty())
}

/// All names and values, decoded, in order.
pub fn pairs(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
}

/// The same query without these names.
pub fn without(query: Option<&str>, names: &[&str]) -> String {
    let rest = pairs(query).filter(|(name, _)| !names.contains(&&**name));
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(rest).finish()
}

/// A path segment with its escapes decoded once; `None` when that is not UTF-8.
pub fn segment(raw: &str) -> Option<Cow<'_, str>> {
    percent_encoding::percent_decode_str(raw).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_counts_and_is_decoded() {
        let query = Some("a=1&b=x+y%2B&a=2&c");
        assert_eq!(value(query, "a").as_deref(), Some("1"));
        assert_eq!(value(query, "b").as_deref(), Some("x y+"));
        assert_eq!(value(query, "c").as_deref(), Some(""));
        assert_eq!(non_empty(query, "c"), None);
        assert_eq!(value(None, "a"), None);
    }

    #[test]
    fn names_can_be_left_out() {
        let query = Some("EIO=4&a=1&t=x&b=+&a=2");
        assert_eq!(without(query, &["EIO", "t"]), "a=1&b=+&a=2");
        assert_eq!(without(None, &["EIO"]), "");
    }

    #[test]
    fn segments_are_decoded_once() {
        assert_eq!(segment("a%3Ab").as_deref(), Some("a:b"));
        assert_eq!(segment("a%253Ab").as_deref(), Some("a%3Ab"));
        assert_eq!(segment("%ff"), None);
    }
}
