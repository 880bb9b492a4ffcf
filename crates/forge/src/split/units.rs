//! A module cut into the pieces that a change can take or leave: functions,
//! methods, other statements. The pieces make up the text to the byte.

use std::collections::BTreeMap;

use ruff_python_ast::comparable::{ComparableDecorator, ComparableExpr, ComparableStmt};
use ruff_python_ast::token::TokenKind;
use ruff_python_ast::{Expr, Stmt, StmtClassDef, StmtFunctionDef};
use ruff_text_size::Ranged;

use super::names::{self, Known};
use crate::python::{Source, is_docstring};

/// A piece of a module.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    /// What it is found by in another version of the module.
    pub(super) key: String,
    /// Whether the key is a name, and not the text itself.
    pub(super) named: bool,
    /// The class that it is the head or a member of.
    pub(super) class: Option<String>,
    /// Whether it is the head of a class.
    pub(super) head: bool,
    /// Qualified name of a function or class.
    pub(super) qualname: Option<String>,
    /// Whether it is a function.
    pub(super) function: bool,
    /// Its text, with blank lines and comments before it.
    pub(super) text: String,
    /// Its lines, from 1, both included.
    pub(super) lines: (usize, usize),
    /// Names from and for others.
    pub(super) known: Known,
    /// What the program sees of it: no comments, docstrings or annotations.
    pub(super) shape: String,
    /// Its items, if it is a list that grows with the module.
    pub(super) list: Option<List>,
}

/// An import or `__all__`, item by item.
#[derive(Debug, Clone)]
pub(super) struct List {
    /// Blank lines and comments before it.
    pub(super) lead: String,
    /// Up to the first item.
    pub(super) open: &'static str,
    /// After the last.
    pub(super) close: &'static str,
    /// `from x import`, `__all__ =`.
    pub(super) head: String,
    /// Items with their names, in order.
    pub(super) items: Vec<(String, Known)>,
    /// Whether it says nothing but this.
    pub(super) plain: bool,
}

/// The pieces of a parsed module.
pub(super) fn of_module(path: &str, src: &Source<'_>) -> Vec<Unit> {
    let mut cutter = Cutter {
        path,
        src,
        done: 0,
        out: Vec::new(),
        seen: BTreeMap::new(),
    };
    cutter.body(src.body(), None);
    if cutter.done < src.text.len() {
        cutter.push(
            src.text.len(),
            "tail".into(),
            Known::default(),
            String::new(),
        );
    }
    cutter.out
}

struct Cutter<'a, 't> {
    path: &'a str,
    src: &'a Source<'t>,
    /// Up to where the text is in pieces.
    done: usize,
    out: Vec<Unit>,
    seen: BTreeMap<String, usize>,
}

impl Cutter<'_, '_> {
    fn push(&mut self, end: usize, key: String, known: Known, shape: String) -> &mut Unit {
        let nth = self.seen.entry(key.clone()).or_default();
        *nth += 1;
        let key = match *nth {
            1 => key,
            n => format!("{key}#{n}"),
        };
        let text = self.src.text[self.done..end].to_owned();
        let line = |offset: usize| {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            self.src.line(offset.into())
        };
        let lines = (line(self.done), line(end.saturating_sub(1)));
        self.done = end;
        self.out.push(Unit {
            key,
            named: true,
            class: None,
            head: false,
            qualname: None,
            function: false,
            text,
            lines,
            known,
            shape,
            list: None,
        });
        self.out.last_mut().expect("just pushed")
    }

    fn body(&mut self, body: &[Stmt], class: Option<&str>) {
        let mut at = 0;
        while at < body.len() {
            // Statements that share a line are one piece.
            let mut last = at;
            let end = loop {
                let end = self.src.line_end(body[last].end().to_usize());
                match body.get(last + 1) {
                    Some(next) if next.start().to_usize() < end => last += 1,
                    _ => break end,
                }
            };
            if last > at {
                self.several(&body[at..=last], end, class);
            } else {
                self.statement(&body[at], end, class, at == 0);
            }
            at = last + 1;
        }
    }

