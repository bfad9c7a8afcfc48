//! What goes back over the wire: a reply, or a cut connection.
//!
//! Made by every endpoint module, sent by [`crate::server`]. It has no opinion about contents.

use std::time::Duration;

use serde_json::Value;
use wiremock::ResponseTemplate;

/// The fate of one request.
pub(crate) enum Answer {
    Reply(Reply),
    /// The connection is closed without a byte of answer.
    Cut,
}

/// One HTTP response, and how long it is held back.
#[derive(Clone)]
pub(crate) struct Reply {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
    pub headers: Vec<(&'static str, String)>,
    pub delay: Duration,
}

impl Reply {
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status,
            content_type: content_type.to_owned(),
            body: body.into(),
            headers: Vec::new(),
            delay: Duration::ZERO,
        }
    }

    pub fn json(status: u16, body: &Value) -> Reply {
        Reply::new(status, "application/json;charset=utf-8", body.to_string())
    }

    pub fn html(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply::new(status, "text/html;charset=utf-8", body)
    }

    /// Sends a browser elsewhere, as the payment window does.
    pub fn redirect(location: String) -> Reply {
        Reply::html(302, "").with_header("location", location)
    }

    pub fn with_header(mut self, name: &'static str, value: String) -> Reply {
        self.headers.push((name, value));
        self
    }

    /// Holds the reply back for at least `delay`.
    pub fn held(mut self, delay: Duration) -> Reply {
        self.delay = self.delay.max(delay);
        self
    }

    pub fn into_template(self) -> ResponseTemplate {
        let mut template =
            ResponseTemplate::new(self.status).set_body_raw(self.body, &self.content_type).set_delay(self.delay);
        for (name, value) in self.headers {
            template = template.insert_header(name, value);
        }
        template
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Answer::Reply(reply)
    }
}
