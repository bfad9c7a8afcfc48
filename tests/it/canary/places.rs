//! Everywhere where a canary could come out: lines, spans, metrics with their exemplars, and every column of every row.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio_postgres::Client;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

use super::{MARK, Secret};
use crate::support::served::Served;
use crate::support::shop::http;

/// A receiver of spans.
pub async fn receiver() -> MockServer {
    let receiver = MockServer::start().await;
    Mock::given(matchers::path("/v1/traces")).respond_with(ResponseTemplate::new(200)).mount(&receiver).await;
    receiver
}

/// What it received.
pub async fn spans(receiver: &MockServer) -> Vec<Span> {
    let requests = receiver.received_requests().await.expect("recorded");
    let decoded = requests.iter().map(|request| ExportTraceServiceRequest::decode(request.body.as_slice()));
    let resources = decoded.flat_map(|request| request.expect("protobuf").resource_spans);
    resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
}

/// The exposition in each format that a scraper can ask for; exemplars stand in the second.
pub async fn metrics(served: &Served) -> Vec<String> {
    let mut texts = Vec::new();
    for accept in ["text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0"] {
        let asked = http().get(format!("{}/metrics", served.ops)).header("accept", accept).send();
        texts.push(asked.await.expect("metrics").text().await.expect("text"));
    }
    texts
}

/// Which secrets stand in a text, by their names; `(unnamed)` for a canary that nobody put there on purpose.
pub fn told(text: &str, secrets: &[Secret]) -> BTreeSet<String> {
    let lower = text.to_lowercase();
    let stands = |secret: &&Secret| lower.contains(&secret.text.to_lowercase());
    let mut names: BTreeSet<String> = secrets.iter().filter(stands).map(|secret| secret.name.clone()).collect();
    if names.is_empty() && lower.contains(MARK) {
        names.insert("(unnamed)".to_owned());
    }
    names
}

/// Fails with the first text that tells a secret.
pub fn silent<'a>(place: &str, texts: impl IntoIterator<Item = &'a String>, secrets: &[Secret]) {
    for text in texts {
        let told = told(text, secrets);
        assert!(told.is_empty(), "{place} tells {told:?}: {text}");
    }
}

/// Which secret stands in which column of the database: `(name, "table.column")`.
pub async fn stored(client: &Client, secrets: &[Secret]) -> BTreeSet<(String, String)> {
    let columns = "select format('%I.%I', c.table_schema, c.table_name), c.column_name::text, c.data_type::text \
        from information_schema.columns c join information_schema.tables t using (table_schema, table_name) \
        where c.table_schema not in ('pg_catalog', 'information_schema') and t.table_type = 'BASE TABLE' \
            and c.table_name not in (select relname from pg_class where relispartition)";
    let mut found = BTreeSet::new();
    let columns = client.query(columns, &[]).await.expect("columns");
    assert!(columns.len() > 100, "the catalogue is read: {}", columns.len());
    for column in columns {
        let (table, name, kind): (String, String, String) = (column.get(0), column.get(1), column.get(2));
        // Bytes are shown as they are where they are letters.
        let value = if kind == "bytea" { format!("encode(\"{name}\", 'escape')") } else { format!("\"{name}\"::text") };
        let query = format!("select distinct {value} from {table} where \"{name}\" is not null");
        for row in client.query(&query, &[]).await.expect("values") {
            let text: String = row.get(0);
            found.extend(
                told(&text, secrets)
                    .into_iter()
                    .map(|secret| (secret, format!("{}.{name}", table.trim_start_matches("public.")))),
            );
        }
    }
    found
}
