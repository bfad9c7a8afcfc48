//! What `tidy` looks for in names and plain text: words that say nothing,
//! paths of one machine, and links of Markdown documents.

const NAMES_THAT_SAY_NOTHING: &[&str] =
    &["common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"];

pub fn says_nothing(path: &str) -> bool {
    let words = path.split(|c: char| !c.is_alphanumeric());
    words.map(str::to_lowercase).any(|word| NAMES_THAT_SAY_NOTHING.contains(&word.as_str()))
}

pub fn machine_paths(text: &str) -> Vec<(usize, String)> {
    // Written in halves, so that this file does not find itself.
    let roots = [concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (at, place) in roots.iter().flat_map(|place| line.match_indices(place)) {
            let before = line[..at].chars().next_back();
            let belongs_to_longer = before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}'));
            let rest: String = line[at..].chars().take_while(|c| !c.is_whitespace() && *c != '"').collect();
            if !belongs_to_longer && rest.len() > place.len() {
                found.push((number + 1, rest));
            }
        }
    }
    found
}

/// The files a Markdown text links to, with their lines; not what is elsewhere and not what is in code.
pub fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect();
        for (opens, closes) in [("](", ')'), ("]: ", ' '), ("src=\"", '"'), ("href=\"", '"')] {
            for (at, _) in prose.match_indices(opens) {
                let rest = &prose[at + opens.len()..];
                let target = rest.split([closes, ' ', '#', '?']).next().unwrap_or_default().trim_matches(['<', '>']);
                if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                    found.push((number + 1, target.to_owned()));
                }
            }
        }
    }
    found
}

#[test]
fn names_paths_and_links_are_found() {
    assert!(says_nothing("src/db/pool_manager.rs") && says_nothing("tests/it/helpers/mod.rs"));
    assert!(!says_nothing("src/payments/commonplace.rs"));
    let place = concat!("/ho", "me/someone/x");
    assert_eq!(machine_paths(&format!("a\nsee \"{place}\" and https://a.example{place}")), [(2, place.to_owned())]);
    let text = "[a](docs/a.md#b) [c](https://c.example) `[d](e)`\n```\n[f](g)\n```\n![h](<i.png> \"j\")\n[k]: l.md";
    let found: Vec<(usize, String)> = links(text);
    assert_eq!(found, [(1, "docs/a.md"), (5, "i.png"), (6, "l.md")].map(|(line, path)| (line, path.to_owned())));
}
