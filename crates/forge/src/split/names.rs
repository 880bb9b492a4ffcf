//! Names that a stretch of code brings, and those that it takes from others.

use std::collections::BTreeSet;

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_keyword, walk_parameter, walk_stmt};
use ruff_python_ast::{Alias, Expr, ExprContext, Keyword, Parameter, Stmt, StmtFunctionDef};

/// Names with what they mean: `L:path:x` is bound in the module of that path,
/// `A:x` in some module, `M:x` is an attribute or a keyword.
pub(super) type Names = BTreeSet<String>;

pub(super) fn local(path: &str, name: &str) -> String {
    format!("L:{path}:{name}")
}

pub(super) fn anywhere(name: &str) -> String {
    format!("A:{name}")
}

pub(super) fn member(name: &str) -> String {
    format!("M:{name}")
}

/// The name that an import binds.
pub(super) fn bound(alias: &Alias) -> &str {
    match &alias.asname {
        Some(name) => name.as_str(),
        None => alias.name.as_str().split('.').next().unwrap_or_default(),
    }
}

/// What statements bring, use, and use as soon as the module is imported.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) brings: Names,
    pub(super) uses: Names,
    pub(super) at_import: Names,
}

/// Looks at one statement of a module, or of a class in it.
pub(super) fn of_statement(path: &str, stmt: &Stmt, in_class: bool) -> Known {
    let mut known = Known::default();
    brings(path, stmt, in_class, &mut known.brings);
    let mut uses = Uses::new(path);
    uses.visit_stmt(stmt);
    known.uses = uses.found;
    known.brings.extend(uses.attributes);
    known.at_import = match stmt {
        Stmt::FunctionDef(def) => header(path, def),
        _ => known.uses.clone(),
    };
    known
}

/// What the head of a class needs.
pub(super) fn of_class_head(path: &str, class: &ruff_python_ast::StmtClassDef) -> Known {
    let mut uses = Uses::new(path);
    for decorator in &class.decorator_list {
        uses.visit_decorator(decorator);
    }
    if let Some(arguments) = &class.arguments {
        uses.visit_arguments(arguments);
    }
    let mut known = Known::default();
    bind(path, class.name.as_str(), false, &mut known.brings);
    known.uses.clone_from(&uses.found);
    known.at_import = uses.found;
    known
}

/// What runs of a function when it is defined.
fn header(path: &str, def: &StmtFunctionDef) -> Names {
    let mut uses = Uses::new(path);
    for decorator in &def.decorator_list {
        uses.visit_decorator(decorator);
    }
    uses.visit_parameters(&def.parameters);
    if let Some(returns) = &def.returns {
        uses.visit_expr(returns);
    }
    // Parameters themselves are fixtures, which are looked up later.
    for parameter in &*def.parameters {
        uses.found.remove(&local(path, parameter.name().as_str()));
    }
    uses.found
}

fn bind(path: &str, name: &str, in_class: bool, out: &mut Names) {
    if in_class {
        out.insert(member(name));
    } else {
        out.insert(local(path, name));
        out.insert(anywhere(name));
    }
}

fn brings(path: &str, stmt: &Stmt, in_class: bool, out: &mut Names) {
    let nested = |body: &[Stmt], out: &mut Names| {
        for stmt in body {
            brings(path, stmt, in_class, out);
        }
    };
    match stmt {
        Stmt::FunctionDef(def) => {
            bind(path, def.name.as_str(), in_class, out);
            for parameter in &*def.parameters {
                out.insert(member(parameter.name().as_str()));
            }
        }
        Stmt::ClassDef(class) => {
            bind(path, class.name.as_str(), in_class, out);
            for stmt in &class.body {
                brings(path, stmt, true, out);
            }
        }
        Stmt::Assign(assign) => {
            for target in &assign.targets {
                targets(path, target, in_class, out);
            }
        }
        Stmt::AnnAssign(assign) => targets(path, &assign.target, in_class, out),
        Stmt::TypeAlias(alias) => targets(path, &alias.name, in_class, out),
        Stmt::Import(import) => {
            for alias in &import.names {
                bind(path, bound(alias), in_class, out);
            }
        }
        Stmt::ImportFrom(import) => {
            for alias in &import.names {
                bind(path, bound(alias), in_class, out);
            }
        }
        Stmt::If(branch) => {
            nested(&branch.body, out);
            for clause in &branch.elif_else_clauses {
                nested(&clause.body, out);
            }
        }
        Stmt::Try(block) => {
            nested(&block.body, out);
            for handler in &block.handlers {
                let ruff_python_ast::ExceptHandler::ExceptHandler(handler) = handler;
                nested(&handler.body, out);
            }
            nested(&block.orelse, out);
            nested(&block.finalbody, out);
        }
        Stmt::With(block) => nested(&block.body, out),
        Stmt::For(block) => nested(&block.body, out),
        _ => {}
    }
}

fn targets(path: &str, target: &Expr, in_class: bool, out: &mut Names) {
    match target {
        Expr::Name(name) => bind(path, name.id.as_str(), in_class, out),
        Expr::Tuple(tuple) => tuple
            .elts
            .iter()
            .for_each(|t| targets(path, t, in_class, out)),
        Expr::List(list) => list
            .elts
            .iter()
            .for_each(|t| targets(path, t, in_class, out)),
        Expr::Starred(starred) => targets(path, &starred.value, in_class, out),
        _ => {}
    }
}

struct Uses<'p> {
    path: &'p str,
    found: Names,
    /// Attributes that are set: `self.x = …` brings `x`.
    attributes: Names,
}

impl<'p> Uses<'p> {
    fn new(path: &'p str) -> Self {
        Self {
            path,
            found: Names::new(),
            attributes: Names::new(),
        }
    }
}

impl<'a> Visitor<'a> for Uses<'_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        if let Stmt::ImportFrom(import) = stmt {
            for alias in &import.names {
                self.found.insert(anywhere(alias.name.as_str()));
            }
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Name(name) => {
                self.found.insert(local(self.path, name.id.as_str()));
            }
            Expr::Attribute(attribute) => {
                let name = attribute.attr.as_str();
                if attribute.ctx == ExprContext::Store {
                    self.attributes.insert(member(name));
                } else {
                    self.found.insert(member(name));
                    self.found.insert(anywhere(name));
                }
            }
            _ => {}
        }
        walk_expr(self, expr);
    }

    fn visit_keyword(&mut self, keyword: &'a Keyword) {
        if let Some(name) = &keyword.arg {
            self.found.insert(member(name.as_str()));
        }
        walk_keyword(self, keyword);
    }

    fn visit_parameter(&mut self, parameter: &'a Parameter) {
        // pytest hands fixtures to parameters of their name.
        self.found.insert(local(self.path, parameter.name.as_str()));
        self.found.insert(anywhere(parameter.name.as_str()));
        walk_parameter(self, parameter);
    }
}
