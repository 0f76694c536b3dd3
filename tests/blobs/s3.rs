//! A bucket as a place for files, and what it keeps besides.

use std::env;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use chat_svc::blobs::{ANSWER_SECONDS_MAX, BlobError, Blobs, BlobsConfig, Bucket};
use chat_svc::drain::{Drain, Tasks};
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer, AwsCredential};
use object_store::client::{HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore};
use url::Url;

use crate::{Holds, Place, content, fresh, run};

/// A place of its own in the bucket; `None` when no server is to be had, which it says.
pub async fn a_bucket() -> Option<Place> {
    let (url, bucket) = named()?;
    let tasks = Tasks::default();
    let blobs = open(bucket, &tasks).await.unwrap();
    Some(Place {
        blobs,
        tasks,
        holds: Holds::Bucket(Inside { url }),
    })
}

/// What is in our part of the bucket, seen past the service.
pub struct Inside {
    url: Url,
}

impl Inside {
    /// All files and unfinished uploads.
    pub async fn names(&self) -> Vec<String> {
        let prefix = Path::from_url_path(self.url.path()).unwrap();
        let listed = self.client().list(Some(&prefix));
        let objects: Vec<_> = listed.try_collect().await.unwrap();
        let mut names: Vec<_> = objects
            .iter()
            .map(|object| object.location.filename().unwrap().to_owned())
            .filter(|name| name != ".writable")
            .collect();
        names.sort();
        names.extend(self.unfinished().await);
        names
    }

    /// Keys of unfinished uploads.
    async fn unfinished(&self) -> Vec<String> {
        // The server stumbles (500) over what others in the bucket remove while it lists.
        let listed = async {
            loop {
                if let Some(answer) = self.try_list_unfinished().await {
                    return answer;
                }
            }
        };
        let limit = Duration::from_secs(30);
        let answer = tokio::time::timeout(limit, listed).await.unwrap();
        assert!(answer.contains("ListMultipartUploadsResult"), "{answer}");
        let ours = self.url.path().trim_start_matches('/');
        let keys = answer.split("<Key>").skip(1);
        keys.filter_map(|rest| rest.split('<').next())
            .filter(|key| key.starts_with(ours))
            .map(str::to_owned)
            .collect()
    }

    async fn try_list_unfinished(&self) -> Option<String> {
        let variable = |name| env::var(name).unwrap();
        let endpoint = variable("AWS_ENDPOINT_URL");
        let bucket = self.url.host_str().unwrap();
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = format!("{endpoint}/{bucket}?uploads=").parse().unwrap();
        let credential = AwsCredential {
            key_id: variable("AWS_ACCESS_KEY_ID"),
            secret_key: variable("AWS_SECRET_ACCESS_KEY"),
            token: None,
        };
        let region = variable("AWS_REGION");
        AwsAuthorizer::new(&credential, "s3", &region)
            .try_authorize(&mut request, None)
            .unwrap();
        let options = ClientOptions::new().with_allow_http(true);
        let client = ReqwestConnector::default().connect(&options).unwrap();
        let response = client.execute(request).await.unwrap();
        let status = response.status();
        assert!(status.is_success() || status.as_u16() == 500, "{status}");
        let answer = response.into_body().bytes().await.unwrap();
        status
            .is_success()
            .then(|| String::from_utf8(answer.to_vec()).unwrap())
    }

    fn client(&self) -> AmazonS3 {
        let builder = AmazonS3Builder::from_env().with_url(self.url.as_str());
        builder.build().unwrap()
    }
}

#[test]
fn an_aborted_upload_leaves_no_unfinished_parts() {
    run(async {
        let Some(place) = a_bucket().await else {
            return;
        };
        let Holds::Bucket(inside) = &place.holds else {
            panic!("a bucket")
        };
        for dropped in [false, true] {
            let name = fresh("image/png");
            let mut upload = place.blobs.put(name.clone()).await.unwrap();
            upload.write(Bytes::from(content(11 << 20))).await.unwrap();
            let unfinished = inside.unfinished().await;
            assert!(matches!(&unfinished[..], [key] if key.ends_with(name.as_str())));
            if dropped {
                drop(upload);
            } else {
                upload.abort().await;
            }
            assert!(place.settled().await.is_empty());
        }
    });
}

