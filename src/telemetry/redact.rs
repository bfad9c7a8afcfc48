//! The last belt: masks credentials, card numbers, payment keys and people's data in the bytes of a log line.
//!
//! Nothing should ever be found here, since secrets have types without a readable `Debug`; what is found is counted
//! and alarms. One scan by hand, no allocation for a clean line. It understands backslash escapes, so that what
//! stands behind an escaped line break is seen too, and keeps JSON valid. An account number looks like any other
//! number, and a PG's secret like any other word: those are found by the name in front of them (`named`).

mod named;

use super::labels::RedactionRule;

const MASK: &[u8] = b"[redacted]";
/// No credential is shorter; ordinary words behind a prefix are.
const SHORTEST_KEY: usize = 6;
const SHORTEST_TOKEN: usize = 16;
const SHORTEST_CREDENTIAL: usize = 8;
/// RFC 5321: a local part has at most 64 characters, a domain 255.
const LONGEST_LOCAL_PART: usize = 64;
const LONGEST_DOMAIN: usize = 255;

/// A stretch of the text that must go.
struct Hit {
    rule: RedactionRule,
    /// Bytes that may stay in front: the prefix that tells what was there.
    keep: usize,
    /// Bytes that are masked behind it.
    mask: usize,
}

/// Masks what must not be in `line`, telling `found` of each. The text starts outside of a JSON string if
/// `json`, and is plain otherwise.
pub(super) fn redact(line: &[u8], json: bool, mut found: impl FnMut(RedactionRule)) -> Option<Vec<u8>> {
    let mut clean: Option<Vec<u8>> = None;
    let mut in_string = !json;
    let mut before = Before::default();
    let has_at = line.contains(&b'@');
    let mut at = 0;
    while let Some((&byte, rest)) = line.get(at..).and_then(<[u8]>::split_first) {
        if byte == b'\\' && in_string {
            let length = if rest.first() == Some(&b'u') { 6 } else { 2 };
            extend(&mut clean, line, at, length);
            at += length;
            before = Before::default();
            continue;
        }
        if byte == b'"' && json {
            in_string = !in_string;
        }
        // Most bytes of a line stand within a word, where nothing begins but these prefixes.
        if !before.ends_word() && is_word(byte) && !matches!(byte, b'p' | b't' | b'l' | b'_') {
            extend(&mut clean, line, at, 1);
            before = Before { last: Some(byte), second: before.last };
            at += 1;
            continue;
        }
        let text = line.get(at..).unwrap_or_default();
        let found_here = hit(text, &before, has_at).or_else(|| named_value(line, at, &before));
        if let Some(hit) = found_here {
            found(hit.rule);
            let clean = clean.get_or_insert_with(|| line.get(..at).unwrap_or_default().to_vec());
            clean.extend_from_slice(text.get(..hit.keep).unwrap_or_default());
            put_mask(clean, in_string);
            at += hit.keep + hit.mask;
            before = Before { last: Some(b']'), second: None };
            continue;
        }
        extend(&mut clean, line, at, 1);
        before = Before { last: Some(byte), second: before.last };
        at += 1;
    }
    clean
}

/// Whether a text from outside holds nothing that looks like a secret or a person: only then it may become a field.
#[must_use]
pub fn is_clean(text: &str) -> bool {
    redact(text.as_bytes(), false, |_| ()).is_none()
}

fn extend(clean: &mut Option<Vec<u8>>, line: &[u8], at: usize, length: usize) {
    if let Some(clean) = clean {
        clean.extend(line.iter().skip(at).take(length));
    }
}

/// A bare JSON number becomes a string, or the line could not be read any more.
fn put_mask(clean: &mut Vec<u8>, in_string: bool) {
    if in_string {
        clean.extend_from_slice(MASK);
    } else {
        if clean.last() == Some(&b'-') {
            clean.pop();
        }
        clean.push(b'"');
        clean.extend_from_slice(MASK);
        clean.push(b'"');
    }
}

