//! Python source that is edited in place: the tree, its tokens and lines.

mod edit;

use std::ops::Range;

use ruff_python_ast::token::{TokenKind, parenthesized_range};
use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{AnyNodeRef, Expr, ExprRef, ModModule, Stmt};
use ruff_python_parser::{Parsed, parse_module};
use ruff_text_size::{Ranged, TextRange, TextSize};
use thiserror::Error;

pub use edit::{Edit, EditError, apply};

/// Nesting beyond this is no person's code.
const MAX_NESTING: usize = 400;

/// Text beyond this size is generated.
const MAX_BYTES: usize = 4 << 20;

/// Why a file is not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unreadable {
    /// It is no Python 3.
    #[error("line {line}: {reason}")]
    Syntax {
        /// Where the parser stopped.
        line: usize,
        /// What it said.
        reason: String,
    },
    /// More nested than people write.
    #[error("nested too deeply")]
    TooDeep,
    /// Larger than people write.
    #[error("larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
}

/// A parsed module and its text.
pub(crate) struct Source<'t> {
    pub(crate) text: &'t str,
    pub(crate) parsed: Parsed<ModModule>,
    /// Start of every line.
    lines: Vec<usize>,
}

impl<'t> Source<'t> {
    /// Parses a module. To be called with much stack, see `on_deep_stack`.
    pub(crate) fn parse(text: &'t str) -> Result<Self, Unreadable> {
        if text.len() > MAX_BYTES {
            return Err(Unreadable::TooLarge);
        }
        let lines = line_starts(text);
        let parsed = parse_module(text).map_err(|error| Unreadable::Syntax {
            line: line_of(&lines, error.location.start().to_usize()),
            reason: error.error.to_string(),
        })?;
        let mut depth = Depth::default();
        depth.visit_body(parsed.suite());
        if depth.exceeded {
            return Err(Unreadable::TooDeep);
        }
        Ok(Self {
            text,
            parsed,
            lines,
        })
    }

    pub(crate) fn body(&self) -> &[Stmt] {
        self.parsed.suite()
    }

    /// Number of the line of an offset, from 1.
    pub(crate) fn line(&self, offset: TextSize) -> usize {
        line_of(&self.lines, offset.to_usize())
    }

    /// Start of the line of an offset.
    pub(crate) fn line_start(&self, offset: usize) -> usize {
        self.lines[line_of(&self.lines, offset) - 1]
    }

    /// End of the line of an offset, after its line break.
    pub(crate) fn line_end(&self, offset: usize) -> usize {
        let next = line_of(&self.lines, offset);
        self.lines.get(next).copied().unwrap_or(self.text.len())
    }

