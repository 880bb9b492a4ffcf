//! When an agent goes round in circles: the reference's four rules
//! (SWE-GYM section 2).

use std::fmt;

/// What happened in an episode, as far as repetition goes. Words of the user
/// are not among it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The agent did something; two with the same key are the same.
    Action(String),
    /// What came of it.
    Observation {
        /// Two with the same key are the same; of a command, the reference
        /// compares command and exit status.
        key: String,
        /// Whether the call itself was in error.
        error: bool,
    },
    /// The agent said something without doing anything.
    Message(String),
}

/// The rule that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The last four actions are equal, and what came of them.
    SameActions,
    /// The last three actions are equal, and each was an error.
    SameErrors,
    /// The last three messages are equal, with nothing done between.
    Monologue,
    /// The last six pairs alternate between two.
    Alternating,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SameActions => "the same action four times, with the same result",
            Self::SameErrors => "the same action three times, an error each time",
            Self::Monologue => "the same message three times",
            Self::Alternating => "two actions in turns, six times",
        })
    }
}

/// Events that the rules look back at: the longest needs six pairs, and the
/// messages between them.
const LOOK_BACK: usize = 64;

/// The first rule that holds at the end of the events.
pub fn check(events: &[Event]) -> Option<Rule> {
    if events.len() < 3 {
        return None;
    }
    let recent = &events[events.len().saturating_sub(LOOK_BACK)..];
    let actions: Vec<&str> = recent
        .iter()
        .rev()
        .filter_map(|e| match e {
            Event::Action(key) => Some(key.as_str()),
            _ => None,
        })
        .collect();
    let observations: Vec<(&str, bool)> = recent
        .iter()
        .rev()
        .filter_map(|e| match e {
            Event::Observation { key, error } => Some((key.as_str(), *error)),
            _ => None,
        })
        .collect();
    let enough = actions.len() >= 4 && observations.len() >= 4;
    if enough && equal(&actions[..4]) && equal(&observations[..4]) {
        return Some(Rule::SameActions);
    }
    let errors = enough && observations[..3].iter().all(|(_, error)| *error);
    if errors && equal(&actions[..3]) {
        return Some(Rule::SameErrors);
    }
    if monologue(recent) {
        return Some(Rule::Monologue);
    }
    if alternate(&actions) && alternate(&observations) {
        return Some(Rule::Alternating);
    }
    None
}

fn equal<T: PartialEq>(items: &[T]) -> bool {
    items.windows(2).all(|pair| pair[0] == pair[1])
}

/// A, B, A, B, A, B. All the same is the first rule's.
fn alternate<T: PartialEq>(items: &[T]) -> bool {
    items.len() >= 6 && equal_by_two(&items[..6])
}

fn equal_by_two<T: PartialEq>(items: &[T]) -> bool {
    items.windows(3).all(|three| three[0] == three[2])
}

fn monologue(events: &[Event]) -> bool {
    let mut last: Option<&str> = None;
    let mut count = 0;
    for event in events.iter().rev() {
        match event {
            // Something was done after the message: that is no monologue.
            Event::Observation { .. } | Event::Action(_) => return false,
            Event::Message(text) if last.is_none_or(|l| l == text) => {
                last = Some(text);
                count += 1;
            }
            Event::Message(_) => return false,
        }
        if count == 3 {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a` acts, `A` (or any capital) is its error, `a:x` another result,
    /// `"m` says.
    fn events(script: &str) -> Vec<Event> {
        let mut all = Vec::new();
        for word in script.split_whitespace() {
            if let Some(text) = word.strip_prefix('"') {
                all.push(Event::Message(text.into()));
                continue;
            }
            let (action, result) = word.split_once(':').unwrap_or((word, "same"));
            all.push(Event::Action(action.to_lowercase()));
            all.push(Event::Observation {
                key: format!("{} {result}", action.to_lowercase()),
                error: action.chars().all(char::is_uppercase),
            });
        }
        all
    }

    #[test]
    fn the_rules_hold_where_they_say() {
        for (script, want) in [
            ("", None),
            ("a a a", None),
            ("a a a a", Some(Rule::SameActions)),
            ("b a a a a", Some(Rule::SameActions)),
            ("a a a a:other", None),
            ("a:1 a:2 a:3 a:4", None),
            ("A A A", None),
            ("b A A A", Some(Rule::SameErrors)),
            ("b A:1 A:2 A:3", Some(Rule::SameErrors)),
            ("b A A a", None),
            ("\"m \"m \"m", Some(Rule::Monologue)),
            ("\"m \"n \"m \"m", None),
            ("\"m a \"m \"m", None),
            ("a \"m \"m \"m", Some(Rule::Monologue)),
            ("a b a b a", None),
            ("a b a b a b", Some(Rule::Alternating)),
            ("c a b a b a b", Some(Rule::Alternating)),
            ("a b a b a c", None),
            ("a b a:1 b a b", None),
            ("a \"m a \"m a \"m a \"m", Some(Rule::SameActions)),
        ] {
            assert_eq!(check(&events(script)), want, "{script}");
        }
    }
}
