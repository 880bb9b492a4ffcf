//! Code in answers.

use regex::Regex;

/// The code of the last fenced block of a text.
pub fn last_block(text: &str) -> Option<String> {
    let fenced = Regex::new(r"(?s)```[\w+-]*\n(.*?)```").expect("valid");
    let last = fenced.captures_iter(text).last()?;
    Some(last[1].to_owned())
}

/// New code at the depth of the old, with its blank lines before and after:
/// models often start at the margin, and drop blank lines or add some.
pub(in crate::scaffold) fn indented_like(new: &str, old: &str) -> String {
    let depth = |text: &str| {
        let first = text.lines().find(|l| !l.trim().is_empty())?;
        // Of other spaces a piece might be no text.
        Some(first.len() - first.trim_start_matches([' ', '\t', '\u{c}']).len())
    };
    let mut code = new.trim_matches('\n').to_owned();
    if let (Some(want), Some(have)) = (depth(old), depth(&code))
        && have < want
    {
        let first = old.lines().find(|l| !l.trim().is_empty());
        let pad = first.map_or("", |l| &l[have..want]).to_owned();
        let lines = code.lines().map(|line| {
            if line.trim().is_empty() {
                line.to_owned()
            } else {
                format!("{pad}{line}")
            }
        });
        code = lines.collect::<Vec<_>>().join("\n");
    }
    if code.is_empty() {
        return code;
    }
    let blank = |lines: &mut dyn Iterator<Item = &str>| -> String {
        lines.take_while(|l| l.trim().is_empty()).collect()
    };
    let head = blank(&mut old.split_inclusive('\n'));
    let tail = if head.len() == old.len() {
        String::new()
    } else {
        blank(&mut old.split_inclusive('\n').rev())
    };
    format!("{head}{code}\n{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_code_takes_the_depth_of_the_old() {
        let old = "    def f(self):\n        return 1\n";
        assert_eq!(
            indented_like("def f(self):\n\n    return 2", old),
            "    def f(self):\n\n        return 2\n"
        );
        assert_eq!(
            indented_like("\n    def f(self): ...\n", old),
            "    def f(self): ...\n"
        );
        assert_eq!(indented_like("", old), "");
        assert_eq!(indented_like("\nx = 2", "\n\nx = 1\n\n"), "\n\nx = 2\n\n");
        assert_eq!(indented_like("x = 1\n", ""), "x = 1\n");
        assert_eq!(indented_like(" x", "  \u{3000}y\n"), "  x\n");
    }

    #[test]
    fn the_last_block_is_the_code() {
        assert_eq!(
            last_block("First\n```python\na\n```\nno:\n```py\nb\n```\n").as_deref(),
            Some("b\n")
        );
        assert_eq!(last_block("nothing"), None);
    }
}
