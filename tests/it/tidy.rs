//! The habits of the source tree as claims: which way imports point, how long
//! a function and a file may be, what every file, migration and document has.
//! It reads files and runs none of the product's code.
//!
//! A rule that does not fit is changed here, with its reason, in the commit
//! that needs it. The lists of what is still too long only ever shrink.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use self::documents::{links, machine_paths, says_nothing};
use self::tree::{Source, root, rust_files, tracked};

mod documents;
mod rust;
mod sql;
mod tree;

const MOST_LINES_OF_A_FILE: usize = 450;
const MOST_LINES_OF_A_FUNCTION: usize = 70;

/// Files that were longer when the rule came, with their length.
const LONG_FILES: &[(&str, usize)] = &[];

/// Functions (`file::name`) that were longer when the rule came, with their length.
const LONG_FUNCTIONS: &[(&str, usize)] = &[];

/// The picture of the design: everything may import what stands further down, nothing of its own row or above.
/// `main` and `lib` put the pieces together and are free.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["load"],
    &["dev"],
    &["serve"],
    &["http", "worker"],
    &["payments"],
    &["app"],
    &["config"],
    &["queues"],
    &["db", "provider", "limits", "cache"],
    &["news"],
    &["redis"],
    &["crash"],
    &["telemetry", "clock"],
    &["domain"],
];

/// The pieces that know nothing of the world outside.
const PURE: &str = "domain";
const WORLD: &[&str] = &["axum", "diesel", "diesel_async", "reqwest", "tokio", "tokio_postgres"];

/// `file` may name `path` although a rule forbids it.
struct Exception {
    file: &'static str,
    path: &'static str,
    #[expect(dead_code, reason = "for the reader of the list")]
    reason: &'static str,
}

const IMPORT_EXCEPTIONS: &[Exception] = &[Exception {
    file: "src/provider/call.rs",
    path: "crate::db::holds_connection",
    reason: "asserts that no connection is held during a PG call",
}];

const ENVIRONMENT: &[&str] = &["env::var", "env::vars", "env::var_os", "env::vars_os", "env::set_var"];
const TIME: &[&str] = &["SystemTime::now", "Utc::now", "Local::now"];

/// Who may read the environment and the system's clock.
const SYSTEM_EXCEPTIONS: &[Exception] = &[
    Exception { file: "src/config.rs", path: "env::", reason: "the one reader of settings" },
    Exception { file: "src/dev/postgres/build.rs", path: "env::", reason: "cargo speaks to a build script that way" },
    Exception { file: "src/clock.rs", path: "Utc::now", reason: "the one reader of the clock" },
    Exception { file: "src/telemetry/", path: "Utc::now", reason: "a log line has the time it was written at" },
    Exception {
        file: "src/telemetry/",
        path: "SystemTime::now",
        reason: "an exemplar has the time it was measured at",
    },
];

#[test]
fn imports_only_point_to_the_right() {
    let sources = rust_files(&["src"]);
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for (source, tokens) in product_code(&sources) {
        let found = wrong_imports(&source.path, &rust::paths(&tokens));
        wrong.extend(excused(&source.path, IMPORT_EXCEPTIONS, found, &mut used));
    }
    wrong.extend(unused(IMPORT_EXCEPTIONS, &used));
    none(wrong, "imports against the layers");
}

#[test]
fn only_config_reads_the_environment_and_only_clock_asks_the_time() {
    let sources = rust_files(&["src"]);
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for (source, tokens) in product_code(&sources).into_iter().filter(|(source, _)| source.path != "src/main.rs") {
        let found = system_calls(&rust::paths(&tokens));
        wrong.extend(excused(&source.path, SYSTEM_EXCEPTIONS, found, &mut used));
    }
    wrong.extend(unused(SYSTEM_EXCEPTIONS, &used));
    none(wrong, "uses of the environment or the clock");
}

