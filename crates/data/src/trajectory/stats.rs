//! Statistics of trajectories, as in the paper's Table 8.

use std::collections::BTreeMap;

use serde::Serialize;
use swegym_core::stuck::{self, Event};
use swegym_core::{StepSource, Trajectory};

/// Counts over trajectories. Every share is of all of them (SWE-GYM section
/// 8): the reference leaves out those without a patch in places.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TrajectoryStats {
    /// Trajectories.
    pub count: u64,
    /// Those whose label is known.
    pub labelled: u64,
    /// Those that resolve their instance.
    pub resolved: u64,
    /// Those without a patch.
    pub empty_patch: u64,
    /// Those that ended going round in circles.
    pub stuck_in_loop: u64,
    /// Answers of the model, copied ones not counted.
    pub turns: u64,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Tokens of all answers.
    pub completion_tokens: u64,
    /// The same by repository.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub repositories: BTreeMap<String, TrajectoryStats>,
}

impl TrajectoryStats {
    /// Counts a trajectory with its labels.
    pub fn add(
        &mut self,
        trajectory: &Trajectory,
        repository: Option<&str>,
        resolved: Option<bool>,
        empty_patch: Option<bool>,
    ) {
        self.one(trajectory, resolved, empty_patch);
        if let Some(name) = repository {
            let of_it = self.repositories.entry(name.to_owned()).or_default();
            of_it.one(trajectory, resolved, empty_patch);
        }
    }

    fn one(&mut self, trajectory: &Trajectory, resolved: Option<bool>, empty: Option<bool>) {
        self.count += 1;
        self.labelled += u64::from(resolved.is_some());
        self.resolved += u64::from(resolved == Some(true));
        self.empty_patch += u64::from(empty == Some(true));
        self.stuck_in_loop += u64::from(stuck::check(&events(trajectory)).is_some());
        let own = |s: &&swegym_core::AtifStep| {
            s.source == StepSource::Agent && s.is_copied_context != Some(true)
        };
        self.turns += trajectory.steps.iter().filter(own).count() as u64;
        if let Some(sums) = &trajectory.final_metrics {
            self.prompt_tokens += sums.total_prompt_tokens.unwrap_or_default();
            self.completion_tokens += sums.total_completion_tokens.unwrap_or_default();
        }
    }

    /// A count as a share of all, `None` of nothing.
    pub fn share(&self, count: u64) -> Option<f64> {
        (self.count > 0).then(|| count as f64 / self.count as f64)
    }
}

/// What happened, for the stuck detector.
fn events(trajectory: &Trajectory) -> Vec<Event> {
    let mut events = Vec::new();
    for step in &trajectory.steps {
        if step.source != StepSource::Agent || step.is_copied_context == Some(true) {
            continue;
        }
        let calls = step.tool_calls.as_deref().unwrap_or_default();
        if calls.is_empty() {
            events.push(Event::Message(step.message.text()));
        }
        for call in calls {
            let arguments = serde_json::to_string(&call.arguments).unwrap_or_default();
            events.push(Event::Action(format!("{} {arguments}", call.function_name)));
        }
        for result in step.observation.iter().flat_map(|o| &o.results) {
            let text = result.content.as_ref().map(|c| c.text());
            let text = text.unwrap_or_default();
            events.push(Event::Observation {
                error: text.starts_with("ERROR"),
                key: text,
            });
        }
    }
    events
}

/// Wilson's interval of a share at 95 %, `None` of nothing.
pub fn wilson(successes: u64, of: u64) -> Option<(f64, f64)> {
    const Z: f64 = 1.959_963_984_540_054;
    if of == 0 {
        return None;
    }
    let (n, p) = (of as f64, successes as f64 / of as f64);
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Some(((middle - half).max(0.0), (middle + half).min(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_wilsons() {
        let (low, high) = wilson(15, 100).unwrap();
        assert!((low - 0.0931).abs() < 1e-4 && (high - 0.2328).abs() < 1e-4);
        assert_eq!(wilson(0, 10).unwrap().0, 0.0);
        assert_eq!(wilson(0, 0), None);
    }
}