#[test]
fn a_file_of_several_parts_is_what_was_put() {
    run(async {
        let Some(place) = a_bucket().await else {
            return;
        };
        let (name, content) = (fresh("image/png"), content((12 << 20) + 7));
        let mut upload = place.blobs.put(name.clone()).await.unwrap();
        for chunk in content.chunks(300_000) {
            upload.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        upload.finish().await.unwrap().keep();
        let blob = place.blobs.get(&name, None).await.unwrap();
        assert!(crate::read(blob.stream).await == content);
        assert_eq!(place.settled().await, [name.as_str()]);
    });
}

#[test]
fn wrong_keys_and_a_missing_bucket_are_one_sentence_at_the_start() {
    run(async {
        let Some((_, bucket)) = named() else {
            return;
        };
        let wrong = bucket.with("AWS_SECRET_ACCESS_KEY", "wrong-secret");
        let error = open(wrong, &Tasks::default()).await.unwrap_err();
        assert!(error.contains("AWS_SECRET_ACCESS_KEY"), "{error}");
        assert!(
            !error.contains("wrong-secret") && !error.contains('\n'),
            "{error}"
        );

        let missing = Url::parse("s3://there-is-no-such-bucket/x").unwrap();
        let missing = Bucket::parse(&missing).unwrap();
        let error = open(missing, &Tasks::default()).await.unwrap_err();
        assert!(error.contains("there-is-no-such-bucket"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    });
}

#[test]
fn a_server_that_is_away_or_silent_is_unavailable_in_bounded_time() {
    run(async {
        // One that refuses, and one that takes connections and says nothing.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [&silent, &gone].map(|listener| listener.local_addr().unwrap());
        drop(gone);
        let opened = addresses.map(|address| async move {
            let url = Url::parse("s3://bucket/prefix").unwrap();
            let bucket = [
                ("AWS_ENDPOINT_URL", format!("http://{address}")),
                ("AWS_ALLOW_HTTP", "true".to_owned()),
                ("AWS_REGION", "us-east-1".to_owned()),
                ("AWS_ACCESS_KEY_ID", "key".to_owned()),
                ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ]
            .iter()
            .fold(Bucket::parse(&url).unwrap(), |bucket, (name, value)| {
                bucket.with(name, value)
            });
            // Twice what is promised: a bound that a busy machine keeps.
            let limit = Duration::from_secs(2 * ANSWER_SECONDS_MAX);
            tokio::time::timeout(limit, open(bucket, &Tasks::default())).await
        });
        for opened in futures_util::future::join_all(opened).await {
            let error = opened.expect("in time").unwrap_err();
            assert!(
                error.contains(&BlobError::Unavailable("".into()).to_string()),
                "{error}"
            );
        }
    });
}

/// A prefix of its own in the bucket that the environment names.
fn named() -> Option<(Url, Bucket)> {
    let Ok(url) = env::var("TEST_S3_URL") else {
        let needed = env::var("CHAT_SVC_REQUIRE_SERVICES").is_ok_and(|value| value == "1");
        assert!(
            !needed,
            "TEST_S3_URL names no S3 server, and one is required"
        );
        // Past the capture of passed tests' output, so that it is seen.
        let _lost = writeln!(
            std::io::stderr(),
            "\nskipped: TEST_S3_URL names no S3 server"
        );
        return None;
    };
    let url = format!(
        "{}/{}/",
        url.trim_end_matches('/'),
        fresh("image/png").as_str()
    );
    let url = Url::parse(&url).unwrap();
    let bucket = Bucket::parse(&url).unwrap();
    Some((url, bucket))
}

async fn open(bucket: Bucket, tasks: &Tasks) -> Result<Blobs, String> {
    let tasks = tasks.clone();
    let open = move || Blobs::open(&BlobsConfig::Bucket(bucket), tasks, Drain::default());
    let opened = tokio::task::spawn_blocking(open).await.unwrap();
    opened.map_err(|error| error.to_string())
}