#[test]
fn a_file_fits_a_look_and_a_function_a_screen() {
    let sources = rust_files(&["src", "pg-mock/src"]);
    let files = sources.iter().map(|source| Length::new(&source.path, 1, source.text.lines().count(), &source.path));
    let mut wrong = too_long(files.collect(), MOST_LINES_OF_A_FILE, LONG_FILES);
    let functions = sources.iter().flat_map(|source| {
        let of = |function: rust::Function| {
            let name = format!("{}::{}", source.path, function.name);
            Length::new(&source.path, function.line, function.lines, &name)
        };
        rust::functions(&rust::tokens(&source.text)).into_iter().map(of)
    });
    wrong.extend(too_long(functions.collect(), MOST_LINES_OF_A_FUNCTION, LONG_FUNCTIONS));
    none(wrong, "lengths");
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    let silent = rust_files(&["src", "pg-mock/src"]).into_iter().filter(|source| !source.text.starts_with("//! "));
    none(silent.map(|source| format!("{}:1 has no `//!`", source.path)).collect(), "files that do not say");
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    none(tracked().into_iter().filter(|path| says_nothing(path)).collect(), "names");
}

#[test]
fn every_migration_can_go_back_and_names_its_rules() {
    let mut wrong = Vec::new();
    let migrations = fs::read_dir(root().join("migrations")).expect("the migrations are there");
    for migration in migrations.map(|entry| entry.expect("a directory entry").path()) {
        let name = migration.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for half in ["up.sql", "down.sql"] {
            match fs::read_to_string(migration.join(half)) {
                Ok(text) if text.trim().is_empty() => wrong.push(format!("migrations/{name}/{half} is empty")),
                Ok(text) => {
                    let unnamed = sql::unnamed(&text).into_iter();
                    wrong.extend(unnamed.map(|(line, what)| format!("migrations/{name}/{half}:{line} {what}")));
                }
                Err(error) => wrong.push(format!("migrations/{name}/{half}: {error}")),
            }
        }
    }
    none(wrong, "migrations");
}

#[test]
fn no_tracked_file_names_a_place_on_one_machine() {
    let mut wrong = Vec::new();
    for path in tracked() {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        wrong.extend(machine_paths(&text).into_iter().map(|(line, found)| format!("{path}:{line} {found}")));
    }
    none(wrong, "paths of one machine");
}

#[test]
fn links_between_documents_lead_to_files() {
    let is_document = |path: &String| path == "README.md" || (path.starts_with("docs/") && path.ends_with(".md"));
    let mut wrong = Vec::new();
    for path in tracked().into_iter().filter(is_document) {
        let text = fs::read_to_string(root().join(&path)).expect("a document is text");
        let directory = Path::new(&path).parent().unwrap_or(Path::new("")).to_owned();
        for (line, target) in links(&text) {
            let from_root = target.strip_prefix('/').map(PathBuf::from);
            if !root().join(from_root.unwrap_or_else(|| directory.join(&target))).exists() {
                wrong.push(format!("{path}:{line} {target}"));
            }
        }
    }
    none(wrong, "links that lead nowhere");
}

/// Statements that lock rows: what marks them in diesel's words and in SQL.
const LOCKING: &[&str] = &["diesel :: update (", "diesel :: delete (", ". for_update (", ". on_conflict"];
/// What says which rows are locked.
const SAYS: &[&str] = &["locks :: takes (", "locks :: took_free (", "locks :: belongs_to ("];

/// The functions of a file that lock rows and do not say so.
fn silent_locks(source: &str) -> Vec<(usize, String)> {
    let (tokens, _) = rust::without_tests(&rust::tokens(source));
    let mut found = Vec::new();
    for function in rust::functions(&tokens) {
        let inside = |token: &&rust::Token| (function.line..function.line + function.lines).contains(&token.line);
        let words: Vec<&str> = tokens.iter().filter(inside).map(|token| token.text.as_str()).collect();
        let text = words.join(" ").replace(": :", "::");
        // Strings are no tokens, so SQL is looked for in the lines themselves.
        let lines: String = source.lines().skip(function.line - 1).take(function.lines).collect();
        let in_sql = ["\"update ", "\"delete ", "for update"].iter().any(|words| lines.contains(words));
        let locks = in_sql || LOCKING.iter().any(|words| text.contains(words));
        if locks && !SAYS.iter().any(|words| text.contains(words)) {
            found.push((function.line, function.name));
        }
    }
    found
}

#[test]
fn statements_that_lock_say_so() {
    let mut wrong = Vec::new();
    for path in tracked().into_iter().filter(|path| path.starts_with("src/db/") && path.ends_with(".rs")) {
        let text = fs::read_to_string(root().join(&path)).expect("a source");
        wrong.extend(silent_locks(&text).into_iter().map(|(line, name)| format!("{path}:{line} {name}")));
    }
    none(wrong, "statements that lock rows and note nothing in db::locks");
    let source = "fn a() { diesel::update(x) }\nfn b() { locks::takes(r, i); diesel::delete(x) }\n\
        fn c() { x.for_update() }\nfn d() { sql(\"delete from x\") }\nfn e() { x.load() }";
    let found: Vec<String> = silent_locks(source).into_iter().map(|(_, name)| name).collect();
    assert_eq!(found, ["a", "c", "d"]);
}

