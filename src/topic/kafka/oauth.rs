//! Tokens for SASL OAUTHBEARER: from a file that others renew, or from a token endpoint.
//!
//! The client library asks for one when a client starts and after three fifths of its life. Brokers judge tokens; here
//! one is only looked into for its end. No sentence and no debug output holds a token or a secret.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use rdkafka::client::OAuthToken;
use serde::Deserialize;

/// Where tokens come from.
#[derive(Clone)]
pub enum TokenSource {
    /// A file with one JWT, read anew for each refresh.
    File(PathBuf),
    Server(TokenServer),
}

/// A token endpoint that answers the client credentials grant (RFC 6749, 4.4).
#[derive(Clone)]
pub struct TokenServer {
    pub url: String,
    pub client_id: String,
    pub client_secret: String,
    pub scope: Option<String>,
}

/// Without its secret.
impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenSource::File(path) => f.debug_tuple("File").field(path).finish(),
            TokenSource::Server(server) => f
                .debug_struct("Server")
                .field("client_id", &server.client_id)
                .finish_non_exhaustive(),
        }
    }
}

/// The source, and what it gave last: all clients of a topic have one.
pub(super) struct Tokens {
    source: TokenSource,
    last: Mutex<Option<Given>>,
}

struct Given {
    at: Instant,
    token: Result<Token, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    /// Who it speaks for, where it says so; for the client library's log only.
    principal: String,
    /// Since 1970.
    ends_ms: u64,
}

impl Tokens {
    pub fn new(source: TokenSource) -> Tokens {
        Tokens {
            source,
            last: Mutex::default(),
        }
    }

    /// A token that has not ended, or the sentence that says why there is none. Blocks, for [`ANSWER_WAIT`] at most.
    pub fn token(&self) -> Result<OAuthToken, String> {
        let now_ms = now_ms();
        let token = match &self.source {
            TokenSource::File(path) => of_file(path, now_ms),
            TokenSource::Server(server) => self.shared(server, now_ms),
        };
        let Token {
            text,
            principal,
            ends_ms,
        } = token?;
        // It renews after four fifths, and may show the old token once more a moment before its end. The broker then
        // drops the connection: so it hears of three quarters.
        let left_ms = ends_ms.saturating_sub(now_ms);
        let told_ms = now_ms + (left_ms - left_ms / 4);
        Ok(OAuthToken {
            token: text,
            principal_name: principal,
            lifetime_ms: told_ms.min(ENDS_MS_MAX) as i64,
        })
    }

    /// Clients that ask one after the other get the same answer: a token in the first quarter of its life, or a
    /// failure of just now.
    fn shared(&self, server: &TokenServer, now_ms: u64) -> Result<Token, String> {
        let mut last = self.last.lock();
        if let Some(Given { at, token }) = &*last {
            let age = at.elapsed();
            let holds = match token {
                Ok(token) => age * 3 < Duration::from_millis(token.ends_ms.saturating_sub(now_ms)),
                Err(_) => age < FAILURE_HOLDS,
            };
            if holds {
                return token.clone();
            }
        }
        let token = ask(server).and_then(|answer| of_answer(&answer, now_ms));
        *last = Some(Given {
            at: Instant::now(),
            token: token.clone(),
        });
        token
    }
}

// === File ===

