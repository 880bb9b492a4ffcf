//! The version of a codebase, as its own files say.

use crate::Tree;
use crate::ini::Ini;
use crate::pattern::patterns;

patterns! {
    ASSIGNED = r#"(?m)^\s*(?:__version__|VERSION|version|__VERSION__)\s*(?::\s*[\w.\[\], ]+)?=\s*(?:version\s*=\s*)?[rub]*['"]([^'"]+)['"]"#;
    TUPLE = r#"(?m)^\s*(?:__version_info__|VERSION|version_info|__version__|version_tuple)\s*(?::\s*[\w.\[\], ]+)?=\s*\(\s*(\d+)\s*,\s*(\d+)"#;
    SETUP = r#"(?m)\bversion\s*=\s*['"]([^'"]+)['"]"#;
    PLAIN = r"(?m)\A\s*v?(\d+(?:\.\d+)+\S*)\s*$";
    PKG_INFO = r"(?m)^Version:\s*(\S+)";
}

/// Modules that hold a version, most telling first.
const MODULES: [&str; 9] = [
    "__pkginfo__.py",
    "_version.py",
    "version.py",
    "__version__.py",
    "__about__.py",
    "about.py",
    "_meta.py",
    "__init__.py",
    "release.py",
];

/// Deepest module that is looked at, in directories.
const DEPTH: usize = 3;

/// The first two components of a codebase's version, such as `4.1`, from
/// pyproject.toml, setup.cfg, a version module or the `__init__` of a package,
/// setup.py, `VERSION`, the metadata of a release, or the newest tag.
pub fn version_of(tree: &dyn Tree) -> Option<String> {
    let read = |path: &str| tree.read(path);
    read("pyproject.toml")
        .and_then(|t| of_pyproject(&t))
        .or_else(|| read("setup.cfg").and_then(|t| of_setup_cfg(&t)))
        .or_else(|| of_modules(tree))
        .or_else(|| read("setup.py").and_then(|t| found(&SETUP, &t)))
        .or_else(|| {
            let files = ["VERSION", "VERSION.txt", "version.txt", "RELEASE-VERSION"];
            files.iter().find_map(|f| found(&PLAIN, &read(f)?))
        })
        .or_else(|| read("PKG-INFO").and_then(|t| found(&PKG_INFO, &t)))
        .or_else(|| tree.describe().and_then(|tag| of_tag(&tag)))
}

/// The first two components of a version without what is no digit, as
/// SWE-bench keys its specs; none if it stands for nothing (`0.0.0`).
pub fn short_version(version: &str) -> Option<String> {
    let release = version.trim().trim_start_matches(['v', 'V', '=']);
    let mut parts = release.split('.').map(|part| {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        &part[..digits]
    });
    let major = parts.next().filter(|p| !p.is_empty())?;
    let short = match parts.next().filter(|p| !p.is_empty()) {
        Some(minor) => format!("{major}.{minor}"),
        None => major.to_owned(),
    };
    let nothing = release.starts_with("0.0.0") || release == "0" || release.starts_with("0+");
    (!nothing && short.len() < 20).then_some(short)
}

fn found(pattern: &regex::Regex, text: &str) -> Option<String> {
    let mut all = pattern.captures_iter(text);
    all.find_map(|c| short_version(&c[1]))
}

fn of_pyproject(text: &str) -> Option<String> {
    let table: toml::Table = text.parse().ok()?;
    let field = |path: &[&str]| {
        let (first, rest) = path.split_first()?;
        let mut value = table.get(*first)?;
        for part in rest {
            value = value.get(*part)?;
        }
        value.as_str().and_then(short_version)
    };
    field(&["project", "version"])
        .or_else(|| field(&["tool", "poetry", "version"]))
        .or_else(|| field(&["tool", "bumpversion", "current_version"]))
        .or_else(|| field(&["tool", "commitizen", "version"]))
}