#[track_caller]
fn none(wrong: Vec<String>, what: &str) {
    let list: String = wrong.iter().map(|line| format!("\n  {line}")).collect();
    assert!(wrong.is_empty(), "{} {what}:{list}", wrong.len());
}

/// Each file's words without its tests; files that are only compiled for tests are left out.
fn product_code(sources: &[Source]) -> Vec<(&Source, Vec<rust::Token>)> {
    let mut tests = Vec::new();
    let mut code = Vec::new();
    for source in sources {
        let (tokens, modules) = rust::without_tests(&rust::tokens(&source.text));
        let beside = module_directory(&source.path);
        tests.extend(modules.into_iter().flat_map(|name| [format!("{beside}{name}.rs"), format!("{beside}{name}/")]));
        code.push((source, tokens));
    }
    code.retain(|(source, _)| !tests.iter().any(|test| source.path.starts_with(test.as_str())));
    code
}

/// Where the files of the modules are that a file declares, with the slash.
fn module_directory(path: &str) -> String {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    match stem.rsplit_once('/') {
        Some((directory, "mod" | "lib" | "main")) => format!("{directory}/"),
        _ => format!("{stem}/"),
    }
}

/// Something a rule forbids: where, the path as named, and why.
struct Finding {
    line: usize,
    named: String,
    why: String,
}

fn wrong_imports(file: &str, paths: &[rust::Path]) -> Vec<Finding> {
    let modules = module_directory(file);
    let modules: Vec<&str> = modules.split('/').filter(|part| !part.is_empty()).skip(1).collect();
    let Some(own) = modules.first() else { return Vec::new() };
    if *own == "main" {
        return Vec::new();
    }
    let finding = |path: &rust::Path, why: String| Finding { line: path.line, named: path.segments.join("::"), why };
    let mut found = Vec::new();
    for path in paths {
        let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
        let ups = segments.iter().take_while(|segment| **segment == "super").count();
        let target = match segments.first() {
            Some(&"crate") => segments.get(1),
            Some(&"super") if ups == modules.len() => segments.get(ups),
            Some(first) if *own == PURE && WORLD.contains(first) => {
                found.push(finding(path, format!("{PURE} knows nothing of {first}")));
                None
            }
            _ => None,
        };
        let Some(target) = target.filter(|target| *target != own) else { continue };
        match (layer(own), layer(target)) {
            (None, _) => found.push(finding(path, format!("{own} has no layer: give it one in LAYERS"))),
            (_, None) => found.push(finding(path, format!("{target} has no layer: give it one in LAYERS"))),
            (Some(from), Some(to)) if from >= to => {
                found.push(finding(path, format!("{own} must not import {target}")));
            }
            (Some(_), Some(_)) => {}
        }
    }
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn system_calls(paths: &[rust::Path]) -> Vec<Finding> {
    let forbidden = |path: &rust::Path| {
        let pairs = path.segments.windows(2).map(|pair| pair.join("::"));
        let named =
            pairs.into_iter().find(|pair| ENVIRONMENT.contains(&pair.as_str()) || TIME.contains(&pair.as_str()));
        named.map(|named| Finding { line: path.line, named, why: "not here".to_owned() })
    };
    paths.iter().filter_map(forbidden).collect()
}

/// The findings that no exception covers, as lines of a report.
fn excused<'a>(
    file: &'a str,
    exceptions: &'a [Exception],
    findings: Vec<Finding>,
    used: &'a mut BTreeSet<usize>,
) -> impl Iterator<Item = String> + 'a {
    findings.into_iter().filter_map(move |Finding { line, named, why }| {
        let covers = |exception: &Exception| file.starts_with(exception.file) && named.starts_with(exception.path);
        match exceptions.iter().position(covers) {
            Some(index) => {
                used.insert(index);
                None
            }
            None => Some(format!("{file}:{line} {named}: {why}")),
        }
    })
}

fn unused(exceptions: &[Exception], used: &BTreeSet<usize>) -> Vec<String> {
    let stale = exceptions.iter().enumerate().filter(|(index, _)| !used.contains(index));
    stale.map(|(_, exception)| format!("{} {}: this exception is not needed", exception.file, exception.path)).collect()
}

