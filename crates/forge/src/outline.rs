//! Functions and classes of a module by their lines, for readers of code.

use ruff_python_ast::Stmt;
use ruff_python_ast::visitor::{Visitor, walk_stmt};
use ruff_text_size::Ranged;

use crate::on_deep_stack;
use crate::python::{Source, Unreadable};

/// A function or class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Name with those it lies in, `Class.method`.
    pub name: String,
    /// First line, decorators included, from 1.
    pub first_line: usize,
    /// Last line.
    pub last_line: usize,
}

/// All functions and classes, in the order of their first lines.
///
/// # Errors
/// If the text is no Python 3, or out of all proportion.
pub fn outline(text: &str) -> Result<Vec<Item>, Unreadable> {
    on_deep_stack(|| {
        let src = Source::parse(text)?;
        let mut walk = Walk {
            src: &src,
            prefix: String::new(),
            items: Vec::new(),
        };
        walk.visit_body(src.body());
        Ok(walk.items)
    })
}

struct Walk<'s, 't> {
    src: &'s Source<'t>,
    prefix: String,
    items: Vec<Item>,
}

impl<'a> Visitor<'a> for Walk<'_, '_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        let name = match stmt {
            Stmt::FunctionDef(def) => &def.name,
            Stmt::ClassDef(def) => &def.name,
            _ => return walk_stmt(self, stmt),
        };
        let name = format!("{}{name}", self.prefix);
        self.items.push(Item {
            name: name.clone(),
            first_line: self.src.line(stmt.start()),
            last_line: self.src.line(stmt.end()),
        });
        let prefix = std::mem::replace(&mut self.prefix, format!("{name}."));
        walk_stmt(self, stmt);
        self.prefix = prefix;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decorators_belong_to_what_they_decorate() {
        let text = "import x\n\n@x.y\nclass A:\n    @property\n    def f(self):\n        return 1\n\n    if x:\n        def g(self): ...\n\ndef h():\n    pass\n";
        let got: Vec<(String, usize, usize)> = outline(text)
            .unwrap()
            .into_iter()
            .map(|i| (i.name, i.first_line, i.last_line))
            .collect();
        let want = [("A", 3, 10), ("A.f", 5, 7), ("A.g", 10, 10), ("h", 12, 13)];
        assert_eq!(got, want.map(|(n, a, b)| (n.to_owned(), a, b)));
        assert!(outline("def f(:").is_err());
    }
}
