//! The labels of HTTP: methods, status codes, and the templates of matched routes.

use std::sync::{LazyLock, PoisonError, RwLock};

use axum::extract::MatchedPath;

use super::{Label, sealed};
use crate::domain::vocabulary;

vocabulary! {
    /// The request methods of RFC 9110 and RFC 5789; anything else is one value.
    pub enum HttpMethod {
        /// GET
        Get => "GET",
        /// HEAD
        Head => "HEAD",
        /// POST
        Post => "POST",
        /// PUT
        Put => "PUT",
        /// DELETE
        Delete => "DELETE",
        /// CONNECT
        Connect => "CONNECT",
        /// OPTIONS
        Options => "OPTIONS",
        /// TRACE
        Trace => "TRACE",
        /// PATCH
        Patch => "PATCH",
        /// A method that no standard lists.
        Other => "_OTHER",
    }
}

impl HttpMethod {
    /// The label of a method as it came.
    #[must_use]
    pub fn of(method: &axum::http::Method) -> Self {
        Self::parse(method.as_str()).unwrap_or(Self::Other)
    }
}

const FIRST_STATUS: u16 = 100;
const STATUS_CODES: usize = 500;
const NO_STATUS: u16 = 0;
const ODD_STATUS: u16 = 1;

/// An HTTP status code (100–599), `none` without an answer, `other` outside of the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusLabel(u16);

impl StatusLabel {
    /// The label of a status; `None` when no answer came.
    #[must_use]
    pub fn of(status: Option<u16>) -> Self {
        Self(match status {
            None => NO_STATUS,
            Some(code @ FIRST_STATUS..600) => code - FIRST_STATUS + 2,
            Some(_) => ODD_STATUS,
        })
    }
}

impl sealed::Sealed for StatusLabel {}

impl Label for StatusLabel {
    const COUNT: usize = STATUS_CODES + 2;
    const TEXTS: &'static [&'static str] = &[];

    fn index(self) -> usize {
        usize::from(self.0)
    }

    fn nth(index: usize) -> Option<Self> {
        u16::try_from(index).ok().filter(|_| index < Self::COUNT).map(Self)
    }

    fn text(self) -> &'static str {
        static TEXTS: LazyLock<Vec<String>> =
            LazyLock::new(|| (FIRST_STATUS..600).map(|code| code.to_string()).collect());
        match self.index().checked_sub(2) {
            Some(at) => TEXTS.get(at).map_or("other", String::as_str),
            None if self.0 == NO_STATUS => "none",
            None => "other",
        }
    }
}

/// The most route templates that get a label of their own; the router has far fewer.
const ROUTES: usize = 256;
const ROUTE_UNMATCHED: &str = "_unmatched";
const ROUTE_OTHER: &str = "_other";

/// The template of a matched route such as `/v1/orders/{id}`, or `_unmatched`. It can only be made from what the
/// router matched, so a path that a client sent never becomes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteLabel(usize);

/// The templates seen so far, in the order of their labels; the first two labels are fixed.
struct Routes(RwLock<Vec<&'static str>>);

static SEEN: Routes = Routes(RwLock::new(Vec::new()));

impl Routes {
    fn label(&self, template: &str) -> RouteLabel {
        let find = |texts: &[&'static str]| texts.iter().position(|text| *text == template);
        if let Some(at) = find(&self.0.read().unwrap_or_else(PoisonError::into_inner)) {
            return RouteLabel(at + 2);
        }
        let mut texts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = find(&texts) {
            return RouteLabel(at + 2);
        }
        if texts.len() + 2 >= ROUTES {
            return RouteLabel(1);
        }
        texts.push(Box::leak(Box::from(template)));
        RouteLabel(texts.len() + 1)
    }

    fn text(&self, label: RouteLabel) -> &'static str {
        match label.0.checked_sub(2) {
            Some(at) => {
                let texts = self.0.read().unwrap_or_else(PoisonError::into_inner);
                texts.get(at).copied().unwrap_or(ROUTE_OTHER)
            }
            None if label.0 == 0 => ROUTE_UNMATCHED,
            None => ROUTE_OTHER,
        }
    }

    fn labels(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len() + 2
    }
}

impl RouteLabel {
    /// No route.
    pub const UNMATCHED: Self = Self(0);

    /// The label of what the router matched.
    #[must_use]
    pub fn of(matched: Option<&MatchedPath>) -> Self {
        matched.map_or(Self::UNMATCHED, |path| SEEN.label(path.as_str()))
    }
}

impl sealed::Sealed for RouteLabel {}

impl Label for RouteLabel {
    const COUNT: usize = ROUTES;
    const TEXTS: &'static [&'static str] = &[];

    fn index(self) -> usize {
        self.0
    }

    fn nth(index: usize) -> Option<Self> {
        (index < SEEN.labels()).then_some(Self(index))
    }

    fn text(self) -> &'static str {
        SEEN.text(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_none_or_other() {
        for (status, text) in [
            (None, "none"),
            (Some(100), "100"),
            (Some(404), "404"),
            (Some(599), "599"),
            (Some(600), "other"),
            (Some(7), "other"),
        ] {
            assert_eq!(StatusLabel::of(status).text(), text);
        }
        assert_eq!(StatusLabel::of(Some(599)).index(), StatusLabel::COUNT - 1);
    }

    #[test]
    fn a_route_keeps_its_template_and_their_number_is_bounded() {
        assert_eq!(RouteLabel::of(None).text(), "_unmatched");
        let routes = Routes(RwLock::new(Vec::new()));
        let orders = routes.label("/v1/orders/{id}");
        assert_eq!((orders, routes.text(orders)), (routes.label("/v1/orders/{id}"), "/v1/orders/{id}"));
        let labels: Vec<_> = (0..1000).map(|n| routes.label(&format!("/{n}"))).collect();
        assert_eq!(routes.labels(), ROUTES);
        assert!(labels.iter().all(|label| label.index() < RouteLabel::COUNT));
        assert_eq!(labels.last().map(|label| routes.text(*label)), Some("_other"));
    }
}
