//! The demo checkout: a static page that buys through the public REST API as a shop's own frontend would.
//!
//! Owns the embedded files, the settings the page reads at start, and the headers that confine it. Called by the
//! development stack alone. Refuses to reach anything but itself and the API: no template, no state, no secret key.

use axum::Router;
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const JSON: &str = "application/json";

/// Every file of the page but the page itself: path, media type, content.
const FILES: [(&str, &str, &str); 10] = [
    ("/style.css", CSS, include_str!("style.css")),
    ("/app.js", JS, include_str!("app.js")),
    ("/api.js", JS, include_str!("api.js")),
    ("/dom.js", JS, include_str!("dom.js")),
    ("/frame.js", JS, include_str!("frame.js")),
    ("/memory.js", JS, include_str!("memory.js")),
    ("/refund.js", JS, include_str!("refund.js")),
    ("/views.js", JS, include_str!("views.js")),
    ("/words.js", JS, include_str!("words.js")),
    ("/favicon.svg", SVG, include_str!("favicon.svg")),
];

/// Where the page is served: the start, and the two addresses the payment window sends the buyer back to.
const PAGE_PATHS: [&str; 3] = ["/", "/return/success", "/return/fail"];

/// What the page is told. All of it is public: it ends up in the buyer's browser.
pub struct CheckoutConfig {
    /// Base URL of the API, e.g. `http://127.0.0.1:8080`; its origin is the only foreign one the page may call.
    pub api_url: String,
    /// A publishable key (`pgpk_…`): reads the catalogue and places orders.
    pub publishable_key: String,
    /// The PG's payment window.
    pub window_url: String,
    /// The PG's client key, which the window shows nobody but needs.
    pub client_key: String,
    /// The API's documentation page.
    pub docs_url: String,
    /// The operations port.
    pub ops_url: String,
}

/// The checkout's own site, to be served on a port of its own.
///
/// An `api_url` that has no plain `http` or `https` origin is left out of the policy, so the browser then refuses
/// the page's calls and the page says that the shop cannot be reached.
pub fn router(config: CheckoutConfig) -> Router {
    let policy = content_security_policy(&config.api_url);
    let settings = serde_json::json!({
        "apiUrl": config.api_url,
        "publishableKey": config.publishable_key,
        "windowUrl": config.window_url,
        "clientKey": config.client_key,
        "docsUrl": config.docs_url,
        "opsUrl": config.ops_url,
    })
    .to_string();

    let mut router = Router::new().route("/config.json", get(move || async move { (content_type(JSON), settings) }));
    for path in PAGE_PATHS {
        router = router.route(path, file(HTML, include_str!("index.html")));
    }
    for (path, media_type, content) in FILES {
        router = router.route(path, file(media_type, content));
    }
    router.fallback(|| async { (StatusCode::NOT_FOUND, "There is no such page in the demo shop.") }).layer(from_fn(
        move |request: Request, next: Next| {
            let headers = confining_headers(&policy);
            async move {
                let mut response = next.run(request).await;
                response.headers_mut().extend(headers);
                response
            }
        },
    ))
}

fn file(media_type: &'static str, content: &'static str) -> MethodRouter {
    get(move || async move { (content_type(media_type), content).into_response() })
}

fn content_type(media_type: &'static str) -> [(HeaderName, HeaderValue); 1] {
    [(CONTENT_TYPE, HeaderValue::from_static(media_type))]
}

/// Nothing inline, nothing foreign but the API. The page leaves for the payment window by navigation, which a policy
/// does not govern; it submits no form natively, so none is allowed.
fn content_security_policy(api_url: &str) -> HeaderValue {
    let api = origin(api_url).map(|origin| format!(" {origin}")).unwrap_or_default();
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{api}; \
         form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    );
    HeaderValue::from_str(&policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
}

/// `scheme://host[:port]` of an address, if it is written in characters that cannot extend the policy.
fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    let usable = matches!(scheme, "http" | "https") && !authority.is_empty() && authority.bytes().all(plain);
    usable.then(|| format!("{scheme}://{authority}"))
}

/// `no-referrer` because the address the buyer returns to carries the PG's payment key until the page has read it;
/// `no-store` for the same reason, and because the files change with every build.
fn confining_headers(policy: &HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([
        (CONTENT_SECURITY_POLICY, policy.clone()),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_origin_of_the_api_enters_the_policy() {
        assert_eq!(origin("http://127.0.0.1:8080/v1?x#y").as_deref(), Some("http://127.0.0.1:8080"));
        assert_eq!(origin("https://[::1]:8443").as_deref(), Some("https://[::1]:8443"));
    }

    #[test]
    fn an_address_that_could_widen_the_policy_is_left_out() {
        for url in
            ["", "127.0.0.1:8080", "data://x", "http://", "http://a b", "http://a;script-src", "http://*", "http://u@h"]
        {
            assert_eq!(origin(url), None, "{url}");
        }
        let policy = content_security_policy("http://*; script-src *");
        assert!(policy.to_str().unwrap().contains("connect-src 'self';"));
    }

    #[test]
    fn the_page_holds_no_inline_script_or_style() {
        let page = include_str!("index.html");
        assert!(page.contains("<script type=\"module\" src=\"/app.js\"></script>"));
        assert_eq!(page.matches("<script").count(), 1);
        assert!(!page.contains(" style=") && !page.contains("<style") && !page.contains(" onclick="));
    }

    #[test]
    fn no_file_names_a_foreign_host() {
        for (path, _, content) in FILES {
            let foreign = content.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{path}");
        }
    }
}
