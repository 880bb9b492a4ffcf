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
