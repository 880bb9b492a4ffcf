//! What sessions of every backend have in common: an interactive bash that is
//! fed scripts as single words.

/// The shell, as a command.
pub const SHELL: [&str; 5] = ["/bin/bash", "--noprofile", "--norc", "--noediting", "-i"];

/// Makes the interactive shell a quiet one.
pub const SETUP: &str = "set +o history +o histexpand +m; shopt -u checkwinsize; \
                         unset HISTFILE; PS1= PS2=; export -n PS1 PS2";

/// What an interactive shell says when it exits.
pub const FAREWELL: &[u8] = b"exit\n";

/// A script as one word of the shell.
pub fn quote(script: &str) -> String {
    format!("'{}'", script.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_survive() {
        assert_eq!(quote("echo 'a'"), r"'echo '\''a'\'''");
    }
}
