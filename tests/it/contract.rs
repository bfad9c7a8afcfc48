//! The contract with callers: every refusal has its status, its stable code and its form, and writes nothing; the
//! description says what the router does; headers and origins are as promised.
//!
//! A scenario notes the codes that it met. The last claim compares all of them with the closed list, so that a new
//! code without a scenario fails here.

mod broken;
mod described;
mod edge;
mod headers;
mod money;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use futures_util::future::{LocalBoxFuture, join_all};
use paygauge::http::problem::Code;
use reqwest::Method;
use tokio::sync::OnceCell;

use crate::support::shop::{Answer, Client, Shop, invariants_client};

/// The codes that a scenario met.
#[derive(Debug, Default)]
pub struct Seen(BTreeSet<Code>);

impl Seen {
    /// Takes an answer that must be this problem, whole.
    #[track_caller]
    pub fn take(&mut self, answer: Answer, code: Code) -> Answer {
        let answer = answer.problem(code.status(), code.as_str());
        assert_eq!(answer.text("type"), code.urn());
        assert_eq!(answer.text("title"), code.title());
        assert_eq!(answer.number("status"), i64::from(code.status().as_u16()));
        assert!(!answer.text("detail").is_empty());
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{code}");
        assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "{code}");
        assert_eq!(answer.header("retry-after").is_some(), code.retry_after_s().is_some(), "{code}");
        assert_eq!(answer.header("www-authenticate").is_some(), code == Code::Unauthorized, "{code}");
        self.0.insert(code);
        answer
    }
}

/// Everything that a request could have written, as one text.
pub struct Books(tokio_postgres::Client);

impl Books {
    pub async fn of(shop: &Shop) -> Self {
        Self(invariants_client(&shop.database).await)
    }

    pub async fn read(&self) -> String {
        let all = "select concat_ws(' ',
            (select md5(coalesce(string_agg(t::text, ' ' order by id), '')) from products t),
            (select md5(coalesce(string_agg(t::text, ' ' order by product_id), '')) from stock t),
            (select md5(coalesce(string_agg(t::text, ' ' order by id), '')) from orders t),
            (select md5(coalesce(string_agg(t::text, ' ' order by id), '')) from payments t),
            (select md5(coalesce(string_agg(t::text, ' ' order by id), '')) from cancellations t),
            (select count(*) from order_items), (select count(*) from stock_adjustments), (select count(*) from events),
            (select count(*) from idempotency_keys), (select count(*) from webhook_inbox))";
        self.0.query_one(all, &[]).await.expect("the books").get(0)
    }
}

/// A request built from its first line; a body is sent as JSON unless `headers` say otherwise.
pub async fn send(who: &Client, line: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
    let (method, path) = line.split_once(' ').expect("a method and a path");
    let method: Method = method.parse().expect("a method");
    let mut request = who.raw(method, path);
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in headers.iter().filter(|(_, value)| *value != "-") {
        request = request.header(*name, *value);
    }
    Answer::read(request.body(body.into()).send().await.expect("an answer")).await
}

/// A part of the contract, driven once however many claims ask for it.
struct Scenario {
    name: &'static str,
    drive: fn() -> LocalBoxFuture<'static, Seen>,
    seen: OnceCell<Seen>,
}

impl Scenario {
    async fn seen(&self) -> &Seen {
        self.seen.get_or_init(|| (self.drive)()).await
    }
}

macro_rules! scenarios {
    ($($module:ident::$name:ident,)+) => {
        static SCENARIOS: LazyLock<Vec<Scenario>> = LazyLock::new(|| vec![$(Scenario {
            name: stringify!($name),
            drive: || Box::pin($module::$name()),
            seen: OnceCell::const_new(),
        },)+]);

        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == stringify!($name)).expect("a scenario");
            assert!(!scenario.seen().await.0.is_empty());
        })+
    };
}

scenarios! {
    edge::what_is_no_json_or_not_declared_as_such_or_too_large_is_refused,
    edge::a_field_that_cannot_be_taken_is_named,
    edge::a_query_parameter_that_cannot_be_taken_is_named,
    edge::what_does_not_exist_is_not_found,
    edge::a_finding_is_closed_once_and_with_a_reason,
    edge::an_unknown_route_and_a_wrong_method_are_problems_and_allow_names_the_right_ones,
    edge::an_idempotency_key_is_one_readable_header_where_it_is_required,
    edge::without_a_credential_that_reaches_far_enough_nothing_happens,
    edge::a_body_that_never_arrives_is_given_up,
    edge::a_caller_beyond_its_budget_is_told_to_come_back,
    edge::who_follows_an_order_where_there_is_no_room_is_told_to_come_back,
    money::what_cannot_be_sold_is_not_ordered,
    money::a_key_answers_one_request_and_waits_for_the_first_one,
    money::a_confirm_that_does_not_fit_its_order_charges_nothing,
    money::what_the_pg_does_not_take_is_told_apart,
    money::a_cancel_that_cannot_be_is_told_why,
    broken::a_database_that_is_away_is_said_so_and_the_service_comes_back,
    broken::a_request_that_waits_too_long_for_others_is_told_to_come_again,
    broken::our_own_fault_is_told_without_its_cause,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_code_of_the_api_is_met() {
    let seen = join_all(SCENARIOS.iter().map(Scenario::seen)).await;
    let met: BTreeSet<Code> = seen.iter().flat_map(|seen| seen.0.iter().copied()).collect();
    let missing: Vec<&Code> = Code::ALL.iter().filter(|code| !met.contains(code)).collect();
    assert!(missing.is_empty(), "no scenario meets {missing:?}");
}
