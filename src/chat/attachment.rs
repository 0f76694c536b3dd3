//! What an attachment is called and what it is: names under which files are kept, media types, names shown to people.
//!
//! Clients choose none of it: a file's name is made here, and so is what a browser is told about it. Nothing that a
//! browser could run is ever served inline.

// === BlobName ===

/// The name of a stored file: one path segment, safe on every store and in a URL once percent-encoded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobName(Box<str>);

impl BlobName {
    /// A new name: `random` (from the operating system) in hex and an extension of our list for `media_type`.
    pub fn new(random: [u8; 16], media_type: &str) -> Self {
        let random = u128::from_be_bytes(random);
        Self(format!("{random:032x}.{}", extension(media_type)).into())
    }

    /// Takes a name of a request: ours, or that of a file that an earlier service left. `None` when it could reach
    /// anything but a file in the folder itself, or one that is still being written.
    pub fn parse(name: &str) -> Option<Self> {
        let safe = (1..=NAME_BYTES_MAX).contains(&name.len())
            && !name.starts_with('.')
            && !name.contains(|c: char| matches!(c, '/' | '\\' | '#') || c.is_control());
        safe.then(|| Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is of the shape that [`BlobName::new`] makes.
    pub fn is_ours(&self) -> bool {
        self.0.split_once('.').is_some_and(|(random, extension)| {
            random.len() == 32
                && random
                    .bytes()
                    .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                && LIST.iter().any(|kind| kind.extension == extension)
        })
    }

    /// What a browser is told about the file.
    pub fn media(&self) -> Media {
        let extension = self
            .0
            .rsplit_once('.')
            .map_or("", |(_, extension)| extension);
        let kind = by_extension(extension).unwrap_or(&UNKNOWN);
        Media {
            content_type: kind.content_type,
            inline: kind.inline,
        }
    }
}

/// How a file is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media {
    pub content_type: &'static str,
    /// Shown in the page; otherwise only ever saved.
    pub inline: bool,
}

impl Media {
    /// The same as a header's value.
    pub fn disposition(&self) -> &'static str {
        if self.inline { "inline" } else { "attachment" }
    }
}

// === what a file is ===

/// The media type of an uploaded file: what its first bytes say, else what the client says, else what the name says.
/// Lower-case `type/subtype` without parameters, at most 127 bytes.
pub fn media_type(first_bytes: &[u8], claimed: Option<&str>, file_name: &str) -> String {
    if let Some(sniffed) = infer::get(first_bytes) {
        return sniffed.mime_type().to_owned();
    }
    let claimed = claimed.and_then(essence);
    claimed.unwrap_or_else(|| {
        let extension = file_name.rsplit_once('.').map_or("", |(_, ext)| ext);
        let kind = by_extension(extension).unwrap_or(&UNKNOWN);
        essence(kind.content_type).unwrap_or_else(|| UNKNOWN.content_type.to_owned())
    })
}

/// A client's name for its file, fit to be shown: the last path segment without control and text direction characters,
/// at most [`NAME_BYTES_MAX`] bytes, `file` when nothing is left.
pub fn file_name(original: &str) -> String {
    let last = original.rsplit(['/', '\\']).next().unwrap_or_default();
    let shown: String = last.chars().filter(|c| !is_hidden(*c)).collect();
    let shown = shown.trim();
    let bounded = shown[..shown.floor_char_boundary(NAME_BYTES_MAX)].trim_end();
    match bounded {
        "" | "." | ".." => "file".to_owned(),
        name => name.to_owned(),
    }
}

/// Characters that change what a name seems to be without being seen.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `type/subtype` of a content type, when it is one.
fn essence(content_type: &str) -> Option<String> {
    let essence = content_type.split(';').next()?.trim();
    let (kind, subtype) = essence.split_once('/')?;
    (essence.len() <= MEDIA_TYPE_BYTES_MAX && is_token(kind) && is_token(subtype))
        .then(|| essence.to_ascii_lowercase())
}

fn is_token(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
}

fn extension(media_type: &str) -> &'static str {
    let kind = essence(media_type).and_then(|essence| {
        LIST.iter().find(|kind| {
            kind.content_type.split(';').next() == Some(&essence)
                || kind.also.contains(&essence.as_str())
        })
    });
    kind.unwrap_or(&UNKNOWN).extension
}

