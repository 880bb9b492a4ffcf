//! Calls as conversations: a call that goes on where another ended is of the
//! same one; a title or a summary asked for on the side is one of its own.

use swegym_core::{AgentInfo, AtifStep, ChatMessage, Role, StepSource, Tool, Trajectory};

use crate::episode::{Meta, trajectory};
use crate::model::Reply;

/// All that was said.
#[derive(Default)]
pub(super) struct Captured {
    conversations: Vec<Conversation>,
}

struct Conversation {
    messages: Vec<ChatMessage>,
    tools: Vec<Tool>,
    answers: Vec<Meta>,
    /// Answers at the beginning that were not given here: the agent's own
    /// words, or those of another conversation.
    copied: usize,
}

impl Captured {
    /// Takes in a call and its answer.
    pub fn add(&mut self, messages: Vec<ChatMessage>, tools: Vec<Tool>, reply: &Reply) {
        let meta = crate::episode::meta(reply);
        let goes_on = |known: &&mut Conversation| begins_with(&messages, &known.messages);
        let longest = self
            .conversations
            .iter_mut()
            .filter(goes_on)
            .max_by_key(|known| known.messages.len());
        match longest {
            Some(known) => {
                known.messages = messages;
                known.messages.push(reply.message.clone());
                known.answers.push(meta);
                known.tools = tools;
            }
            None => {
                let copied = messages.iter().filter(|m| m.role == Role::Assistant);
                let copied = copied.count();
                let mut messages = messages;
                messages.push(reply.message.clone());
                self.conversations.push(Conversation {
                    messages,
                    tools,
                    answers: vec![meta],
                    copied,
                });
            }
        }
    }

    /// The conversation with the most answers, the others below it.
    pub fn trajectory(self, agent: AgentInfo, id: &str) -> Trajectory {
        let mut all = self.conversations;
        let most = all
            .iter()
            .enumerate()
            .rev()
            .max_by_key(|(_, c)| c.answers.len())
            .map(|(index, _)| index);
        let Some(most) = most else {
            let mut empty = Trajectory::new(agent);
            empty.trajectory_id = Some(id.to_owned());
            empty.push(AtifStep::new(
                StepSource::System,
                "The agent made no call of the model.",
            ));
            return empty;
        };
        let main = all.remove(most);
        let mut main = main.trajectory(agent.clone(), id.to_owned());
        let others: Vec<Trajectory> = all
            .into_iter()
            .enumerate()
            .map(|(n, c)| c.trajectory(agent.clone(), format!("{id}#{}", n + 1)))
            .collect();
        main.subagent_trajectories = (!others.is_empty()).then_some(others);
        main
    }
}

impl Conversation {
    fn trajectory(self, mut agent: AgentInfo, id: String) -> Trajectory {
        let tools = self.tools.iter();
        let tools = tools.map(|tool| serde_json::to_value(tool).expect("plain data"));
        agent.tool_definitions = Some(tools.collect());
        let mut trajectory = trajectory(agent, self.messages, self.answers, self.copied);
        trajectory.trajectory_id = Some(id);
        trajectory
    }
}

/// Whether a conversation goes on where another ended. Agents drop what the
/// API adds (reasoning, names), so what counts is what was said and called.
fn begins_with(messages: &[ChatMessage], known: &[ChatMessage]) -> bool {
    messages.len() > known.len()
        && messages.iter().zip(known).all(|(a, b)| {
            a.role == b.role
                && a.text().trim() == b.text().trim()
                && a.tool_calls.len() == b.tool_calls.len()
                && a.tool_calls
                    .iter()
                    .zip(&b.tool_calls)
                    .all(|(a, b)| a.id == b.id && a.function.name == b.function.name)
        })
}
