//! Exchanges that end without an answer: which of them are certain, and which leave doubt.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// For answers that do not come: short enough to wait for, long enough to send in.
fn impatient(base_url: &str) -> Toss {
    let timeout = Duration::from_millis(500);
    let config = config(base_url);
    Toss::new(TossConfig { confirm_timeout: timeout, cancel_timeout: timeout, inquiry_timeout: timeout, ..config })
        .unwrap()
}

/// A PG that does something to each accepted connection after the request's head has arrived.
async fn raw_pg<F>(answer: &'static [u8], then: F) -> String
where
    F: Fn() -> Duration + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut buffer = vec![0; 8192];
            if socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                drop(socket.write_all(answer).await);
                tokio::time::sleep(then()).await;
            }
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn no_answer_in_time_is_a_timeout() {
    let server = pg(ResponseTemplate::new(200).set_delay(Duration::from_secs(30))).await;
    let toss = impatient(&server.uri());
    let start = Instant::now();
    let confirm = toss.confirm(&confirm_request()).await;
    assert_eq!((unknown(&confirm.answer), confirm.http_status), (Some(DoubtReason::Timeout), None));
    assert_eq!(cancel_unknown(&toss.cancel(&cancel_request()).await.answer), Some(DoubtReason::Timeout));
    let inquiry = toss.inquire_by_order(OrderId::new()).await;
    assert_eq!(inquiry_unknown(&inquiry.answer), Some(DoubtReason::Timeout));
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn an_answer_that_stops_halfway_is_a_timeout_or_a_lost_connection() {
    let half: &[u8] = b"HTTP/1.1 200 OK\r\nx-tosspayments-trace-id: t-1\r\ncontent-length: 500\r\n\r\n{\"paymentKey\":";
    for (pause, wanted) in
        [(Duration::from_secs(30), DoubtReason::Timeout), (Duration::ZERO, DoubtReason::ConnectionLost)]
    {
        let url = raw_pg(half, move || pause).await;
        let confirm = impatient(&url).confirm(&confirm_request()).await;
        assert_eq!((unknown(&confirm.answer), confirm.http_status), (Some(wanted), Some(200)));
        assert_eq!(confirm.provider_trace_id.as_deref(), Some("t-1"));
    }
}

#[tokio::test]
async fn a_connection_cut_after_the_request_is_lost_and_not_unsent() {
    let url = raw_pg(b"", || Duration::ZERO).await;
    let toss = toss(&url);
    assert_eq!(unknown(&toss.confirm(&confirm_request()).await.answer), Some(DoubtReason::ConnectionLost));
    assert_eq!(cancel_unknown(&toss.cancel(&cancel_request()).await.answer), Some(DoubtReason::ConnectionLost));
}

/// A request goes out on a kept connection, and the PG closes it without a word: that request may have been acted
/// on, so it is neither repeated nor called unsent.
#[tokio::test]
async fn a_kept_connection_that_dies_under_a_request_leaves_doubt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let toss = toss(&format!("http://{}", listener.local_addr().unwrap()));
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut buffer = vec![0; 8192];
            for first in [true, false] {
                if !socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    break;
                }
                counter.fetch_add(1, Ordering::SeqCst);
                if first {
                    socket.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                }
            }
        }
    });
    // A connection returns to the pool shortly after its answer, so it may take a try or two to meet one again.
    for sent in 1..100 {
        let reason = unknown(&toss.confirm(&confirm_request()).await.answer);
        assert_eq!(seen.load(Ordering::SeqCst), sent, "nothing is sent twice");
        if reason == Some(DoubtReason::ConnectionLost) {
            assert!(sent > 1, "a fresh connection answers");
            return;
        }
        assert_eq!(reason, Some(DoubtReason::ServerError));
    }
    panic!("no connection was ever used twice");
}

#[tokio::test]
async fn no_connection_means_certainly_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    // Speaks, but not TLS, so the handshake fails before any request.
    let not_tls = raw_pg(b"HTTP/1.1 400 Bad Request\r\n\r\n", || Duration::ZERO).await.replace("http:", "https:");
    for url in [refused.as_str(), not_tls.as_str()] {
        let toss = toss(url);
        let confirm = toss.confirm(&confirm_request()).await;
        let wanted = NotSent { reason: NotSentReason::Unreachable, code: None, retry_after_s: None };
        assert!(matches!(&confirm.answer, ConfirmAnswer::NotSent(got) if *got == wanted), "{url} {confirm:?}");
        let cancel = toss.cancel(&cancel_request()).await;
        assert!(matches!(&cancel.answer, CancelAnswer::NotSent(got) if *got == wanted), "{url} {cancel:?}");
        let inquiry = toss.inquire_by_order(OrderId::new()).await;
        assert_eq!(inquiry_unknown(&inquiry.answer), Some(DoubtReason::ConnectionLost), "{url}");
    }
}

/// Straight through the transport, because a proxy named in the environment would do the resolving for the adapter.
#[tokio::test]
async fn a_host_that_does_not_exist_is_certainly_not_sent() {
    install_crypto();
    let client = Client::builder().no_proxy().tls_certs_only([]).connect_timeout(Duration::from_secs(2));
    let client = client.build().unwrap();
    let outcome = http::send(&client, client.post("http://no-such-host.invalid/").build()).await;
    assert!(matches!(outcome, Outcome::NotSent(NotSentReason::Unreachable)));
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_certainly_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let mut config = config(&url);
    config.connect_timeout = Duration::from_millis(100);
    let confirm = Toss::new(config).unwrap().confirm(&confirm_request()).await;
    assert!(
        matches!(&confirm.answer, ConfirmAnswer::NotSent(got) if got.reason == NotSentReason::Unreachable),
        "{confirm:?}"
    );
    drop(listener);
}