fn by_extension(extension: &str) -> Option<&'static Kind> {
    LIST.iter().find(|kind| {
        kind.extension.eq_ignore_ascii_case(extension)
            || kind
                .also
                .iter()
                .any(|also| also.eq_ignore_ascii_case(extension))
    })
}

// === the list ===

struct Kind {
    extension: &'static str,
    content_type: &'static str,
    inline: bool,
    /// Other media types and extensions of the same thing.
    also: &'static [&'static str],
}

/// Shown in the page: raster images, audio, video. Never what can carry scripts, such as SVG.
const fn shown(
    extension: &'static str,
    content_type: &'static str,
    also: &'static [&'static str],
) -> Kind {
    Kind {
        extension,
        content_type,
        inline: true,
        also,
    }
}

const fn saved(
    extension: &'static str,
    content_type: &'static str,
    also: &'static [&'static str],
) -> Kind {
    Kind {
        extension,
        content_type,
        inline: false,
        also,
    }
}

const UNKNOWN: Kind = saved("bin", "application/octet-stream", &[]);

const LIST: &[Kind] = &[
    shown("png", "image/png", &[]),
    shown("jpg", "image/jpeg", &["image/jpg", "image/pjpeg", "jpeg"]),
    shown("gif", "image/gif", &[]),
    shown("webp", "image/webp", &[]),
    shown("avif", "image/avif", &[]),
    shown("mp4", "video/mp4", &["video/x-m4v", "m4v"]),
    shown("webm", "video/webm", &[]),
    shown("mov", "video/quicktime", &[]),
    shown("ogv", "video/ogg", &[]),
    shown("mp3", "audio/mpeg", &["audio/mp3"]),
    shown("m4a", "audio/mp4", &["audio/m4a", "audio/x-m4a"]),
    shown("aac", "audio/aac", &[]),
    shown("ogg", "audio/ogg", &["audio/opus", "opus", "oga"]),
    shown("weba", "audio/webm", &[]),
    shown("wav", "audio/wav", &["audio/x-wav", "audio/wave"]),
    shown("flac", "audio/flac", &["audio/x-flac"]),
    saved("heic", "image/heic", &["image/heif", "heif"]),
    saved("bmp", "image/bmp", &[]),
    saved("tiff", "image/tiff", &["tif"]),
    saved("pdf", "application/pdf", &[]),
    saved("txt", "text/plain; charset=utf-8", &[]),
    saved("csv", "text/csv; charset=utf-8", &[]),
    saved("json", "application/json", &[]),
    saved("rtf", "application/rtf", &["text/rtf"]),
    saved("zip", "application/zip", &["application/x-zip-compressed"]),
    saved("gz", "application/gzip", &["application/x-gzip"]),
    saved("7z", "application/x-7z-compressed", &[]),
    saved(
        "rar",
        "application/vnd.rar",
        &["application/x-rar-compressed"],
    ),
    saved("tar", "application/x-tar", &[]),
    saved("doc", "application/msword", &[]),
    saved("xls", "application/vnd.ms-excel", &[]),
    saved("ppt", "application/vnd.ms-powerpoint", &[]),
    saved(
        "docx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        &[],
    ),
    saved(
        "xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        &[],
    ),
    saved(
        "pptx",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        &[],
    ),
    saved("odt", "application/vnd.oasis.opendocument.text", &[]),
    saved("ods", "application/vnd.oasis.opendocument.spreadsheet", &[]),
    saved(
        "odp",
        "application/vnd.oasis.opendocument.presentation",
        &[],
    ),
    UNKNOWN,
];

