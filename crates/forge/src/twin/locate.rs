//! From test ids to the functions that define the tests.

use std::collections::HashMap;

use ruff_python_ast::statement_visitor::{StatementVisitor, walk_stmt};
use ruff_python_ast::{Decorator, Expr, Stmt};

use crate::functions::Found;
use crate::python::last_name;

/// Longest chain of base classes that is followed.
const MAX_BASES: usize = 12;

/// A test id taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    /// Qualified name; `None` for an id that may be a docstring.
    pub(super) qualname: Option<String>,
    /// What stands in brackets, if anything.
    pub(super) parameters: Option<String>,
}

/// Reads an id in the form of pytest, unittest, Django or SymPy. `None` if it
/// is of another file.
pub(super) fn name(path: &str, id: &str) -> Option<Name> {
    let plain = |qualname: &str| {
        Some(Name {
            qualname: Some(qualname.to_owned()),
            parameters: None,
        })
    };
    let head = id.split('[').next().unwrap_or(id);
    if let Some((file, rest)) = head.split_once("::") {
        let ours = file == path
            || path.ends_with(&format!("/{file}"))
            || file.ends_with(&format!("/{path}"));
        let parameters = id
            .get(head.len() + 1..)
            .map(|rest| rest.strip_suffix(']').unwrap_or(rest).to_owned());
        return ours.then(|| Name {
            qualname: Some(rest.replace("::", ".").trim_end().to_owned()),
            parameters,
        });
    }
    // `test_a (pkg.tests.TestA)`, and with the method again since 3.11.
    if let Some((method, rest)) = id.split_once(" (")
        && let Some((class, _)) = rest.split_once(')')
        && is_identifier(method)
        && class.split('.').all(is_identifier)
    {
        let class = class.strip_suffix(&format!(".{method}")).unwrap_or(class);
        let (module, class) = class.rsplit_once('.').unwrap_or(("", class));
        return is_module_of(path, module)
            .then(|| plain(&format!("{class}.{method}")))
            .flatten();
    }
    if is_identifier(id) {
        return plain(id);
    }
    // `pkg.tests.TestA.test_a` or `pkg.tests.test_a`.
    if id.split('.').all(is_identifier) {
        let (rest, method) = id.rsplit_once('.').unwrap_or(("", id));
        if is_module_of(path, rest) {
            return plain(method);
        }
        let (module, class) = rest.rsplit_once('.').unwrap_or(("", rest));
        return is_module_of(path, module)
            .then(|| plain(&format!("{class}.{method}")))
            .flatten();
    }
    Some(Name {
        qualname: None,
        parameters: None,
    })
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Whether a dotted module may be the file: `app.tests` is `x/app/tests.py`.
fn is_module_of(path: &str, module: &str) -> bool {
    let dotted = path
        .strip_suffix("/__init__.py")
        .or_else(|| path.strip_suffix(".py"))
        .unwrap_or(path)
        .replace('/', ".");
    module.is_empty() || dotted == module || dotted.ends_with(&format!(".{module}"))
}

/// A class and where its methods may come from.
struct Class<'a> {
    bases: Vec<&'a str>,
    decorators: &'a [Decorator],
}

/// The functions and classes of a file.
pub(super) struct Index<'f, 'a> {
    functions: HashMap<&'f str, &'f Found<'a>>,
    all: &'f [Found<'a>],
    classes: HashMap<String, Class<'a>>,
}

/// The definition of a test.
pub(super) struct Place<'f, 'a> {
    pub(super) found: &'f Found<'a>,
    /// Decorators of the class that the id names, which may parametrize too.
    pub(super) class_decorators: &'a [Decorator],
}

impl<'f, 'a> Index<'f, 'a> {
    pub(super) fn new(body: &'a [Stmt], all: &'f [Found<'a>]) -> Self {
        let mut classes = Classes::default();
        classes.visit_body(body);
        Self {
            // Of several definitions of a name the last one holds.
            functions: all
                .iter()
                .map(|f| (f.function.qualname.as_str(), f))
                .collect(),
            all,
            classes: classes.out,
        }
    }

    pub(super) fn find(&self, name: &Name, id: &str) -> Result<Place<'f, 'a>, String> {
        let Some(qualname) = &name.qualname else {
            return self.by_docstring(id);
        };
        if let Some((class, method)) = qualname.rsplit_once('.') {
            let decorators = self.classes.get(class).map_or(&[][..], |c| c.decorators);
            return match self.method(class, method, MAX_BASES) {
                Some(found) => Ok(Place {
                    found,
                    class_decorators: decorators,
                }),
                None if self.classes.contains_key(class) => Err(format!(
                    "`{method}` comes from a base class in another file, or is gone"
                )),
                None => Err(format!("there is no class `{class}`")),
            };
        }
        if let Some(found) = self.functions.get(qualname.as_str()) {
            return Ok(Place {
                found,
                class_decorators: &[],
            });
        }
        // SymPy's ids and some unittest ones leave the class out.
        let method = format!(".{qualname}");
        let mut methods = self
            .all
            .iter()
            .filter(|f| f.function.method && f.function.qualname.ends_with(&method));
        match (methods.next(), methods.next()) {
            (Some(found), None) => Ok(Place {
                found,
                class_decorators: &[],
            }),
            (Some(_), Some(_)) => Err(format!("several classes have a `{qualname}`")),
            (None, _) => Err(format!("there is no `{qualname}`")),
        }
    }

    fn method(&self, class: &str, method: &str, left: usize) -> Option<&'f Found<'a>> {
        if let Some(found) = self.functions.get(format!("{class}.{method}").as_str()) {
            return Some(found);
        }
        let bases = &self.classes.get(class)?.bases;
        let left = left.checked_sub(1)?;
        bases
            .iter()
            .find_map(|base| self.method(base, method, left))
    }

    /// Django and unittest name a test by its docstring, if it has one.
    fn by_docstring(&self, id: &str) -> Result<Place<'f, 'a>, String> {
        let mut hits = self.all.iter().filter(|found| {
            let Some(Stmt::Expr(first)) = found.def.body.first() else {
                return false;
            };
            let Expr::StringLiteral(text) = &*first.value else {
                return false;
            };
            text.value.to_str().trim().lines().next().map(str::trim) == Some(id.trim())
        });
        match (hits.next(), hits.next()) {
            (Some(found), None) => Ok(Place {
                found,
                class_decorators: &[],
            }),
            (Some(_), Some(_)) => Err("several tests have this docstring".into()),
            (None, _) => Err("no test of this file has this name or docstring".into()),
        }
    }
}

#[derive(Default)]
struct Classes<'a> {
    prefix: String,
    out: HashMap<String, Class<'a>>,
}

impl<'a> StatementVisitor<'a> for Classes<'a> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::ClassDef(def) => {
                let name = format!("{}{}", self.prefix, def.name);
                let bases = def.arguments.iter().flat_map(|a| &a.args);
                let class = Class {
                    bases: bases.filter_map(last_name).collect(),
                    decorators: &def.decorator_list,
                };
                self.out.insert(name.clone(), class);
                let before = std::mem::replace(&mut self.prefix, format!("{name}."));
                walk_stmt(self, stmt);
                self.prefix = before;
            }
            Stmt::FunctionDef(_) => {}
            _ => walk_stmt(self, stmt),
        }
    }
}