fn of_setup_cfg(text: &str) -> Option<String> {
    let ini = Ini::parse(text);
    let stated = ini.get("metadata", "version");
    let stated = stated.filter(|v| !v.starts_with("attr:") && !v.starts_with("file:"));
    let bumped = ini.get("bumpversion", "current_version");
    stated
        .and_then(short_version)
        .or_else(|| bumped.and_then(short_version))
}

fn of_modules(tree: &dyn Tree) -> Option<String> {
    const APART: [&str; 9] = [
        "tests", "test", "docs", "doc", "examples", "tools", "vendor", "_vendor", "scripts",
    ];
    let rank = |path: &str| {
        let (dir, name) = path.rsplit_once('/')?;
        let module = MODULES.iter().position(|m| *m == name)?;
        let depth = dir
            .split('/')
            .filter(|d| *d != "src" && *d != "lib")
            .count();
        let apart = dir.split('/').any(|d| APART.contains(&d));
        (depth <= DEPTH && !apart).then_some((depth, module))
    };
    let files = tree.files().iter();
    let mut ranked: Vec<_> = files.filter_map(|f| Some((rank(f)?, f))).collect();
    ranked.sort();
    ranked.iter().take(40).find_map(|(_, path)| {
        let text = tree.read(path)?;
        found(&ASSIGNED, &text).or_else(|| {
            let c = TUPLE.captures(&text)?;
            short_version(&format!("{}.{}", &c[1], &c[2]))
        })
    })
}

/// `v1.2.3-4-gabc` or `release-1.2` -> `1.2`; `data-28` is no version.
fn of_tag(tag: &str) -> Option<String> {
    let at = tag.find(|c: char| c.is_ascii_digit())?;
    let named = !matches!(&tag[..at], "" | "v" | "V");
    let short = short_version(&tag[at..])?;
    (!named || short.contains('.')).then_some(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryTree;

    #[test]
    fn each_place_tells_the_version() {
        let cases: [(&str, &str, Option<&str>); 15] = [
            (
                "pyproject.toml",
                "[project]\nversion = '2.31.0'",
                Some("2.31"),
            ),
            (
                "pyproject.toml",
                "[tool.poetry]\nversion = '1.0b1'",
                Some("1.0"),
            ),
            ("setup.cfg", "[metadata]\nversion = 3.1", Some("3.1")),
            ("setup.cfg", "[metadata]\nversion = attr: a.b", None),
            (
                "src/pkg/__init__.py",
                "__version__ = \"8.1.3\"\n",
                Some("8.1"),
            ),
            (
                "pkg/_version.py",
                "__version__ = version = '4.2.dev1'",
                Some("4.2"),
            ),
            (
                "django/__init__.py",
                "VERSION = (4, 1, 0, 'alpha', 0)\n",
                Some("4.1"),
            ),
            (
                "pkg/__pkginfo__.py",
                "__version__ = \"2.15.0-dev0\"\nversion = __version__\n",
                Some("2.15"),
            ),
            ("pkg/version.py", "__version__: str = '0+unknown'", None),
            ("tests/__init__.py", "__version__ = '9.9'", None),
            (
                "setup.py",
                "setup(name='x', version='1.2.3rc1')",
                Some("1.2"),
            ),
            ("VERSION", "v5.6.7\n", Some("5.6")),
            ("PKG-INFO", "Name: x\nVersion: 7.8\n", Some("7.8")),
            ("README.md", "version = '1.0'", None),
            ("pkg/__init__.py", "__version__ = '0.0.0'", None),
        ];
        for (path, text, expected) in cases {
            let tree: MemoryTree = [(path, text)].into_iter().collect();
            assert_eq!(version_of(&tree).as_deref(), expected, "{path}: {text}");
        }
        assert_eq!(of_tag("v1.2.3-4-gabc").as_deref(), Some("1.2"));
        assert_eq!(of_tag("release-1.2-0-gabc").as_deref(), Some("1.2"));
        assert_eq!(of_tag("update-data-28-0-gabc"), None);
        assert_eq!(short_version("2023a").as_deref(), Some("2023"));
    }
}
