//! All problems of one file, as people and as programs read them.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, renderer::DecorStyle};
use serde::Serialize;
use toml::de::{DeTable, DeValue};

use super::problem::{Code, Problem, Problems, Severity};
use super::raw::Span;

/// What is wrong with a file, or remarkable about it. Its `Display` is the rendering without colours.
///
/// *Shape*: sorted by place. *Cost*: keeps the text as long as it has problems to show in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    file: String,
    text: Arc<str>,
    /// Where each line but the first begins.
    lines: Vec<usize>,
    problems: Vec<Problem>,
    omitted: usize,
}

/// Where a problem is. Lines and columns count from 1, columns in characters; the end is the last character's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First line.
    pub line: usize,
    /// First column.
    pub column: usize,
    /// Last line.
    pub end_line: usize,
    /// Last column.
    pub end_column: usize,
}

/// One entry of `check --json`.
#[derive(Serialize)]
struct Entry<'a> {
    code: &'static str,
    severity: &'static str,
    file: &'a str,
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
    key: String,
    message: &'a str,
    help: Option<&'a str>,
}

impl Report {
    pub(super) fn new(file: &str, text: &str, problems: Problems) -> Self {
        let Problems { list: mut problems, omitted, .. } = problems;
        for problem in &mut problems {
            problem.span = problem.span.take().map(|span| within(text, span));
            problem.related = problem.related.take().map(|(span, label)| (within(text, span), label));
        }
        problems.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
        let text = if problems.is_empty() { "" } else { text };
        let lines = text.match_indices('\n').map(|(newline, _)| newline + 1).collect();
        Self { file: file.into(), text: text.into(), lines, problems, omitted }
    }

    /// The file's name, as it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The problems, in the order of the text.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many more there are than are listed.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// Where a problem of this report is; one about the file as a whole is at its beginning.
    pub fn place(&self, problem: &Problem) -> Place {
        let span = problem.span.clone().unwrap_or(0..0);
        let (line, column) = self.line_and_column(span.start);
        let (end_line, end_column) = match span.is_empty() {
            true => (line, column),
            false => self.line_and_column(last_char(&self.text, &span)),
        };
        Place { line, column, end_line, end_column }
    }

    /// The rendering for people, with the lines in question.
    pub fn render(&self, colours: bool) -> String {
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
        let mut out = String::new();
        for problem in &self.problems {
            out.push_str(&renderer.render(&[self.group(problem)]));
            out.push_str("\n\n");
        }
        if self.omitted > 0 {
            out.push_str(&format!("and {} more\n\n", self.omitted));
        }
        out
    }

    /// The rendering for programs: a JSON list with one entry for each problem.
    pub fn json(&self) -> serde_json::Value {
        let keys = keys(&self.text, self.problems.iter().filter_map(|problem| problem.span.clone()));
        let entries = self.problems.iter().map(|problem| {
            let Place { line, column, end_line, end_column } = self.place(problem);
            serde_json::json!(Entry {
                code: problem.code.as_str(),
                severity: problem.code.severity().as_str(),
                file: &self.file,
                line,
                column,
                end_line,
                end_column,
                key: problem.span.as_ref().and_then(|span| keys.get(span)).cloned().unwrap_or_default(),
                message: &problem.message,
                help: problem.help.as_deref(),
            })
        });
        entries.collect()
    }

    fn line_and_column(&self, at: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|&start| start <= at);
        let start = if line == 0 { 0 } else { self.lines[line - 1] };
        (line + 1, self.text[start..at].chars().count() + 1)
    }

    fn group<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let level = match problem.code.severity() {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(&*problem.message).id(problem.code.as_str()));
        if !matches!(problem.code, Code::Unreadable | Code::TooLarge) {
            group = match self.excerpt(problem) {
                Some(snippet) => group.element(snippet),
                None => group.element(annotate_snippets::Origin::path(&*self.file).line(self.place(problem).line)),
            };
        }
        group.elements(problem.help.as_deref().map(|help| Level::HELP.message(help)))
    }

    /// The lines of a problem and of its second place, or nothing when they are too many to show.
    fn excerpt<'a>(&'a self, problem: &'a Problem) -> Option<Snippet<'a, annotate_snippets::Annotation<'a>>> {
        let span = problem.span.clone()?;
        let related = problem.related.as_ref();
        let start = related.map_or(span.start, |(other, _)| other.start.min(span.start));
        let end = related.map_or(span.end, |(other, _)| other.end.max(span.end));
        let lines = whole_lines(&self.text, start..end);
        if lines.len() > EXCERPT_BYTES {
            return None;
        }
        let shifted = |span: &Span| span.start - lines.start..span.end - lines.start;
        let second = related.map(|(other, label)| AnnotationKind::Context.span(shifted(other)).label(&**label));
        Some(
            Snippet::source(&self.text[lines.clone()])
                .path(&*self.file)
                .line_start(self.line_and_column(lines.start).0)
                .annotation(AnnotationKind::Primary.span(shifted(&span)))
                .annotations(second),
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

/// A span moved onto character boundaries inside the text, so that no slice of it can fail.
fn within(text: &str, span: Span) -> Span {
    let start = text.floor_char_boundary(span.start);
    start..text.ceil_char_boundary(span.end).max(start)
}

fn last_char(text: &str, span: &Span) -> usize {
    text[span.clone()].char_indices().next_back().map_or(span.start, |(at, _)| span.start + at)
}

fn whole_lines(text: &str, span: Span) -> Range<usize> {
    let start = text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[span.end..].find('\n').map_or(text.len(), |newline| span.end + newline);
    start..end
}

/// The key path of each place, such as `listener[0].idle_timeout`. Looked up here, once, so that the passes over a
/// file need not carry paths along.
fn keys(text: &str, spans: impl Iterator<Item = Span>) -> HashMap<Span, String> {
    let mut found: HashMap<Span, String> = spans.map(|span| (span, String::new())).collect();
    if found.is_empty() {
        return found;
    }
    let (table, _) = DeTable::parse_recoverable(text);
    visit_table(table.get_ref(), "", &mut found);
    found
}

fn visit_table(table: &DeTable<'_>, path: &str, found: &mut HashMap<Span, String>) {
    for (key, value) in table.iter() {
        let dot = if path.is_empty() { "" } else { "." };
        let path = format!("{path}{dot}{}", key.get_ref());
        for span in [key.span(), value.span()] {
            found.entry(span).and_modify(|known| *known = path.clone());
        }
        visit_value(value.get_ref(), &path, found);
    }
}

fn visit_value(value: &DeValue<'_>, path: &str, found: &mut HashMap<Span, String>) {
    match value {
        DeValue::Table(table) => visit_table(table, path, found),
        DeValue::Array(array) => {
            for (index, item) in array.iter().enumerate() {
                let path = format!("{path}[{index}]");
                found.entry(item.span()).and_modify(|known| *known = path.clone());
                visit_value(item.get_ref(), &path, found);
            }
        }
        _ => {}
    }
}

/// The longest stretch of text that is rendered for one problem.
const EXCERPT_BYTES: usize = 32 << 10;
