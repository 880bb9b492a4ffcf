//! Demonstrations in the prompt: what a model without training is shown.

use std::sync::Arc;

use swegym_agent::model::{Model, ModelError, Reply, Request};
use swegym_core::{ChatMessage, Role};

use crate::hash;

/// What a run with these demonstrations is known by; `None` without any.
pub fn digest(examples: &[ChatMessage]) -> Option<String> {
    let text = serde_json::to_vec(examples).expect("plain data");
    (!examples.is_empty()).then(|| hash(&text))
}

/// The model, shown demonstrations before every task.
pub fn before(model: Arc<dyn Model>, examples: &[ChatMessage]) -> Arc<dyn Model> {
    if examples.is_empty() {
        return model;
    }
    Arc::new(Shown {
        model,
        examples: examples.to_vec(),
    })
}

struct Shown {
    model: Arc<dyn Model>,
    examples: Vec<ChatMessage>,
}

impl Shown {
    fn messages(&self, asked: &[ChatMessage]) -> Vec<ChatMessage> {
        let system = asked.iter().take_while(|m| m.role == Role::System).count();
        let (system, rest) = asked.split_at(system);
        [system, &self.examples, rest].concat()
    }
}

impl Model for Shown {
    fn name(&self) -> &str {
        self.model.name()
    }

    fn complete(&self, request: &Request<'_>) -> Result<Reply, ModelError> {
        let messages = self.messages(request.messages);
        self.model.complete(&Request {
            messages: &messages,
            ..*request
        })
    }

    fn most_cost(&self, request: &Request<'_>) -> Option<f64> {
        let messages = self.messages(request.messages);
        self.model.most_cost(&Request {
            messages: &messages,
            ..*request
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use swegym_agent::model::{Line, Sampling, Script};

    use super::*;

    /// Remembers what it was asked.
    struct Listener(Mutex<Vec<ChatMessage>>);

    impl Model for Listener {
        fn name(&self) -> &str {
            "listener"
        }

        fn complete(&self, request: &Request<'_>) -> Result<Reply, ModelError> {
            *self.0.lock().unwrap() = request.messages.to_vec();
            Script::new("listener", vec![Line::default()]).complete(request)
        }
    }

    #[test]
    fn demonstrations_come_between_system_prompt_and_task() {
        let examples = [
            ChatMessage::user("a task"),
            ChatMessage::assistant("its edit"),
        ];
        assert!(digest(&[]).is_none() && digest(&examples) != digest(&examples[..1]));
        let listener = Arc::new(Listener(Mutex::default()));
        let asked = [ChatMessage::system("rules"), ChatMessage::user("the task")];
        let request = Request {
            messages: &asked,
            tools: &[],
            stop: &[],
            sampling: &Sampling::default(),
            deadline: None,
        };
        before(listener.clone(), &examples)
            .complete(&request)
            .unwrap();
        let heard: Vec<String> = listener
            .0
            .lock()
            .unwrap()
            .iter()
            .map(ChatMessage::text)
            .collect();
        assert_eq!(heard, ["rules", "a task", "its edit", "the task"]);
        before(listener.clone(), &[]).complete(&request).unwrap();
        assert_eq!(listener.0.lock().unwrap().len(), 2);
    }
}
