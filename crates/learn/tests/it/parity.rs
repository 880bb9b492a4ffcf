//! Tokens, logits and rendered chats equal those of `transformers`.

use serde_json::Value;
use swegym_core::ChatMessage;
use swegym_learn::infer::{Cache, Chunk, PAGE, PrefixCache, Runner, Wanted};
use swegym_learn::model::{Dtype, Model};

use crate::{fixtures, tiny};

/// Token ids and logits that `transformers` gave for a model's text.
fn expected(name: &str) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(fixtures().join(name).join("expected.logits")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let words =
        |key: &str| -> Vec<[u8; 4]> { tensors.tensor(key).unwrap().data().as_chunks().0.to_vec() };
    let ids = words("ids").into_iter().map(u32::from_le_bytes).collect();
    (
        ids,
        words("logits")
            .into_iter()
            .map(f32::from_le_bytes)
            .collect(),
    )
}

/// Logits of a whole text at once.
pub fn logits(model: &Model, ids: &[u32]) -> Vec<f32> {
    let mut chunks = [Chunk {
        tokens: ids,
        cache: &mut Cache::default(),
        wanted: Wanted::From(0),
    }];
    Runner::default()
        .run(&model.network, &mut chunks)
        .unwrap()
        .remove(0)
}

#[track_caller]
pub fn same(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let worst = got
        .iter()
        .zip(want)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    let most = want.iter().copied().fold(0.0, |a: f32, b| a.max(b.abs()));
    assert!(
        worst < 2e-5 * most,
        "{what}: off by {worst}, of at most {most}"
    );
}

#[test]
fn logits_are_those_of_transformers() {
    for name in ["llama", "qwen2", "qwen3"] {
        let model = tiny(name);
        let (ids, logits) = expected(name);
        assert!(ids.len() >= 200);
        let text = std::fs::read_to_string(fixtures().join(name).join("text.txt")).unwrap();
        let tokens = model.tokenizer.encode(&text, false).unwrap();
        assert_eq!(tokens[..ids.len()], ids, "{name}");
        assert_eq!(
            model.tokenizer.decode(&tokens, false).unwrap(),
            text,
            "{name}"
        );
        let vocab = model.network.config.vocab;
        let mut runner = Runner::default();
        let mut run = |tokens: &[u32], cache: &mut Cache| {
            let mut chunks = [Chunk {
                tokens,
                cache,
                wanted: Wanted::From(0),
            }];
            runner.run(&model.network, &mut chunks).unwrap().remove(0)
        };
        let whole = run(&ids, &mut Cache::default());
        same(&format!("{name}, at once"), &whole, &logits);
        // A prompt in pieces, then token by token, on pages of another
        // sequence that began alike.
        let mut prefix = PrefixCache::new(8);
        let mut cache = Cache::default();
        run(&ids[..150], &mut cache);
        prefix.insert(&ids[..150], &cache);
        let mut other = ids[..150].to_vec();
        other[PAGE + 3] ^= 1;
        assert_eq!(prefix.lookup(&other).len(), PAGE, "{name}");
        let mut cache = prefix.lookup(&ids);
        assert_eq!(cache.len(), 2 * PAGE, "{name}");
        let mut rest = run(&ids[2 * PAGE..200], &mut cache);
        for token in &ids[200..] {
            rest.extend(run(&[*token], &mut cache));
        }
        same(
            &format!("{name}, in pieces"),
            &rest,
            &logits[2 * PAGE * vocab..],
        );
    }
}

#[test]
fn weights_of_two_bytes_are_read_as_they_are() {
    let dir = fixtures().join("qwen3");
    let as_stored = Model::read(&dir, Dtype::Stored).unwrap();
    let as_floats = Model::read(&dir, Dtype::F32).unwrap();
    let bytes = |m: &Model| m.network.layers[0].q.weight.bytes();
    assert_eq!(bytes(&as_stored) * 2, bytes(&as_floats));
    let (ids, _) = expected("qwen3");
    let logits = |model: &Model| {
        let mut chunks = [Chunk {
            tokens: &ids,
            cache: &mut Cache::default(),
            wanted: Wanted::Last,
        }];
        Runner::default()
            .run(&model.network, &mut chunks)
            .unwrap()
            .remove(0)
    };
    same("bf16 and f32", &logits(&as_stored), &logits(&as_floats));
}

#[test]
fn chats_render_as_by_jinja2() {
    let model = tiny("llama");
    let template = model.template.as_ref().unwrap();
    let text = std::fs::read_to_string(fixtures().join("chats.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(rows.len(), 4);
    for row in rows {
        let prompt = row["prompt"].as_bool().unwrap();
        let messages: Vec<ChatMessage> =
            serde_json::from_value(row["messages"].clone()).unwrap_or_else(|_| Vec::new());
        let got = template
            .render_json(&row["messages"], &row["tools"], prompt)
            .unwrap();
        assert_eq!(got, row["text"].as_str().unwrap());
        // Ours hold arguments as text, as the APIs do.
        if !messages.is_empty() {
            let tools = serde_json::from_value(row["tools"].clone()).unwrap_or_default();
            assert_eq!(
                template
                    .render(&messages, tools_of(&tools), prompt)
                    .unwrap(),
                got
            );
        }
    }
}

fn tools_of(tools: &Option<Vec<swegym_core::Tool>>) -> &[swegym_core::Tool] {
    tools.as_deref().unwrap_or_default()
}

#[test]
fn what_the_assistant_writes_is_told_apart() {
    let plain = tiny("qwen2");
    let template = plain.template.as_ref().unwrap();
    let messages = [
        ChatMessage::user("Fix it."),
        ChatMessage::assistant("Done.\n"),
        ChatMessage::user("Sure?"),
        ChatMessage::assistant(""),
    ];
    let (text, spans) = template.render_spans(&messages, &[]).unwrap();
    let own: Vec<&str> = spans.iter().map(|s| &text[s.start..s.end]).collect();
    assert_eq!(own, ["Done.\n<|end|>", "<|end|>"]);
    // This one ends with words about the last message, so that a turn reads
    // differently once another follows it.
    let restless = tiny("llama");
    let error = restless
        .template
        .as_ref()
        .unwrap()
        .render_spans(&messages, &[]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("each turn as a row of its own"), "{error}");
}
