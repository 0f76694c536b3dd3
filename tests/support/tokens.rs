//! Tokens as Kafka's own test validator takes them (unsecured JWS), and an endpoint that gives them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// For `chat`, from now on; `life` in seconds may be negative.
pub fn unsecured(life: i64) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    format!("{head}.{}.", claims(life))
}

/// With a signature that nobody made.
pub fn forged(life: i64) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#);
    format!("{head}.{}.c2lnbmF0dXJl", claims(life))
}

fn claims(life: i64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    let now = now.as_secs() as i64;
    // Issued before the broker's clock can doubt it.
    let (issued, end) = (now - 60, now + life);
    URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"chat","iat":{issued},"exp":{end}}}"#))
}

/// Gives tokens to the client `chat` with the secret `right & good`, for the scope `kafka`. Ends with its value.
pub struct TokenEndpoint {
    pub url: String,
    given: watch::Receiver<usize>,
    _task: JoinSet<()>,
}

impl TokenEndpoint {
    /// Its tokens live for so many seconds.
    pub async fn start(life: i64) -> TokenEndpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let (count, given) = watch::channel(0);
        let serve = async move {
            while let Ok((connection, _)) = listener.accept().await {
                if answer(connection, life).await {
                    count.send_modify(|given| *given += 1);
                }
            }
        };
        let mut task = JoinSet::new();
        task.spawn(serve);
        TokenEndpoint {
            url: format!("http://{address}/token"),
            given,
            _task: task,
        }
    }

    /// Waits until so many more tokens were given.
    pub async fn more(&self, tokens: usize) {
        let mut given = self.given.clone();
        let goal = *given.borrow() + tokens;
        let waited = tokio::time::timeout(DEADLINE, given.wait_for(|given| *given >= goal));
        waited
            .await
            .expect("tokens are asked for in time")
            .expect("serves");
    }
}

/// Whether a token was given.
async fn answer(mut connection: TcpStream, life: i64) -> bool {
    let mut reader = BufReader::new(&mut connection);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.expect("a line");
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length").expect("a length");
    let mut form = vec![0; length.parse().expect("a number")];
    reader.read_exact(&mut form).await.expect("a form");
    let known = format!("Basic {}", STANDARD.encode("chat:right+%26+good"));
    let known = headers.get("authorization") == Some(&known);
    assert_eq!(form, b"grant_type=client_credentials&scope=kafka");
    let (status, json) = match known {
        true => {
            let token = unsecured(life);
            let json = format!(
                r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{life}}}"#
            );
            ("200 OK", json)
        }
        false => (
            "401 Unauthorized",
            r#"{"error":"invalid_client"}"#.to_owned(),
        ),
    };
    let length = json.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{json}"
    );
    connection
        .write_all(answer.as_bytes())
        .await
        .expect("answers");
    known
}

const DEADLINE: Duration = Duration::from_secs(60);
