//! How many lines of code a folder has: without blank lines, comments and tests.

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files that are counted apart: they are optional parts of the kernel.
const APART: [&str; 2] = ["smmu", "recorder"];

/// Lines of code in the Rust and assembly files below `folder`.
pub fn count(folder: &Path) -> Result<u64> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    let mut texts = Vec::new();
    let mut tests = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).map_err(|cause| Error::io("read", &file, &cause))?;
        tests.extend(test_modules(&text).iter().map(|name| module_folder(&file).join(name)));
        texts.push((file, text));
    }
    let counts = texts.iter().filter(|(file, _)| {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let in_tests = tests.iter().any(|module| file.with_extension("").starts_with(module));
        !in_tests && !APART.iter().any(|apart| stem.starts_with(apart))
    });
    Ok(counts.map(|(_, text)| count_text(text)).sum())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|cause| Error::io("read", folder, &cause))?;
    for entry in entries.filter_map(std::result::Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "s" || extension == "S") {
            files.push(path);
        }
    }
    Ok(())
}

/// The folder that modules declared in `file` lie in.
fn module_folder(file: &Path) -> PathBuf {
    match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("lib" | "main" | "mod") | None => file.parent().unwrap_or(Path::new("")).to_path_buf(),
        Some(_) => file.with_extension(""),
    }
}

/// Modules in files of their own that exist for tests only.
fn test_modules(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut after_attribute = false;
    for line in text.lines().map(str::trim) {
        let module = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
        if let Some(name) = module.filter(|_| after_attribute) {
            names.push(name.to_string());
        }
        after_attribute = line == "#[cfg(test)]" || (after_attribute && line.starts_with("#["));
    }
    names
}

/// Lines of code in one file.
pub fn count_text(text: &str) -> u64 {
    let mut lines = 0;
    let mut in_comment = false;
    let mut test = Test::No;
    for line in text.lines().map(str::trim) {
        let code = without_comments(line, &mut in_comment);
        let code = code.trim();
        if code.is_empty() {
            continue;
        }
        test = test.after(code);
        if matches!(test, Test::No) {
            lines += 1;
        }
        if matches!(test, Test::Ends) {
            test = Test::No;
        }
    }
    lines
}

/// Where a line stands with respect to what is compiled for tests only.
#[derive(Clone, Copy)]
enum Test {
    /// Outside.
    No,
    /// Behind the attribute, before the braces, inside so many parentheses.
    Begins(i64),
    /// Inside so many braces.
    Inside(i64),
    /// Its last line.
    Ends,
}

impl Test {
    fn after(self, code: &str) -> Test {
        let balance = |open, close| code.matches(open).count() as i64 - code.matches(close).count() as i64;
        let braces = balance('{', '}');
        match self {
            Test::No if code.starts_with("#[cfg(test)]") => Test::Begins(0),
            Test::No | Test::Ends => Test::No,
            Test::Begins(_) if code.starts_with("#[") => self,
            Test::Begins(_) if braces > 0 => Test::Inside(braces),
            Test::Begins(parentheses) => {
                let parentheses = parentheses + balance('(', ')');
                let complete = parentheses == 0 && code.ends_with([';', '}', ',']);
                if complete { Test::Ends } else { Test::Begins(parentheses) }
            }
            Test::Inside(depth) if depth + braces <= 0 => Test::Ends,
            Test::Inside(depth) => Test::Inside(depth + braces),
        }
    }
}

fn without_comments<'a>(line: &'a str, in_comment: &mut bool) -> &'a str {
    if *in_comment {
        return match line.split_once("*/") {
            None => "",
            Some((_, rest)) => {
                *in_comment = false;
                without_comments(rest, in_comment)
            }
        };
    }
    if line.starts_with("//") {
        return "";
    }
    match line.strip_prefix("/*") {
        None => line,
        Some(rest) => {
            *in_comment = true;
            without_comments(rest, in_comment)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_comments_and_tests_do_not_count() {
        let text = "//! Subject.\n\nuse a;\n/* one\n two */\nfn f() {\n    // why\n    g(); // here\n}\n\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\nfn h() {}\n";
        assert_eq!(count_text(text), 5);
    }

    #[test]
    fn single_items_for_tests_do_not_count() {
        assert_eq!(count_text("#[cfg(test)]\nuse proptest;\nfn f() {}\n"), 1);
        assert_eq!(count_text("#[cfg(test)]\n#[derive(Debug)]\nfn t(\n    a: u8,\n) {\n    x();\n}\nfn f() {}\n"), 1);
    }

    #[test]
    fn modules_for_tests_in_files_of_their_own_are_found() {
        assert_eq!(test_modules("mod a;\n#[cfg(test)]\nmod model;\n#[cfg(test)]\nmod tests {}\n"), ["model"]);
    }
}