    pub(crate) fn slice(&self, node: impl Ranged) -> &'t str {
        &self.text[node.range().to_std_range()]
    }

    /// The text of an expression, fit to stand anywhere an operand may.
    pub(crate) fn operand(&self, expr: &Expr) -> String {
        let text = self.slice(expr);
        if is_atom(expr) && !text.contains(['\n', '\r']) {
            text.to_owned()
        } else {
            format!("({text})")
        }
    }

    /// The text of an expression, fit to stand alone (a value, an argument).
    pub(crate) fn alone(&self, expr: &Expr) -> String {
        let text = self.slice(expr);
        let bare = !matches!(
            expr,
            Expr::Tuple(_) | Expr::Yield(_) | Expr::YieldFrom(_) | Expr::Named(_)
        );
        if bare && !text.contains(['\n', '\r']) || text.starts_with('(') && is_atom(expr) {
            text.to_owned()
        } else {
            format!("({text})")
        }
    }

    /// Range of an expression with the parentheses around it. The parent must
    /// not bring parentheses of its own, other than a call's arguments.
    pub(crate) fn outer(&self, expr: &Expr, parent: AnyNodeRef) -> TextRange {
        parenthesized_range(ExprRef::from(expr), parent, self.parsed.tokens())
            .unwrap_or_else(|| expr.range())
    }

    /// The first token of a kind between two offsets.
    pub(crate) fn token(
        &self,
        from: TextSize,
        to: TextSize,
        wanted: impl Fn(TokenKind) -> bool,
    ) -> Option<TextRange> {
        let tokens = self.parsed.tokens();
        let first = tokens.partition_point(|t| t.start() < from);
        tokens[first..]
            .iter()
            .take_while(|t| t.end() <= to)
            .find(|t| wanted(t.kind()))
            .map(Ranged::range)
    }

    /// The tokens between two offsets, without comments: an operator's.
    pub(crate) fn between(&self, from: TextSize, to: TextSize) -> Option<TextRange> {
        let tokens = self.parsed.tokens();
        let first = tokens.partition_point(|t| t.start() < from);
        let mut inside = tokens[first..]
            .iter()
            .take_while(|t| t.end() <= to)
            .filter(|t| !t.kind().is_trivia())
            .map(Ranged::range);
        let start = inside.next()?;
        Some(inside.last().unwrap_or(start).cover(start))
    }

    /// The comments within a range of the text.
    pub(crate) fn comments(&self, within: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let comments = self.parsed.tokens().iter();
        comments
            .filter(|token| token.kind() == TokenKind::Comment)
            .map(|token| token.start().to_usize()..token.end().to_usize())
            .filter(move |range| within.start <= range.start && range.end <= within.end)
    }

    /// The lines of a statement or clause, if it shares them with no other:
    /// from the start of the first to the end of the last line.
    pub(crate) fn whole_lines(&self, range: TextRange) -> Option<Range<usize>> {
        let (start, end) = (range.start().to_usize(), range.end().to_usize());
        let first = self.line_start(start);
        let last = self.line_end(end);
        let before = &self.text[first..start];
        let after = self.text[end..last].trim();
        (before.trim().is_empty() && (after.is_empty() || after.starts_with('#')))
            .then_some(first..last)
    }

    /// White space that begins the line of an offset.
    pub(crate) fn indent(&self, offset: usize) -> &'t str {
        let line = &self.text[self.line_start(offset)..];
        &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
    }

    /// The line break that the text uses.
    pub(crate) fn line_break(&self) -> &'static str {
        if self.text.contains("\r\n") {
            "\r\n"
        } else {
            "\n"
        }
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let mut lines = vec![0];
    for (i, byte) in bytes.iter().enumerate() {
        if *byte == b'\n' || *byte == b'\r' && bytes.get(i + 1) != Some(&b'\n') {
            lines.push(i + 1);
        }
    }
    lines
}

fn line_of(lines: &[usize], offset: usize) -> usize {
    lines.partition_point(|start| *start <= offset)
}

/// Whether an expression binds as tightly as a name.
pub(crate) fn is_atom(expr: &Expr) -> bool {
    match expr {
        Expr::Tuple(tuple) => tuple.parenthesized,
        Expr::Generator(generator) => generator.parenthesized,
        Expr::StringLiteral(text) => !text.value.is_implicit_concatenated(),
        Expr::BytesLiteral(text) => !text.value.is_implicit_concatenated(),
        Expr::Name(_)
        | Expr::Attribute(_)
        | Expr::Call(_)
        | Expr::Subscript(_)
        | Expr::List(_)
        | Expr::Dict(_)
        | Expr::Set(_)
        | Expr::ListComp(_)
        | Expr::SetComp(_)
        | Expr::DictComp(_)
        | Expr::NumberLiteral(_)
        | Expr::BooleanLiteral(_)
        | Expr::NoneLiteral(_)
        | Expr::EllipsisLiteral(_) => true,
        _ => false,
    }
}

/// Names joined by dots, if the expression is nothing else.
pub(crate) fn dotted(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Name(name) => Some(name.id.to_string()),
        Expr::Attribute(attribute) => {
            Some(format!("{}.{}", dotted(&attribute.value)?, attribute.attr))
        }
        _ => None,
    }
}

/// The last name of a chain: `c` of `a().b.c`.
pub(crate) fn last_name(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Name(name) => Some(name.id.as_str()),
        Expr::Attribute(attribute) => Some(attribute.attr.as_str()),
        _ => None,
    }
}

/// Whether the statement is only there for documentation.
pub(crate) fn is_docstring(stmt: &Stmt) -> bool {
    matches!(stmt, Stmt::Expr(expr) if expr.value.is_string_literal_expr())
}

#[derive(Default)]
struct Depth {
    depth: usize,
    exceeded: bool,
}

impl Depth {
    fn deeper(&mut self, walk: impl FnOnce(&mut Self)) {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            self.exceeded = true;
        } else {
            walk(self);
        }
        self.depth -= 1;
    }
}

impl<'a> Visitor<'a> for Depth {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        self.deeper(|depth| walk_stmt(depth, stmt));
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        self.deeper(|depth| walk_expr(depth, expr));
    }
}