    fn several(&mut self, stmts: &[Stmt], end: usize, class: Option<&str>) {
        let mut known = Known::default();
        let mut shape = String::new();
        for stmt in stmts {
            let of = names::of_statement(self.path, stmt, class.is_some());
            known.brings.extend(of.brings);
            known.uses.extend(of.uses);
            known.at_import.extend(of.at_import);
            shape += &format!("{:?};", ComparableStmt::from(stmt));
        }
        let key = format!("{}several {shape}", prefix(class));
        let unit = self.push(end, key, known, shape);
        unit.named = false;
        unit.class = class.map(str::to_owned);
    }

    fn statement(&mut self, stmt: &Stmt, end: usize, class: Option<&str>, first: bool) {
        if let Stmt::ClassDef(def) = stmt
            && class.is_none()
            && self.class(def)
        {
            return;
        }
        let known = names::of_statement(self.path, stmt, class.is_some());
        let prefix = prefix(class);
        let start = self.done;
        let (key, named) = match stmt {
            Stmt::FunctionDef(def) => (format!("{prefix}def {}", def.name), true),
            Stmt::ClassDef(def) => (format!("{prefix}class {}", def.name), true),
            _ if first && is_docstring(stmt) => (format!("{prefix}docstring"), true),
            Stmt::ImportFrom(import) => {
                let dots = ".".repeat(import.level as usize);
                let module = import.module.as_ref().map_or("", |m| m.as_str());
                (format!("{prefix}from {dots}{module}"), true)
            }
            Stmt::Assign(assign) => {
                let targets = assign.targets.iter().map(|t| self.src.slice(t));
                let targets: Vec<&str> = targets.collect();
                (format!("{prefix}set {}", targets.join(" = ")), true)
            }
            Stmt::AnnAssign(assign) => {
                let target = self.src.slice(&*assign.target);
                (format!("{prefix}set {target}"), true)
            }
            Stmt::If(branch) => {
                let test = self.src.slice(&*branch.test);
                (format!("{prefix}if {test}"), true)
            }
            Stmt::Try(_) => (format!("{prefix}try"), true),
            _ => {
                let shape = format!("{:?}", ComparableStmt::from(stmt));
                (format!("{prefix}{shape}"), false)
            }
        };
        let shape = match stmt {
            Stmt::FunctionDef(def) => of_function(def),
            _ if is_docstring(stmt) => String::new(),
            _ => format!("{:?}", ComparableStmt::from(stmt)),
        };
        let list = class.is_none().then(|| self.list(stmt, start)).flatten();
        let unit = self.push(end, key, known, shape);
        unit.named = named;
        unit.class = class.map(str::to_owned);
        unit.function = stmt.is_function_def_stmt();
        unit.list = list;
        unit.qualname = match stmt {
            Stmt::FunctionDef(def) => Some(format!("{prefix}{}", def.name)),
            Stmt::ClassDef(def) => Some(format!("{prefix}{}", def.name)),
            _ => None,
        };
    }

