//! As much of SQL as the rule "every constraint and index has a name" needs.
//! Called by `tidy` alone. It knows the statements that create and alter
//! tables, domains and indexes, and passes over everything else.

/// What has no name in a migration: its line and the words it begins with.
pub fn unnamed(source: &str) -> Vec<(usize, String)> {
    let words = words(source);
    let mut found = Vec::new();
    for statement in words.split(|(_, word)| word == ";") {
        let starts: Vec<&str> = statement.iter().take(4).map(|(_, word)| word.as_str()).collect();
        let is_of = |verb: &str, noun: &str| starts.first() == Some(&verb) && starts.contains(&noun);
        if is_of("create", "index") {
            found.extend(unnamed_index(statement));
        } else if is_of("create", "table") {
            items(statement, 1).iter().for_each(|item| found.extend(unnamed_constraints(item)));
        } else if is_of("alter", "table") || is_of("create", "domain") || is_of("alter", "domain") {
            items(statement, 0).iter().for_each(|item| found.extend(unnamed_constraints(item)));
        }
    }
    found
}

type Word = (usize, String);

/// Lower-case words and signs with their lines, without comments, strings and function bodies.
fn words(source: &str) -> Vec<Word> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '\'' {
            rest[1..].find('\'').map_or(rest.len(), |end| end + 2)
        } else if let Some(tag) = dollar_tag(rest) {
            rest[tag.len()..].find(tag).map_or(rest.len(), |end| end + 2 * tag.len())
        } else if first == '"' || first == '_' || first.is_alphanumeric() {
            let is_part = |c: char| c == '"' || c == '_' || c.is_alphanumeric();
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            found.push((line, rest[..end].to_lowercase()));
            end
        } else {
            if !first.is_whitespace() {
                found.push((line, first.to_string()));
            }
            first.len_utf8()
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    found
}

/// `$$` or `$name$`.
fn dollar_tag(text: &str) -> Option<&str> {
    let name = text.strip_prefix('$')?;
    let end = name.find('$')?;
    name[..end].chars().all(|c| c == '_' || c.is_alphabetic()).then(|| &text[..end + 2])
}

fn unnamed_index(statement: &[Word]) -> Option<Word> {
    let modifiers = ["index", "concurrently", "if", "not", "exists"];
    let mut rest = statement.iter().skip_while(|(_, word)| word != "index");
    let name = rest.find(|(_, word)| !modifiers.contains(&word.as_str()))?;
    (name.1 == "on").then(|| (statement[0].0, "create index on".to_owned()))
}

/// The words at one depth of brackets, taken apart at its commas.
fn items(statement: &[Word], depth: usize) -> Vec<Vec<Word>> {
    let mut found = vec![Vec::new()];
    let mut at = 0_usize;
    for word in statement {
        match word.1.as_str() {
            "(" => at += 1,
            ")" => at = at.saturating_sub(1),
            "," if at == depth => found.push(Vec::new()),
            _ if at == depth => found.last_mut().into_iter().for_each(|item| item.push(word.clone())),
            _ => {}
        }
    }
    found
}

fn unnamed_constraints(item: &[Word]) -> Vec<Word> {
    let word = |index: usize| item.get(index).map_or("", |(_, word)| word.as_str());
    let mut found = Vec::new();
    for (index, (line, text)) in item.iter().enumerate() {
        let begins = match text.as_str() {
            "check" | "unique" | "exclude" => true,
            "primary" | "foreign" => word(index + 1) == "key",
            // The second half of a foreign key has the name of the first.
            "references" => !item[..index].iter().any(|(_, earlier)| earlier == "foreign"),
            _ => false,
        };
        if begins && (index < 2 || word(index - 2) != "constraint") {
            found.push((*line, text.clone()));
        }
    }
    found
}

#[test]
fn a_constraint_or_an_index_without_a_name_is_found() {
    let source = "create table a (\n  id uuid primary key, -- check (no)\n  b int not null check (b > 0),\n\
        c uuid references d (id),\n  unique (b, c),\n  foreign key (c) references d (id)\n);\n\
        create unique index if not exists on a (b);\nalter table a add check (b < 9), add constraint x unique (c);";
    let found: Vec<String> = unnamed(source).into_iter().map(|(line, what)| format!("{line} {what}")).collect();
    let expected = ["2 primary", "3 check", "4 references", "5 unique", "6 foreign", "8 create index on", "9 check"];
    assert_eq!(found, expected);
}

#[test]
fn what_has_a_name_passes() {
    let source = "create function f() returns trigger as $x$ begin check (1); end $x$;\n\
        create table a (id uuid constraint a_pkey primary key, b text default 'check (x)',\n\
        constraint a_fkey foreign key (b) references d (id) on delete cascade,\n\
        constraint a_b check (b is null or unique_b(b)));\ncreate index a_by_b on a (b);";
    assert_eq!(unnamed(source), []);
}