/// The two bytes before the one that is looked at; none after an escape, which ends every word.
#[derive(Default)]
struct Before {
    last: Option<u8>,
    second: Option<u8>,
}

impl Before {
    fn ends_word(&self) -> bool {
        !self.last.is_some_and(is_word)
    }

    /// Whether a number would be the fraction of another.
    fn is_decimal_point(&self) -> bool {
        self.last == Some(b'.') && self.second.is_some_and(|byte| byte.is_ascii_digit())
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// What base64, base64url and our own keys are made of.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'~' | b'+' | b'/' | b'=')
}

fn is_local_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-')
}

fn run(text: &[u8], from: usize, belongs: fn(u8) -> bool) -> usize {
    text.iter().skip(from).take_while(|byte| belongs(**byte)).count()
}

/// What begins here, if anything; without an `@` in the line, no address does.
fn hit(text: &[u8], before: &Before, has_at: bool) -> Option<Hit> {
    use RedactionRule as R;
    let first = *text.first()?;
    let new_word = before.ends_word();
    let known = match first {
        b'b' | b'B' if new_word => {
            credential(text, b"bearer", R::Bearer).or_else(|| credential(text, b"basic", R::Basic))
        }
        b'p' => key(text, b"pgsk_", R::ApiKey, SHORTEST_KEY).or_else(|| key(text, b"pgpk_", R::ApiKey, SHORTEST_KEY)),
        b'c' if new_word => key(text, b"ct_", R::CheckoutToken, SHORTEST_TOKEN),
        b't' => key(text, b"test_sk_", R::ProviderKey, SHORTEST_KEY),
        b'l' => key(text, b"live_sk_", R::ProviderKey, SHORTEST_KEY),
        b'_' => key(text, b"_gsk_", R::ProviderKey, SHORTEST_KEY),
        b'0'..=b'9' if new_word && !before.is_decimal_point() => card_number(text).or_else(|| phone(text)),
        b'+' => phone(text),
        _ => None,
    };
    let known = known.or_else(|| if new_word && first.is_ascii_lowercase() { payment_key(text) } else { None });
    known.or_else(|| if !has_at || before.last.is_some_and(is_local_part) { None } else { email(text) })
}

/// `{scheme} {credential}`, the scheme in any case.
fn credential(text: &[u8], scheme: &[u8], rule: RedactionRule) -> Option<Hit> {
    let (head, rest) = text.split_at_checked(scheme.len())?;
    if !head.eq_ignore_ascii_case(scheme) {
        return None;
    }
    let spaces = run(rest, 0, |byte| byte == b' ');
    let mask = run(rest, spaces, is_token);
    (spaces > 0 && mask >= SHORTEST_CREDENTIAL).then_some(Hit { rule, keep: scheme.len() + spaces, mask })
}

fn key(text: &[u8], prefix: &[u8], rule: RedactionRule, shortest: usize) -> Option<Hit> {
    if !text.starts_with(prefix) {
        return None;
    }
    let mask = run(text, prefix.len(), is_token);
    (mask >= shortest).then_some(Hit { rule, keep: prefix.len(), mask })
}

/// 13–19 digits in a row, or in the groups that are printed on cards, with a valid check digit.
fn card_number(text: &[u8]) -> Option<Hit> {
    let in_a_row = run(text, 0, |byte| byte.is_ascii_digit());
    let length = match in_a_row {
        13..=19 => in_a_row,
        4 => grouped(text)?,
        _ => return None,
    };
    if text.get(length).copied().is_some_and(is_word) {
        return None;
    }
    let digits: Vec<u8> =
        text.iter().take(length).filter(|byte| byte.is_ascii_digit()).map(|byte| byte - b'0').collect();
    let is_card = luhn(&digits) && !is_time(&digits);
    is_card.then_some(Hit { rule: RedactionRule::CardNumber, keep: 0, mask: length })
}