    /// Cuts a class into head and members; not one that is on a line.
    fn class(&mut self, def: &StmtClassDef) -> bool {
        let name = def.name.as_str();
        let before = match &def.arguments {
            Some(arguments) => arguments.end(),
            None => def
                .type_params
                .as_ref()
                .map_or(def.name.end(), |params| params.end()),
        };
        let Some(first) = def.body.first() else {
            return false;
        };
        let colon = self
            .src
            .token(before, first.start(), |kind| kind == TokenKind::Colon);
        let Some(colon) = colon else { return false };
        let end = self.src.line_end(colon.start().to_usize());
        if end > first.start().to_usize() {
            return false;
        }
        let decorators: Vec<_> = def
            .decorator_list
            .iter()
            .map(ComparableDecorator::from)
            .collect();
        let bases: Vec<ComparableExpr<'_>> = def.bases().iter().map(ComparableExpr::from).collect();
        let keywords: Vec<(Option<&str>, ComparableExpr<'_>)> = def
            .keywords()
            .iter()
            .map(|k| {
                let name = k.arg.as_ref().map(|a| a.as_str());
                (name, ComparableExpr::from(&k.value))
            })
            .collect();
        let shape = format!("{name} {decorators:?} {bases:?} {keywords:?}");
        let known = names::of_class_head(self.path, def);
        let unit = self.push(end, format!("class {name}"), known, shape);
        unit.class = Some(name.to_owned());
        unit.head = true;
        unit.qualname = Some(name.to_owned());
        self.body(&def.body, Some(name));
        true
    }

    /// The items of an import or of `__all__`.
    fn list(&self, stmt: &Stmt, start: usize) -> Option<List> {
        let text = &self.src.text[stmt.range().to_std_range()];
        let lead = self.src.text[start..stmt.start().to_usize()].to_owned();
        // Comments inside would be lost.
        let plain = !text.contains('#');
        match stmt {
            Stmt::ImportFrom(import) if import.names[0].name.as_str() != "*" => {
                let dots = ".".repeat(import.level as usize);
                let module = import.module.as_ref().map_or("", |m| m.as_str());
                let items = import.names.iter().map(|alias| {
                    let mut known = Known::default();
                    known.uses.insert(names::anywhere(alias.name.as_str()));
                    known.at_import.clone_from(&known.uses);
                    let bound = names::bound(alias);
                    known.brings.insert(names::local(self.path, bound));
                    known.brings.insert(names::anywhere(bound));
                    (self.src.slice(alias).to_owned(), known)
                });
                Some(List {
                    lead,
                    open: "(",
                    close: ")",
                    head: format!("from {dots}{module} import "),
                    items: items.collect(),
                    plain,
                })
            }
            Stmt::Assign(assign) => {
                let [Expr::Name(target)] = &assign.targets[..] else {
                    return None;
                };
                if target.id.as_str() != "__all__" {
                    return None;
                }
                let (open, close, elements) = match &*assign.value {
                    Expr::List(list) => ("[", "]", &list.elts[..]),
                    Expr::Tuple(tuple) => ("(", ")", &tuple.elts[..]),
                    _ => return None,
                };
                let mut items = Vec::new();
                for element in elements {
                    let name = element.as_string_literal_expr()?.value.to_str();
                    let mut known = Known::default();
                    known.uses.insert(names::local(self.path, name));
                    known.at_import.clone_from(&known.uses);
                    // `from x import *` binds it elsewhere.
                    known.brings.insert(names::anywhere(name));
                    items.push((self.src.slice(element).to_owned(), known));
                }
                Some(List {
                    lead,
                    open,
                    close,
                    head: "__all__ = ".into(),
                    items,
                    plain,
                })
            }
            _ => None,
        }
    }
}

fn prefix(class: Option<&str>) -> String {
    class.map_or_else(String::new, |name| format!("{name}."))
}

/// A function without docstring and annotations.
fn of_function(def: &StmtFunctionDef) -> String {
    let decorators: Vec<_> = def
        .decorator_list
        .iter()
        .map(ComparableDecorator::from)
        .collect();
    let parameters: Vec<(&str, Option<ComparableExpr<'_>>)> = def
        .parameters
        .iter()
        .map(|p| (p.name().as_str(), p.default().map(ComparableExpr::from)))
        .collect();
    let stars = (
        def.parameters.posonlyargs.len(),
        def.parameters.args.len(),
        def.parameters.vararg.is_some(),
        def.parameters.kwarg.is_some(),
    );
    let body: Vec<ComparableStmt<'_>> = def
        .body
        .iter()
        .filter(|stmt| !is_docstring(stmt))
        .map(ComparableStmt::from)
        .collect();
    let name = def.name.as_str();
    let is_async = def.is_async;
    format!("{name} {is_async} {decorators:?} {parameters:?} {stars:?} {body:?}")
}
