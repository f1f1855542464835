//! The setting `archive.url`: what it opens, and what is said when it cannot be.

use std::time::{Duration, Instant};

use event_log::LogError;
use event_log::archive::{LocationOptions, open};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use views::{Segment, TopicPartition};

use super::{BUCKET, client, fresh_prefix, server, settings};
use crate::clicks::{Schemas, clicks, records};

/// One line that names the setting, within seconds.
async fn refusal(url: &str, options: &LocationOptions) -> LogError {
    let begun = Instant::now();
    println!("waiting for a refusal of {url} with {options:?}");
    let error = open(url, options).await.expect_err("refused");
    println!("  {error}");
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
    let message = error.to_string();
    assert!(message.starts_with("archive.url: ") && !message.contains('\n'), "{message}");
    assert!(!message.contains("tidemark-secret") && !format!("{options:?}").contains("tidemark-secret"), "{message}");
    error
}

fn with(mut options: LocationOptions, changes: &[(&str, &str)]) -> LocationOptions {
    for (name, value) in changes {
        options.variables.retain(|(known, _)| known != name);
        if !value.is_empty() {
            options.variables.push(((*name).to_owned(), (*value).to_owned()));
        }
    }
    options
}

#[tokio::test]
async fn what_an_operator_gets_wrong_is_told_in_one_line_naming_the_setting() {
    let endpoint = server().await;
    let good = settings(&endpoint);
    let url = format!("s3://{BUCKET}/{}", fresh_prefix());
    let invalid = |error: LogError, expected: &[&str]| {
        assert!(matches!(error, LogError::Invalid(_)), "{error:?}");
        for part in expected {
            assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
        }
    };
    invalid(refusal("archive", &good).await, &["s3://bucket/prefix"]);
    invalid(refusal("s3://", &good).await, &["no bucket in it"]);
    invalid(refusal("s3://b/a//b", &good).await, &["a//b"]);
    invalid(refusal("file://archive", &good).await, &["whole path"]);
    invalid(refusal("file:///proc/nothing/can/be/here", &good).await, &["/proc/nothing"]);

    invalid(refusal("s3://tidemark-test-nobody-made-this", &good).await, &["no such bucket", "tidemark-test-nobody"]);
    let exists = client(&endpoint, "tidemark-test-nobody-made-this").list_with_delimiter(None).await;
    assert!(exists.is_err(), "asking for a bucket must not make it");
    let wrong = with(good.clone(), &[("AWS_SECRET_ACCESS_KEY", "wrong")]);
    invalid(refusal(&url, &wrong).await, &["does not let us in", "AWS_SECRET_ACCESS_KEY"]);
    let wrong = with(good.clone(), &[("AWS_ACCESS_KEY_ID", "nobody")]);
    invalid(refusal(&url, &wrong).await, &["does not let us in", "AWS_ACCESS_KEY_ID"]);
    let half = with(good.clone(), &[("AWS_SECRET_ACCESS_KEY", "")]);
    invalid(refusal(&url, &half).await, &["AWS_"]);

    let transient = |error: LogError, expected: &str| {
        assert!(error.is_transient() && error.to_string().contains(expected), "{error:?}");
    };
    let nobody = with(good.clone(), &[("AWS_ENDPOINT_URL", "http://127.0.0.1:9")]);
    transient(refusal(&url, &nobody).await, "http://127.0.0.1:9");
    let nowhere = with(good.clone(), &[("AWS_ENDPOINT_URL", "http://no-such-host.invalid:9000")]);
    transient(refusal(&url, &nowhere).await, "AWS_ENDPOINT_URL");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    transient(refusal(&url, &with(good.clone(), &[("AWS_ENDPOINT_URL", &silent)])).await, "no answer within 5 s");
    // Without credentials, the machine's own are asked for: here is nobody who has them.
    let none =
        [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")];
    transient(refusal(&url, &with(good, &none)).await, "AWS_ACCESS_KEY_ID");
}

/// A server that takes conditions and does not keep them: it says yes to everything.
#[tokio::test]
async fn a_server_that_replaces_what_is_there_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 64 << 10];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let listing = "<ListBucketResult><Name>b</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>";
            let body = if request[..length].starts_with(b"GET") { listing } else { "" };
            let answer = format!(
                "HTTP/1.1 200 OK\r\netag: \"1\"\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let error = refusal("s3://bucket/lake", &settings(&endpoint)).await;
    assert!(matches!(error, LogError::Invalid(_)) && error.to_string().contains("If-None-Match"), "{error:?}");
    server.abort();
}

#[tokio::test]
async fn an_address_opens_the_same_archive_every_time() {
    let endpoint = server().await;
    let folder = tempfile::tempdir().unwrap();
    let prefix = fresh_prefix();
    let partition = TopicPartition::new("clicks", 0);
    let written = records(0, clicks(1, 20));
    // A folder whose name an address has to write in another way.
    let file = format!("file://{}/not%20yet/there", folder.path().display());
    for url in [file, format!("s3://{BUCKET}/{prefix}"), format!("s3://{BUCKET}/{prefix}/deeper/")] {
        let one = open(&url, &settings(&endpoint)).await.unwrap();
        assert_eq!(one.list(&partition).await.unwrap(), []);
        let segment = one.put(&partition, Segment::FIRST, 20, &written, &Schemas).await.unwrap();
        let other = open(&url, &settings(&endpoint)).await.unwrap();
        assert_eq!(other.list(&partition).await.unwrap(), std::slice::from_ref(&segment), "{url}");
        assert_eq!(other.read(&segment).await.unwrap(), written);
    }
    assert!(folder.path().join("not yet/there/clicks/00000").is_dir());
    let name = format!("{prefix}/clicks/00000/00000000000000000000-00000000000000000020.avro");
    client(&endpoint, BUCKET).head(&Path::from(name)).await.expect("the object is where its name says");
}