/// Longest name of a file, ours or shown, in bytes: what file systems take.
pub const NAME_BYTES_MAX: usize = 255;
const MEDIA_TYPE_BYTES_MAX: usize = 127;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_name_is_random_hex_and_a_listed_extension() {
        let name = BlobName::new([0x0f; 16], "image/PNG; x=y");
        assert_eq!(name.as_str(), "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f.png");
        let small = BlobName::new([0; 16], "image/svg+xml");
        assert_eq!(small.as_str(), "00000000000000000000000000000000.bin");
        assert!(name.is_ours() && small.is_ours());
    }

    #[test]
    fn names_that_could_reach_elsewhere_are_none() {
        let long = "x".repeat(256);
        for name in [
            "", ".", "..", ".hidden", "a/b", "/a", "a\\b", "..\\a", "a\0", "a\n", "a\u{85}", "a#1",
            &long,
        ] {
            assert_eq!(BlobName::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn names_of_an_earlier_service_are_taken_but_not_ours() {
        for name in [
            "1690000000000-Grüße (1) %20.PNG",
            "attachment-17",
            "a..b",
            "~",
            &"x".repeat(255),
        ] {
            let parsed = BlobName::parse(name).unwrap();
            assert_eq!(parsed.as_str(), name);
            assert!(!parsed.is_ours());
        }
    }

    #[test]
    fn nothing_that_runs_is_inline() {
        let media = |name: &str| BlobName::parse(name).unwrap().media();
        for name in [
            "a.svg",
            "a.html",
            "a.htm",
            "a.js",
            "a.xhtml",
            "a.xml",
            "a.swf",
            "a",
            "png",
            "a.png.exe",
        ] {
            let octets = Media {
                content_type: "application/octet-stream",
                inline: false,
            };
            assert_eq!(media(name), octets, "{name}");
        }
        assert!(!media("a.pdf").inline);
        assert!(media("a.JPEG").inline);
        assert_eq!(media("a.jpeg").content_type, "image/jpeg");
        let runs = |kind: &Kind| {
            ["svg", "html", "xml", "script", "pdf"]
                .iter()
                .any(|part| kind.content_type.contains(part))
        };
        assert!(!LIST.iter().any(|kind| kind.inline && runs(kind)));
    }

    #[test]
    fn first_bytes_win_over_the_claim_and_the_claim_over_the_name() {
        let png = b"\x89PNG\r\n\x1a\n....";
        assert_eq!(media_type(png, Some("text/html"), "a.txt"), "image/png");
        assert_eq!(
            media_type(b"hello", Some("Text/X-Log; a=b"), "a.png"),
            "text/x-log"
        );
        assert_eq!(media_type(b"hello", None, "a.TXT"), "text/plain");
        assert_eq!(media_type(b"hello", None, "a"), "application/octet-stream");
        let long = format!("text/{}", "x".repeat(123));
        for claim in [
            "",
            "text",
            "/",
            "text/",
            "/x",
            "te xt/x",
            "text/x\r\ny",
            "a/b/c",
            &long,
        ] {
            assert_eq!(
                media_type(b"", Some(claim), ""),
                "application/octet-stream",
                "{claim:?}"
            );
        }
    }

    #[test]
    fn file_names_keep_the_last_segment() {
        let cases = [
            ("C:\\photos\\me.png", "me.png"),
            ("../../etc/passwd", "passwd"),
            ("a/", "file"),
            ("..", "file"),
            ("", "file"),
            (" \t\0 ", "file"),
            ("in\r\nvoice\u{202e}gpj.exe", "invoicegpj.exe"),
            (" Grüße 😀.txt ", "Grüße 😀.txt"),
        ];
        for (original, expected) in cases {
            assert_eq!(file_name(original), expected, "{original:?}");
        }
    }

    proptest! {
        #[test]
        fn file_names_are_bounded_and_never_empty(original in ".{0,400}") {
            let name = file_name(&original);
            prop_assert!((1..=NAME_BYTES_MAX).contains(&name.len()));
            prop_assert!(!name.contains(|c: char| c.is_control() || c == '/' || c == '\\'));
            prop_assert_eq!(file_name(&name), name);
        }

        #[test]
        fn every_new_name_can_be_asked_for(random: [u8; 16], media_type in "[a-z]{1,5}/[a-z]{1,5}") {
            let name = BlobName::new(random, &media_type);
            prop_assert_eq!(BlobName::parse(name.as_str()), Some(name.clone()));
            prop_assert!(name.is_ours());
        }

        #[test]
        fn media_types_are_types(bytes: Vec<u8>, claimed in proptest::option::of(".{0,20}/.{0,20}"), name in ".{0,9}") {
            let media_type = media_type(&bytes, claimed.as_deref(), &name);
            prop_assert_eq!(essence(&media_type), Some(media_type.clone()));
        }
    }
}
