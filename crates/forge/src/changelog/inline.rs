//! Inline markup: links become their text, code keeps its back-ticks, and
//! references to issues become `#12`, in either language.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::pattern::patterns;

patterns! {
    TRACKER = r"/(?:issues?|pulls?|pull-requests?|merge_requests|ticket)/(\d+)";
    ROLE = r":([A-Za-z][\w.+:-]*):`([^`]+)`";
    LITERAL = r"``(.+?)``";
    LINK = r"`([^`<]*?)\s*<([^`>]*)>`_{1,2}";
    NAMED = r"`([^`]+)`_{1,2}";
    WORD_LINK = r"(#\d+|\b[A-Za-z][A-Za-z0-9-]*)_{1,2}(\W|$)";
    FOOTNOTE = r"\[(#?\w+)\]_";
    SUBSTITUTION = r"\|([^|\s][^|]*)\|_{0,2}";
    TARGETED = r"^(.*?)\s*<([^>]*)>$";
}

/// Blank runs become one blank.
pub(super) fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What remains of a link: its text, and the issue it leads to.
pub(super) fn link(text: &str, target: &str) -> String {
    let number = TRACKER.captures(target).map(|c| c[1].to_owned());
    match number {
        Some(number) if text.trim() == number => format!("#{number}"),
        Some(number) if text.contains("://") || text.trim().is_empty() => format!("#{number}"),
        Some(number) if !text.contains(&number) => format!("{text} (#{number})"),
        _ => text.to_owned(),
    }
}

/// The inline markup of reStructuredText, rewritten.
pub(super) fn rst(text: &str) -> String {
    // Literals first, out of the way of everything else.
    let mut literals = Vec::new();
    let text = LITERAL.replace_all(text, |c: &Captures<'_>| {
        literals.push(c[1].to_owned());
        format!("\u{1}{}\u{1}", literals.len() - 1)
    });
    let text = replace(&ROLE, text, |c| role(&c[1], &c[2]));
    let text = replace(&LINK, text, |c| link(&c[1], &c[2]));
    let text = replace(&NAMED, text, |c| c[1].to_owned());
    let text = replace(&WORD_LINK, text, |c| format!("{}{}", &c[1], &c[2]));
    let text = replace(&FOOTNOTE, text, |c| c[1].to_owned());
    let text = replace(&SUBSTITUTION, text, |c| c[1].to_owned());
    let text = squeeze(&text.replace("\\ ", "").replace('\\', ""));
    let mut out = String::with_capacity(text.len());
    for (at, part) in text.split('\u{1}').enumerate() {
        match part.parse::<usize>().ok().and_then(|n| literals.get(n)) {
            Some(literal) if at % 2 == 1 => {
                out.push('`');
                out.push_str(literal);
                out.push('`');
            }
            _ => out.push_str(part),
        }
    }
    out
}

fn replace<'a>(
    pattern: &LazyLock<Regex>,
    text: Cow<'a, str>,
    with: impl Fn(&Captures<'_>) -> String,
) -> Cow<'a, str> {
    match pattern.replace_all(&text, with) {
        Cow::Borrowed(_) => text,
        Cow::Owned(new) => Cow::Owned(new),
    }
}

/// An interpreted text such as `` :func:`~a.b` ``.
fn role(name: &str, text: &str) -> String {
    let name = name.rsplit(':').next().unwrap_or(name).to_lowercase();
    let (shown, target) = match TARGETED.captures(text) {
        Some(c) => (c[1].to_owned(), c[2].to_owned()),
        None => (text.to_owned(), text.to_owned()),
    };
    let listed: Vec<&str> = text.split([',', ' ']).filter(|t| !t.is_empty()).collect();
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let bare = shown.trim_start_matches(['#', '!', '~', '.']);
    match name.as_str() {
        "user" | "ghuser" | "gh_user" | "github-user" | "author" => format!("@{bare}"),
        "pr" | "pull" | "issue" | "gh" | "ghissue" | "ghpull" | "gh_issue" | "gh_pr" | "bug"
        | "ticket" | "github" | "mr" | "gl"
            if digits(bare) =>
        {
            format!("#{bare}")
        }
        "issue" | "pr" | "pull" | "gh" if listed.iter().all(|t| digits(t)) => {
            format!("#{}", listed.join(", #"))
        }
        "issue" | "pr" | "pull" if digits(target.trim_start_matches('#')) => {
            format!("{shown} (#{})", target.trim_start_matches('#'))
        }
        "bpo" => format!("bpo-{bare}"),
        "pep" => format!("PEP {bare}"),
        "rfc" => format!("RFC {bare}"),
        "doc" | "ref" | "term" | "download" | "strong" | "emphasis" | "title" => shown,
        _ => format!("`{bare}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_links_and_literals_become_plain() {
        let cases = [
            (":pr:`299`", "#299"),
            (":issue:`#12` :issue:`3, 4`", "#12 #3, #4"),
            (
                "Fix :func:`~pkg.load` and ``a:`b` ``.",
                "Fix `pkg.load` and `a:`b` `.",
            ),
            ("`#5 <https://x/issues/5>`_: text", "#5: text"),
            ("`text <https://x/pull/7>`__", "text (#7)"),
            (
                "see `the docs`_, NEWS_ and #12_.",
                "see the docs, NEWS and #12.",
            ),
            ("|Feature| a\\ b", "Feature ab"),
            ("by :user:`someone`", "by @someone"),
        ];
        for (input, expected) in cases {
            assert_eq!(rst(input), expected, "{input}");
        }
    }
}
