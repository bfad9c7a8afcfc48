//! As much of Rust as the layout rules need: words without comments and
//! strings, the paths they name, and where functions begin and end. Called by
//! `tidy` alone. It does not expand macros and does not resolve names.

/// A word (identifier, keyword, number) or one sign of punctuation, and the line it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub line: usize,
    pub text: String,
}

/// A path as written, groups taken apart: `use a::{b, c::d}` names `a::b` and `a::c::d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub line: usize,
    pub segments: Vec<String>,
}

/// One function and the lines from its `fn` to its closing brace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    pub line: usize,
    pub name: String,
    pub lines: usize,
}

/// The words of a source text. Comments, strings, characters and lifetimes are left out.
pub fn tokens(source: &str) -> Vec<Token> {
    let text: Vec<char> = source.chars().collect();
    let at = |index: usize| text.get(index).copied().unwrap_or('\0');
    let mut found = Vec::new();
    let (mut index, mut line) = (0, 1);
    while index < text.len() {
        let start = index;
        match (at(index), at(index + 1)) {
            ('/', '/') => index = position(&text, index, |c| c == '\n'),
            ('/', '*') => index = end_of_block_comment(&text, index),
            ('"', _) => index = end_of_quoted(&text, index, '"'),
            ('\'', '\\') => index = end_of_quoted(&text, index, '\''),
            ('\'', _) if at(index + 2) == '\'' => index += 3,
            ('\'', _) => index = position(&text, index + 1, |c| !is_word(c)),
            ('r' | 'b' | 'c', _) if raw_string(&text, index).is_some() => {
                index = raw_string(&text, index).unwrap_or(text.len());
            }
            (first, _) if is_word(first) => {
                index = position(&text, index, |c| !is_word(c));
                found.push(Token { line, text: text[start..index].iter().collect() });
            }
            (first, _) => {
                index += 1;
                if !first.is_whitespace() {
                    found.push(Token { line, text: first.to_string() });
                }
            }
        }
        line += text[start..index].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn position(text: &[char], from: usize, is_end: impl Fn(char) -> bool) -> usize {
    (from..text.len()).find(|index| is_end(text[*index])).unwrap_or(text.len())
}

fn end_of_block_comment(text: &[char], start: usize) -> usize {
    let (mut index, mut depth) = (start, 0);
    while index < text.len() {
        match (text[index], text.get(index + 1)) {
            ('/', Some('*')) => (depth, index) = (depth + 1, index + 2),
            ('*', Some('/')) => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
        if depth == 0 {
            break;
        }
    }
    index.min(text.len())
}

fn end_of_quoted(text: &[char], start: usize, quote: char) -> usize {
    let mut index = start + 1;
    while index < text.len() && text[index] != quote {
        index += if text[index] == '\\' { 2 } else { 1 };
    }
    (index + 1).min(text.len())
}

/// Where the raw string ends that begins here, if one does. The letters before
/// a plain quote (`b"…"`) are left to be a word of their own.
fn raw_string(text: &[char], start: usize) -> Option<usize> {
    let r = if text[start] == 'r' { start } else { start + 1 };
    if text.get(r) != Some(&'r') {
        return None;
    }
    let open = position(text, r + 1, |c| c != '#');
    if text.get(open) != Some(&'"') {
        return None;
    }
    let hashes = open - r - 1;
    let closes = |at: usize| text[at] == '"' && text[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
    (open + 1..text.len()).find(|at| closes(*at)).map(|at| at + 1 + hashes)
}

/// The words without what is only compiled for tests, and the names of modules
/// that are declared there and live in files of their own.
pub fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let (mut kept, mut modules) = (Vec::new(), Vec::new());
    let mut index = 0;
    while index < tokens.len() {
        if !is_test_attribute(&tokens[index..]) {
            kept.push(tokens[index].clone());
            index += 1;
            continue;
        }
        let mut start = index;
        while is(tokens, start, "#") {
            start = after_brackets(tokens, start + 1);
        }
        index = end_of_item(tokens, start);
        if let [.., keyword, name, end] = &tokens[start..index]
            && keyword.text == "mod"
            && end.text == ";"
        {
            modules.push(name.text.clone());
        }
    }
    (kept, modules)
}

/// `#[cfg(test)]` and `#[cfg(all(test, …))]`; not `any` and not `not`.
fn is_test_attribute(tokens: &[Token]) -> bool {
    let starts = |wanted: &[&str]| wanted.iter().enumerate().all(|(index, text)| is(tokens, index, text));
    starts(&["#", "[", "cfg", "(", "test", ")", "]"]) || starts(&["#", "[", "cfg", "(", "all", "(", "test", ","])
}

fn is(tokens: &[Token], index: usize, text: &str) -> bool {
    tokens.get(index).is_some_and(|token| token.text == text)
}

/// The index behind the bracket that closes the one at `open`.
fn after_brackets(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

/// An item ends with its semicolon or its body; a braced value (`use`, `const`, `let`) only with the semicolon.
fn end_of_item(tokens: &[Token], start: usize) -> usize {
    let mut by_semicolon = false;
    let mut index = start;
    while index < tokens.len() {
        match tokens[index].text.as_str() {
            ";" => return index + 1,
            ")" | "]" | "}" => return index,
            "use" | "const" | "static" | "let" | "type" => by_semicolon = true,
            "fn" | "impl" | "mod" | "trait" => by_semicolon = false,
            "{" if !by_semicolon => return after_brackets(tokens, index),
            "(" | "[" | "{" => {
                index = after_brackets(tokens, index);
                continue;
            }
            _ => {}
        }
        index += 1;
    }
    tokens.len()
}

/// Every path of two segments or more.
pub fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut found = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let begins = tokens[index].text.starts_with(is_word) && colons(tokens, index + 1);
        index = if begins { path(tokens, index, &[], &mut found) } else { index + 1 };
    }
    found
}

fn colons(tokens: &[Token], index: usize) -> bool {
    is(tokens, index, ":") && is(tokens, index + 1, ":")
}

/// Reads one path, or a group of them, below `prefix`; answers where it ends.
fn path(tokens: &[Token], start: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    let mut segments = prefix.to_vec();
    let mut index = start;
    while let Some(token) = tokens.get(index) {
        if token.text == "{" && colons(tokens, index.wrapping_sub(2)) {
            return group(tokens, index, &segments, found);
        }
        if token.text != "*" && !token.text.starts_with(is_word) {
            break;
        }
        segments.push(token.text.clone());
        index += 1;
        if !colons(tokens, index) {
            break;
        }
        index += 2;
    }
    if segments.len() > 1 {
        found.push(Path { line: tokens[start].line, segments });
    }
    index.max(start + 1)
}

fn group(tokens: &[Token], open: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    let end = after_brackets(tokens, open);
    let mut index = open + 1;
    while index + 1 < end {
        let name = &tokens[index].text;
        let renamed = is(tokens, index.wrapping_sub(1), "as");
        let begins = !renamed && name != "as" && (name.starts_with(is_word) || name == "*");
        index = if begins { path(tokens, index, prefix, found) } else { index + 1 };
    }
    end
}

/// Every function with a body, the nested ones and those of traits too.
pub fn functions(tokens: &[Token]) -> Vec<Function> {
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        if token.text != "fn" || is(tokens, index + 1, "(") {
            continue;
        }
        let Some(name) = tokens.get(index + 1) else { continue };
        let mut at = index + 2;
        while at < tokens.len() && !matches!(tokens[at].text.as_str(), "{" | ";") {
            at = if matches!(tokens[at].text.as_str(), "(" | "[") { after_brackets(tokens, at) } else { at + 1 };
        }
        if is(tokens, at, "{") {
            let last = tokens[after_brackets(tokens, at) - 1].line;
            found.push(Function { line: token.line, name: name.text.clone(), lines: last - token.line + 1 });
        }
    }
    found
}

#[test]
fn comments_strings_and_characters_hide_nothing_and_add_nothing() {
    let source = "a /* x /* y */ z */ b // c\n\"d \\\" e\" r#\"f \" g\"# '\\'' '\"' 'h: i<'j> k br\"l\" b\"m\"\nn";
    let words: Vec<(usize, String)> = tokens(source).into_iter().map(|token| (token.line, token.text)).collect();
    let expected = [(1, "a"), (1, "b"), (2, ":"), (2, "i"), (2, "<"), (2, ">"), (2, "k"), (2, "b"), (3, "n")];
    assert_eq!(words, expected.map(|(line, word)| (line, word.to_owned())));
}

#[test]
fn paths_are_found_in_groups_and_in_the_middle_of_code() {
    let source = "use a::{b, c::{d as e, f::*}, self};\nfn x() -> g::h::<i::J> { (k::l)(m) }";
    let found: Vec<String> = paths(&tokens(source)).iter().map(|path| path.segments.join("::")).collect();
    assert_eq!(found, ["a::b", "a::c::d", "a::c::f::*", "a::self", "g::h", "i::J", "k::l"]);
}

#[test]
fn test_code_is_left_out_and_the_code_around_it_stays() {
    let source = "a; #[cfg(test)] #[allow(x)] mod tests; b; #[cfg(test)] use c::{d}; e; #[cfg(test)] pub fn f() { g } h\
        #[cfg(not(test))] fn i() {} #[cfg(test)] const X: [u8; 1] = { y }; j";
    let (kept, modules) = without_tests(&tokens(source));
    let words: Vec<&str> = kept.iter().map(|token| token.text.as_str()).filter(|word| word.len() == 1).collect();
    assert_eq!(modules, ["tests"]);
    assert_eq!(words.concat(), "a;b;e;h#[(())]i(){}j");
}

#[test]
fn a_function_is_as_long_as_its_lines() {
    let source = "fn a(x: fn(u8) -> u8) -> [u8; 2]\nwhere\n{\n  fn b() {}\n}\ntrait C {\n  fn d();\n}";
    let found: Vec<(String, usize)> =
        functions(&tokens(source)).into_iter().map(|function| (function.name, function.lines)).collect();
    assert_eq!(found, [("a".to_owned(), 5), ("b".to_owned(), 1)]);
}
