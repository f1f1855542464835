//! A registry of one schema, for executors: over HTTP, as Confluent's.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// Every id is this schema. Answers as long as the test runs.
pub async fn serve(schema: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let schema = serde_json::json!({ "schema": schema }).to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut request = String::new();
            while stream.read_line(&mut request).await.is_ok_and(|bytes| bytes > 2) {}
            let body = if request.contains("/schemas/types") { r#"["AVRO"]"# } else { &schema };
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length:";
            let _ = stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await;
        }
    });
    url
}
