//! Regular expressions that are compiled once.

/// Declares statics `NAME = "expression";`.
macro_rules! patterns {
    ($($name:ident = $pattern:expr;)*) => {$(
        static $name: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
            regex::Regex::new($pattern).expect(concat!(stringify!($name), " is valid"))
        });
    )*};
}

pub(crate) use patterns;
