//! A bucket of an S3 server: what the AWS_ variables say about it, and how patient we are with it.
//!
//! Retries end before the time that an answer may take, so what is reported is the server's word where there was one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use url::Url;

/// Where files go on an S3 server. Shown without its keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Bucket {
    name: String,
    prefix: Path,
    /// Variables of the environment: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and so on.
    variables: Vec<(String, String)>,
}

impl Bucket {
    /// `s3://bucket/prefix` with the AWS_ variables of this process's environment.
    pub fn parse(url: &Url) -> Option<Self> {
        let plain = url.username().is_empty() && url.password().is_none() && url.port().is_none();
        let name = url.host_str().filter(|_| plain && url.query().is_none())?;
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty());
        Some(Self {
            name: name.to_owned(),
            prefix: Path::from_url_path(url.path()).ok()?,
            variables: variables.collect(),
        })
    }

    /// The same bucket with one variable set otherwise.
    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.variables.retain(|(name, _)| name != variable);
        self.variables.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Speaks to nobody yet. The error is a sentence.
    pub(super) fn open(&self) -> Result<(Arc<dyn ObjectStore>, Links), String> {
        let mut builder = AmazonS3Builder::new();
        for (name, value) in &self.variables {
            // Others are for other programs.
            if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                builder = builder.with_config(key, value);
            }
        }
        let insecure = |name: &str| self.value(name).is_some_and(|url| url.starts_with("http:"));
        let allowed = self
            .value("AWS_ALLOW_HTTP")
            .is_some_and(|value| value == "true");
        if insecure("AWS_ENDPOINT_URL") && !allowed {
            return Err(
                "AWS_ENDPOINT_URL is not encrypted: use https, or set AWS_ALLOW_HTTP=true".into(),
            );
        }
        // A timeout for a whole request would end long downloads.
        let options = ClientOptions::new()
            .with_allow_http(allowed)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout_disabled()
            .with_read_timeout(READ_TIMEOUT);
        let store = builder
            .with_bucket_name(&self.name)
            .with_client_options(options)
            .with_retry(retries())
            // We delete one at a time, and not every server takes many.
            .with_disable_bulk_delete(true)
            .build()
            .map_err(|error| format!("cannot use {self}: {error}"))?;
        let links = Links {
            store: store.clone(),
            prefix: self.prefix.clone(),
        };
        let store = PrefixStore::new(store, self.prefix.clone());
        Ok((Arc::new(store), links))
    }

    /// Writes an object, so that wrong keys or a missing bucket are known before anybody uploads.
    pub(super) async fn prove(&self, store: &dyn ObjectStore) -> object_store::Result<()> {
        store
            .put(&Path::from(PROOF), "chat-svc can write here\n".into())
            .await?;
        Ok(())
    }

    fn value(&self, variable: &str) -> Option<&str> {
        let mut variables = self.variables.iter();
        variables.find_map(|(name, value)| (name == variable).then_some(value.as_str()))
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bucket {}", self.name)?;
        match self.value("AWS_ENDPOINT_URL") {
            Some(endpoint) => write!(f, " at {endpoint} (AWS_ENDPOINT_URL)"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === Links ===

/// Makes links by which clients get files from the server themselves.
#[derive(Clone, Debug)]
pub(super) struct Links {
    store: AmazonS3,
    prefix: Path,
}

impl Links {
    /// A link to get `name`, signed, for as long as `valid`. The server answers it with this type and disposition.
    pub async fn sign(
        &self,
        name: &Path,
        content_type: &str,
        disposition: &str,
        valid: Duration,
    ) -> object_store::Result<Url> {
        let path = self.prefix.parts().chain(name.parts()).collect();
        let answered_with = SignedUrlOptions::new().with_query([
            ("response-content-type", content_type),
            ("response-content-disposition", disposition),
        ]);
        self.store
            .signed_url_opts(Method::GET, &path, valid, &answered_with)
            .await
    }
}

// === how patient we are ===

/// Answers when the server does, and lets us in.
pub(super) async fn ping(store: &dyn ObjectStore) -> object_store::Result<()> {
    store.head(&Path::from(PROOF)).await.map(drop)
}

fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        },
        max_retries: 4,
        retry_timeout: Duration::from_secs(5),
    }
}

/// The smallest part that S3 takes, but for the last.
pub(super) const PART_BYTES: usize = 5 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two reads, and until an answer begins.
const READ_TIMEOUT: Duration = Duration::from_secs(8);
/// No upload has such a name.
const PROOF: &str = ".writable";