struct Length {
    place: String,
    name: String,
    lines: usize,
}

impl Length {
    fn new(file: &str, line: usize, lines: usize, name: &str) -> Self {
        Self { place: format!("{file}:{line}"), name: name.to_owned(), lines }
    }
}

fn too_long(lengths: Vec<Length>, most: usize, known: &[(&str, usize)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, _) in known.iter().filter(|(name, _)| !lengths.iter().any(|length| length.name == *name)) {
        wrong.push(format!("{name} is gone: take it off the list"));
    }
    for Length { place, name, lines } in lengths {
        match known.iter().find(|(known, _)| *known == name) {
            None if lines > most => wrong.push(format!("{place} {name} has {lines} lines, {most} are allowed")),
            Some(_) if lines <= most => wrong.push(format!("{place} {name} fits: take it off the list")),
            Some((_, before)) if lines > *before => {
                wrong.push(format!("{place} {name} grew from {before} to {lines} lines"));
            }
            Some((_, before)) if lines < *before => {
                wrong.push(format!("{place} {name} shrank from {before} to {lines} lines: write that down"));
            }
            None | Some(_) => {}
        }
    }
    wrong
}

#[cfg(test)]
mod the_rules_bite {
    use super::*;

    fn imports(file: &str, source: &str) -> Vec<String> {
        let (tokens, _) = rust::without_tests(&rust::tokens(source));
        wrong_imports(file, &rust::paths(&tokens)).into_iter().map(|finding| finding.named).collect()
    }

    #[test]
    fn an_import_to_the_left_is_found_in_every_spelling() {
        let source = "use crate::{domain::Money, http::{self, problem::Problem}};\nfn f() { crate::worker::run() }\n\
            use super::super::payments; #[cfg(test)] mod tests { use crate::dev; } // crate::dev::x\n";
        let found = ["crate::http::self", "crate::http::problem::Problem", "crate::worker::run"];
        assert_eq!(imports("src/db/orders.rs", source)[..3], found);
        assert_eq!(imports("src/db/orders.rs", source)[3..], ["super::super::payments"]);
        assert_eq!(imports("src/db/mod.rs", "use super::provider::call;"), ["super::provider::call"]);
        assert_eq!(imports("src/domain/money.rs", "use diesel::sql_types; use crate::clock;").len(), 2);
        assert_eq!(imports("src/telemetry/logs.rs", "use crate::http; use axum::Router;"), ["crate::http"]);
        assert_eq!(imports("src/novelty.rs", "use crate::domain::Money;"), ["crate::domain::Money"]);
        assert_eq!(imports("src/http/mod.rs", "use crate::*;"), ["crate::*"]);
    }

    #[test]
    fn an_import_to_the_right_passes() {
        let source =
            "use crate::{db::{self, orders}, provider::call, domain::Money}; use super::view; use super::super::db;";
        assert_eq!(imports("src/payments/order.rs", source), [""; 0]);
        assert_eq!(imports("src/main.rs", "use crate::dev;"), [""; 0]);
    }

    #[test]
    fn the_system_is_found_behind_every_import() {
        let source =
            "use std::env::{self, var}; fn f() { env::var_os(\"X\"); chrono::Utc::now(); x.unwrap_or_else(Utc::now) }";
        let found: Vec<String> =
            system_calls(&rust::paths(&rust::tokens(source))).into_iter().map(|finding| finding.named).collect();
        assert_eq!(found, ["env::var", "env::var_os", "Utc::now", "Utc::now"]);
    }

    #[test]
    fn the_lists_of_the_long_only_shrink() {
        let length = |lines| Length::new("a.rs", 3, lines, "a.rs::f");
        assert_eq!(too_long(vec![length(70)], 70, &[]), [""; 0]);
        assert_eq!(too_long(vec![length(71)], 70, &[]), ["a.rs:3 a.rs::f has 71 lines, 70 are allowed"]);
        assert_eq!(too_long(vec![length(80)], 70, &[("a.rs::f", 80)]), [""; 0]);
        for (now, says) in [(81, "grew"), (79, "shrank"), (70, "fits")] {
            assert!(too_long(vec![length(now)], 70, &[("a.rs::f", 80)])[0].contains(says), "{now}");
        }
        assert!(too_long(vec![], 70, &[("a.rs::f", 80)])[0].contains("gone"));
    }
}