/// The length of `dddd-dddd-dddd-dddd` or `dddd-dddddd-ddddd`, with one kind of separator.
fn grouped(text: &[u8]) -> Option<usize> {
    let separator = *text.get(4).filter(|byte| matches!(byte, b' ' | b'-'))?;
    [&[4, 4, 4][..], &[6, 5][..]].into_iter().find_map(|groups| {
        let mut at = 4;
        for group in groups {
            let ends = text.get(at) == Some(&separator) && run(text, at + 1, |byte| byte.is_ascii_digit()) == *group;
            at = ends.then_some(at + 1 + group)?;
        }
        Some(at)
    })
}

/// No card starts with 0, and 13, 16 or 19 digits from 1 on are the milli-, micro- or nanoseconds of our days.
fn is_time(digits: &[u8]) -> bool {
    match digits.first() {
        Some(0) => true,
        Some(1) => matches!(digits.len(), 13 | 16 | 19),
        _ => false,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .zip([false, true].into_iter().cycle())
        .map(|(digit, doubled)| match (u32::from(*digit), doubled) {
            (digit, false) => digit,
            (digit @ 0..=4, true) => digit * 2,
            (digit, true) => digit * 2 - 9,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// The value of a field, parameter or word that is named like a secret.
fn named_value(line: &[u8], at: usize, before: &Before) -> Option<Hit> {
    // What an escape or a quote opens is looked at by its own first byte.
    if !before.ends_word() || !line.get(at).copied().is_some_and(is_word) {
        return None;
    }
    let rule = named::rule(line.get(..at)?)?;
    let text = line.get(at..)?;
    let mask = if rule == RedactionRule::Account { named::account_number(text) } else { run(text, 0, is_token) };
    // A word behind "secret:" may be about the secret; the secret itself has digits.
    let is_prose = rule == RedactionRule::Secret && !text.iter().take(mask).any(u8::is_ascii_digit);
    (mask >= SHORTEST_KEY && !is_prose).then_some(Hit { rule, keep: 0, mask })
}

/// A key that Toss gives a payment: the shop's id at Toss, the moment to the second, and a few characters more.
fn payment_key(text: &[u8]) -> Option<Hit> {
    let word = run(text, 0, |byte| byte.is_ascii_lowercase() || byte == b'_');
    let digits = run(text, word, |byte| byte.is_ascii_digit());
    if digits < 14 {
        return None;
    }
    let whole = run(text, 0, |byte| is_word(byte) || byte == b'-');
    let is_moment = text.get(word..word + 2) == Some(b"20")
        && matches!(text.get(word + 4..word + 6), Some([b'0', b'1'..=b'9'] | [b'1', b'0'..=b'2']));
    let fits = (2..=16).contains(&word) && is_moment && whole >= word + 18;
    // The last six are what our own lines show of it.
    fits.then(|| Hit { rule: RedactionRule::PaymentKey, keep: 0, mask: whole - 6 })
}

/// A Korean number: a mobile in any of its forms, or a line with its area in front and hyphens between.
fn phone(text: &[u8]) -> Option<Hit> {
    let country = if text.starts_with(b"+82") { 3 } else { 0 };
    if country == 0 && text.first() != Some(&b'0') {
        return None;
    }
    let gap = |at: usize| usize::from(text.get(at).is_some_and(|byte| matches!(byte, b'-' | b' ' | b'.')));
    let digits = |from: usize| run(text, from, |byte| byte.is_ascii_digit());
    let start = if country > 0 { country + gap(country) } else { 0 };
    // Abroad the zero of the area is left out, though not by everybody.
    let area = start + usize::from(text.get(start) == Some(&b'0'));
    let is_mobile = matches!(text.get(area..area + 2), Some([b'1', b'0' | b'1' | b'6'..=b'9']));
    let length = match digits(area) {
        // In a row, as it is typed.
        9 | 10 if is_mobile => area + digits(area),
        // In three groups.
        1 | 2 => {
            let middle = area + digits(area) + gap(area + digits(area));
            let end = middle + digits(middle) + gap(middle + digits(middle));
            let hyphens = text.get(middle.checked_sub(1)?) == Some(&b'-');
            let grouped = matches!(digits(middle), 3 | 4) && digits(end) == 4 && end > middle + digits(middle);
            (grouped && middle > area + digits(area) && (is_mobile || hyphens)).then_some(end + 4)?
        }
        _ => return None,
    };
    (!text.get(length).copied().is_some_and(is_word)).then_some(Hit {
        rule: RedactionRule::Phone,
        keep: 0,
        mask: length,
    })
}

fn email(text: &[u8]) -> Option<Hit> {
    let local = run(text, 0, is_local_part);
    if local == 0 || local > LONGEST_LOCAL_PART || text.get(local) != Some(&b'@') {
        return None;
    }
    let domain = run(text, local + 1, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    let host = text.get(local + 1..local + 1 + domain.min(LONGEST_DOMAIN))?;
    let ending = host.rsplit(|byte| *byte == b'.').find(|part| !part.is_empty())?;
    let named = host.contains(&b'.') && ending.len() >= 2 && ending.iter().all(u8::is_ascii_alphabetic);
    (named && host.first() != Some(&b'.')).then_some(Hit {
        rule: RedactionRule::Email,
        keep: 0,
        mask: local + 1 + host.len(),
    })
}

#[cfg(test)]
mod tests {
    use RedactionRule as R;

    use super::*;

    fn plain(text: &str) -> (String, Vec<R>) {
        masked(text, false)
    }

    fn masked(text: &str, json: bool) -> (String, Vec<R>) {
        let mut rules = Vec::new();
        let clean = redact(text.as_bytes(), json, |rule| rules.push(rule));
        let clean = clean.unwrap_or_else(|| text.as_bytes().to_vec());
        (String::from_utf8(clean).expect("masking keeps UTF-8"), rules)
    }

    #[test]
    fn each_kind_of_secret_is_masked_and_named() {
        for (text, expected, rule) in [
            ("Authorization: Bearer eyJhbGciOi.J9-_x", "Authorization: Bearer [redacted]", R::Bearer),
            ("authorization=bearer   abcdefgh", "authorization=bearer   [redacted]", R::Bearer),
            ("Basic dGVzdF9za19hYmM6", "Basic [redacted]", R::Basic),
            ("key pgsk_0192ab34cd", "key pgsk_[redacted]", R::ApiKey),
            ("xpgpk_0192ab34cd,", "xpgpk_[redacted],", R::ApiKey),
            ("token ct_AAECAwQFBgcICQoLDA", "token ct_[redacted]", R::CheckoutToken),
            ("test_sk_zXLkKEypNArWmo50nX3", "test_sk_[redacted]", R::ProviderKey),
            ("(live_sk_zXLkKEypNArWmo50nX3)", "(live_sk_[redacted])", R::ProviderKey),
            ("test_gsk_docs_OaPz8L5KdmQXkzRz", "test_gsk_[redacted]", R::ProviderKey),
            ("card 4111111111111111 declined", "card [redacted] declined", R::CardNumber),
            ("378282246310005", "[redacted]", R::CardNumber),
            ("4111-1111-1111-1111", "[redacted]", R::CardNumber),
            ("3782 822463 10005.", "[redacted].", R::CardNumber),
            ("from Kim.Minji+shop@example.co.kr: no", "from [redacted]: no", R::Email),
            ("call 010-1234-5678 now", "call [redacted] now", R::Phone),
            ("01012345678", "[redacted]", R::Phone),
            ("(016 123 4567)", "([redacted])", R::Phone),
            ("at +82-10-1234-5678,", "at [redacted],", R::Phone),
            ("+821012345678", "[redacted]", R::Phone),
            ("02-1234-5678 in Seoul", "[redacted] in Seoul", R::Phone),
            ("key tgen_20261121091500AbCd12 of", "key [redacted]AbCd12 of", R::PaymentKey),
            ("tviva20261121091500AbCd12", "[redacted]AbCd12", R::PaymentKey),
            ("(mshop202611211835583d08e)", "([redacted]83d08e)", R::PaymentKey),
            ("/success?paymentKey=an.opaque-key&orderId=1", "/success?paymentKey=[redacted]&orderId=1", R::PaymentKey),
            ("secret: ps_0123456789abcdef", "secret: [redacted]", R::Secret),
            ("customerKey=4f1e2d3c-aaaa", "customerKey=[redacted]", R::Secret),
            ("account_number=110-123-456789 of", "account_number=[redacted] of", R::Account),
            ("refund account 110123456789.", "refund account [redacted].", R::Account),
            ("계좌번호: 90817263544", "계좌번호: [redacted]", R::Account),
        ] {
            assert_eq!(plain(text), (expected.to_owned(), vec![rule]), "{text}");
        }
    }

    #[test]
    fn ordinary_lines_stay_as_they_are() {
        for text in [
            "",
            "request http_route=/v1/products/{id} duration_ms=12.345",
            "order ord_01920000000070008000000000004111 payment pay_41111111111111111111111111111111",
            "at 1753948800000 and 1700000000006 ms, 1700000000000000006 ns",
            "0.4111111111111111 of a unit, ratio 12.4111111111111111",
            "4111111111111112 is not a card, nor is 411111111111111, nor a4111111111111111",
            "product_one_two_three_four_five bearer of news, basic idea",
            "user@localhost, @scope/package, a@b",
            "12345678-4111-1111-1111-111111111111",
            "한글 문장도 그대로",
            "a backslash at the end \\",
            "0.0101234 of 010 in 2026-11-21T09:15:00 at 02:34:56.789012Z, 00-4bf92f3577b34da6-00",
            "127.0.0.1:8080 listens, 10-1234-5678 does not, nor does x01012345678 or 010123456789",
            "a secret is kept, token secret: missing in the environment, the account was closed, account 42 of 7, payment_key=\u{2026}AbCd12",
            "took 2026 units, tgen_2026 of ts_20261121, total 20261121091500",
        ] {
            let (clean, rules) = plain(text);
            assert_eq!((clean.as_str(), rules.len()), (text, 0));
            assert!(redact(text.as_bytes(), false, |_| ()).is_none(), "a clean line is not copied");
        }
    }

    #[test]
    fn json_stays_json() {
        let line = r#"{"msg":"a \"quoted\" word\nBearer abcdefghij","pan":4111111111111111,"n":[-4111111111111111],"u":"\u00e9a@b.kr","ok":1}"#;
        let (clean, rules) = masked(line, true);
        let read: serde_json::Value = serde_json::from_str(&clean).unwrap_or_default();
        assert_eq!(rules, [R::Bearer, R::CardNumber, R::CardNumber, R::Email]);
        assert_eq!(read["msg"], "a \"quoted\" word\nBearer [redacted]");
        assert_eq!(read["pan"], "[redacted]");
        assert_eq!(read["ok"], 1);
    }

    #[test]
    fn a_named_value_is_found_through_the_quotes_of_json() {
        let line = r#"{"paymentKey":"an-opaque-key","n":"{\"accountNumber\":\"110-123-456789\",\"holder\":1}","account":110123456789,"ok":1}"#;
        let (clean, rules) = masked(line, true);
        assert_eq!(rules, [R::PaymentKey, R::Account, R::Account]);
        let read: serde_json::Value = serde_json::from_str(&clean).expect("still JSON");
        assert_eq!((&read["paymentKey"], &read["account"]), (&"[redacted]".into(), &"[redacted]".into()));
        assert_eq!(read["n"], r#"{"accountNumber":"[redacted]","holder":1}"#);
    }

    #[test]
    fn several_in_one_line_are_all_found() {
        let (clean, rules) = plain("a@b.co 4111111111111111 pgsk_abcdef a@b.co");
        assert_eq!(clean, "[redacted] [redacted] pgsk_[redacted] [redacted]");
        assert_eq!(rules, [R::Email, R::CardNumber, R::ApiKey, R::Email]);
    }
}