fn of_file(path: &Path, now_ms: u64) -> Result<Token, String> {
    let shown = path.display();
    let fault = |what: &dyn fmt::Display| format!("the token file {shown} {what}");
    let unreadable = |error| fault(&format_args!("cannot be read: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let mut bounded = file.take(TOKEN_BYTES_MAX as u64 + 1);
    bounded.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > TOKEN_BYTES_MAX {
        let what = format_args!("is larger than {TOKEN_BYTES_MAX} bytes");
        return Err(fault(&what));
    }
    let text = str::from_utf8(&bytes).unwrap_or_default().trim();
    let claims = Claims::of(text).ok_or_else(|| fault(&"does not hold a JWT"))?;
    let ends_ms = claims
        .ends_ms()
        .ok_or_else(|| fault(&"holds a JWT without the time of its end, exp"))?;
    if ends_ms <= now_ms {
        let seconds = (now_ms - ends_ms) / 1_000;
        let what = format_args!("holds a token that expired {seconds} s ago");
        return Err(fault(&what));
    }
    Ok(Token {
        text: text.to_owned(),
        principal: claims.sub.unwrap_or_default(),
        ends_ms,
    })
}

/// What we look at in a JWT.
#[derive(Deserialize)]
struct Claims {
    /// Seconds since 1970.
    exp: Option<f64>,
    sub: Option<String>,
}

impl Claims {
    /// `None` when this is no JWT. The signature is for the brokers.
    fn of(text: &str) -> Option<Claims> {
        let mut parts = text.split('.');
        let (head, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
        let is_base64 = |part| URL_SAFE_NO_PAD.decode(part).is_ok();
        if parts.next().is_some() || head.is_empty() || !is_base64(head) || !is_base64(signature) {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    fn ends_ms(&self) -> Option<u64> {
        self.exp.map(|seconds| (seconds * 1e3) as u64)
    }
}

// === Server ===

/// What a token endpoint says (RFC 6749, 5.1 and 5.2).
#[derive(Default, Deserialize)]
struct Answer {
    access_token: Option<String>,
    /// Seconds.
    expires_in: Option<u64>,
    error: Option<String>,
}

fn of_answer(answer: &Answer, now_ms: u64) -> Result<Token, String> {
    let text = answer.access_token.as_deref().unwrap_or_default();
    if text.is_empty() {
        return Err("the answer of KAFKA_OAUTH_TOKEN_URL holds no access_token".to_owned());
    }
    let claims = Claims::of(text);
    let told = answer
        .expires_in
        .map(|seconds| now_ms.saturating_add(seconds.saturating_mul(1_000)));
    let ends_ms = told.or_else(|| claims.as_ref()?.ends_ms());
    let Some(ends_ms) = ends_ms else {
        return Err("the answer of KAFKA_OAUTH_TOKEN_URL does not say when its token ends".into());
    };
    if ends_ms <= now_ms {
        return Err("KAFKA_OAUTH_TOKEN_URL gave a token that has expired".to_owned());
    }
    Ok(Token {
        text: text.to_owned(),
        principal: claims.and_then(|claims| claims.sub).unwrap_or_default(),
        ends_ms,
    })
}

/// On a thread of its own: who needs the token may be on one that already runs tasks.
fn ask(server: &TokenServer) -> Result<Answer, String> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            tokio::time::timeout(ANSWER_WAIT, exchange(server))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {ANSWER_WAIT:?}")))
        })
    };
    let asked = thread::scope(|scope| {
        let asking = thread::Builder::new().name("kafka-token".to_owned());
        let asking = asking.spawn_scoped(scope, run);
        let asking = asking.map_err(|error| error.to_string())?;
        asking
            .join()
            .unwrap_or_else(|_| Err("it could not be asked".to_owned()))
    });
    asked.map_err(|cause| format!("KAFKA_OAUTH_TOKEN_URL gave no token: {cause}"))
}

async fn exchange(server: &TokenServer) -> Result<Answer, String> {
    let told = |error: reqwest::Error| sources(&error.without_url());
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(told)?;
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    if let Some(scope) = &server.scope {
        form.append_pair("scope", scope);
    }
    // RFC 6749, 2.3.1: both are encoded before they are joined.
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let (id, secret) = (encoded(&server.client_id), encoded(&server.client_secret));
    let asked = client
        .post(&server.url)
        .basic_auth(id, Some(secret))
        .header("accept", "application/json")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form.finish());
    let mut response = asked.send().await.map_err(told)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(told)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("an answer of more than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    let answer: Result<Answer, _> = serde_json::from_slice(&body);
    if status.is_success() {
        return answer.map_err(|_| "an answer that is not as RFC 6749 has it".to_owned());
    }
    let code = answer.unwrap_or_default().error.unwrap_or_default();
    Err(format!("{status}{}", code_shown(&code)))
}

/// An error code as it may stand in a log: codes are short words, whatever else is there is not shown.
fn code_shown(code: &str) -> String {
    let is_code = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    match !code.is_empty() && code.len() <= CODE_BYTES_MAX && code.bytes().all(is_code) {
        true => format!(", {code}"),
        false => String::new(),
    }
}

/// An error with what it came from: the outermost alone says little.
fn sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// Size of a token's file at most.
const TOKEN_BYTES_MAX: usize = 64 << 10;
/// Size of a token endpoint's answer at most.
const ANSWER_BYTES_MAX: usize = 128 << 10;
const CODE_BYTES_MAX: usize = 40;
/// For one answer of the token endpoint. The client that needs it does nothing else meanwhile.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Before the token endpoint is asked again. Each client asks every 10 s after a failure.
const FAILURE_HOLDS: Duration = Duration::from_secs(2);
/// The year 9999: the client library counts in microseconds, and must not overflow.
const ENDS_MS_MAX: u64 = 253_402_300_799_000;

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    const NOW_MS: u64 = 1_000_000;

    fn jwt(claims: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(claims))
    }

    /// What a file with this content gives.
    fn read(content: impl AsRef<[u8]>) -> Result<Token, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, content).unwrap();
        of_file(&path, NOW_MS)
    }

    #[test]
    fn a_tokens_end_and_subject_are_read_and_spaces_around_it_are_not_its_part() {
        let text = jwt(r#"{"exp":1000.5,"sub":"chat","aud":["kafka"]}"#);
        let token = read(format!("{text}\n")).unwrap();
        let expected = Token {
            text,
            principal: "chat".to_owned(),
            ends_ms: 1_000_500,
        };
        assert_eq!(token, expected);
        let nobody = read(jwt(r#"{"exp":1001}"#)).unwrap();
        assert_eq!(nobody.principal, "");
    }

    #[test]
    fn a_file_without_a_token_for_now_is_one_sentence() {
        let faulty = [
            (jwt(r#"{"exp":1000}"#), "expired 0 s ago"),
            (jwt(r#"{"exp":-1}"#), "expired 1000 s ago"),
            (jwt(r#"{"sub":"chat"}"#), "without the time"),
            (jwt(r#"{"exp":"1001"}"#), "not hold a JWT"),
            (jwt("[]"), "not hold a JWT"),
            (String::new(), "not hold a JWT"),
            ("hunter2".to_owned(), "not hold a JWT"),
            (jwt(r#"{"exp":1001}"#) + ".", "not hold a JWT"),
            (jwt(r#"{"exp":1001}"#) + "?", "not hold a JWT"),
        ];
        for (content, words) in faulty {
            let told = read(&content).unwrap_err();
            assert!(told.contains(words), "{content}: {told}");
            assert!(!told.contains("hunter2") && !told.contains('\n'), "{told}");
        }
        assert!(read(b"\xff\xfe").unwrap_err().contains("not hold a JWT"));
        let missing = of_file(Path::new("/nonexistent/token"), NOW_MS).unwrap_err();
        assert!(missing.contains("/nonexistent/token cannot be read"));
    }

    #[test]
    fn a_token_file_may_be_as_large_as_the_limit() {
        let token = jwt(r#"{"exp":1001}"#);
        let padded = |bytes: usize| token.clone() + &" ".repeat(bytes - token.len());
        assert!(read(padded(TOKEN_BYTES_MAX)).is_ok());
        let told = read(padded(TOKEN_BYTES_MAX + 1)).unwrap_err();
        assert!(told.contains("larger than 65536 bytes"), "{told}");
    }

    #[test]
    fn an_answer_tells_the_end_or_its_token_does() {
        let answer = |token: &str, expires_in| Answer {
            access_token: Some(token.to_owned()),
            expires_in,
            error: None,
        };
        let ends = |answer: &Answer| of_answer(answer, NOW_MS).map(|token| token.ends_ms);
        let dated = jwt(r#"{"exp":1002}"#);
        assert_eq!(ends(&answer("opaque", Some(1))), Ok(1_001_000));
        assert_eq!(ends(&answer(&dated, Some(1))), Ok(1_001_000));
        assert_eq!(ends(&answer(&dated, None)), Ok(1_002_000));
        assert_eq!(ends(&answer("opaque", Some(u64::MAX))), Ok(u64::MAX));
        for useless in [
            answer("opaque", None),
            answer("opaque", Some(0)),
            answer("", Some(1)),
            Answer::default(),
        ] {
            assert!(ends(&useless).is_err());
        }
    }

    #[test]
    fn an_answer_may_be_as_large_as_the_limit() {
        let whole = r#"{"access_token":"opaque","expires_in":60}"#;
        for (bytes, taken) in [(ANSWER_BYTES_MAX, true), (ANSWER_BYTES_MAX + 1, false)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let server = TokenServer {
                url: format!("http://{}/", listener.local_addr().unwrap()),
                client_id: "chat".to_owned(),
                client_secret: "hunter2".to_owned(),
                scope: None,
            };
            let answering = thread::spawn(move || {
                let (mut connection, _) = listener.accept().unwrap();
                let mut request = [0; 4_096];
                assert!(connection.read(&mut request).unwrap() > 0);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
                let padding = " ".repeat(bytes - whole.len());
                // The client goes when it has had enough.
                let _ = connection.write_all((head + whole + &padding).as_bytes());
            });
            let told = ask(&server).map(|answer| answer.expires_in);
            answering.join().unwrap();
            match taken {
                true => assert_eq!(told, Ok(Some(60))),
                false => assert!(told.unwrap_err().contains("more than 131072 bytes")),
            }
        }
    }

    #[test]
    fn of_an_error_only_what_looks_like_a_code_is_shown() {
        assert_eq!(code_shown("invalid_client"), ", invalid_client");
        for other in [
            "",
            "the secret Hunter2 is wrong",
            &"a".repeat(CODE_BYTES_MAX + 1),
        ] {
            assert_eq!(code_shown(other), "");
        }
    }

    #[test]
    fn neither_secret_nor_url_of_a_source_is_shown() {
        let source = TokenSource::Server(TokenServer {
            url: "https://id.example/?key=hunter2".to_owned(),
            client_id: "chat".to_owned(),
            client_secret: "hunter2".to_owned(),
            scope: None,
        });
        assert!(!format!("{source:?}").contains("hunter2"));
    }
}
