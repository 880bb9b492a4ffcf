//! The engine: the same answers alone and in company, stop words, limits.

use std::time::{Duration, Instant};

use swegym_learn::LearnError;
use swegym_learn::infer::{
    Ask, Cache, Chunk, Engine, EngineOptions, Finish, Progress, Runner, Sampling, Wanted,
};

use crate::tiny;

fn options() -> EngineOptions {
    EngineOptions {
        threads: 2,
        cache: 32 << 20,
        ..EngineOptions::default()
    }
}

fn greedy(prompt: &[u32], max_tokens: usize) -> Ask {
    Ask {
        prompt: prompt.to_vec(),
        max_tokens,
        sampling: Sampling {
            temperature: 0.0,
            ..Sampling::default()
        },
        ..Ask::default()
    }
}

#[test]
fn greedy_answers_are_the_most_likely_tokens() {
    let model = tiny("qwen2");
    let prompt: Vec<u32> = (0..130).map(|n| 2 + n * 7 % 280).collect();
    let mut tokens = prompt.clone();
    let mut logprobs = Vec::new();
    for _ in 0..20 {
        let mut chunks = [Chunk {
            tokens: &tokens,
            cache: &mut Cache::default(),
            wanted: Wanted::Last,
        }];
        let logits = Runner::default()
            .run(&model.network, &mut chunks)
            .unwrap()
            .remove(0);
        let best = (0..logits.len())
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap();
        let sum: f64 = logits
            .iter()
            .map(|l| f64::from(l - logits[best]).exp())
            .sum();
        tokens.push(best as u32);
        logprobs.push(-sum.ln());
        if best == 1 {
            break;
        }
    }
    // The prompt takes three steps.
    let small = EngineOptions {
        prefill: 64,
        ..options()
    };
    let engine = Engine::start(model, &small).unwrap();
    for round in 0..2 {
        let answer = engine.ask(greedy(&prompt, 20)).unwrap();
        assert_eq!(answer.tokens, tokens[prompt.len()..]);
        assert_eq!(answer.cached_tokens, [0, 128][round]);
        for (got, want) in answer.logprobs.iter().zip(&logprobs) {
            assert!((f64::from(*got) - want).abs() < 1e-4);
        }
    }
}

#[test]
fn an_answer_does_not_depend_on_its_company() {
    let model = tiny("llama");
    let ask = |seed: u64| Ask {
        prompt: (0..70)
            .map(|n| 2 + (n * 5 + 11 * (seed as u32 % 3)) % 280)
            .collect(),
        max_tokens: 40,
        sampling: Sampling {
            seed,
            top_p: 0.95,
            ..Sampling::default()
        },
        ..Ask::default()
    };
    let alone: Vec<_> = (0..12)
        .map(|seed| {
            let engine = Engine::start(model.clone(), &options()).unwrap();
            engine.ask(ask(seed)).unwrap()
        })
        .collect();
    let engine = Engine::start(model, &options()).unwrap();
    let waiting: Vec<_> = (0..12)
        .map(|seed| engine.submit(ask(seed)).unwrap())
        .collect();
    for (receiver, alone) in waiting.into_iter().zip(&alone) {
        let mut text = String::new();
        let answer = loop {
            match receiver.recv().unwrap() {
                Progress::Text(more) => text.push_str(&more),
                Progress::Done(answer) => break answer.unwrap(),
            }
        };
        assert_eq!((&answer.tokens, &answer.text), (&alone.tokens, &alone.text));
        assert_eq!(text, answer.text);
    }
    assert_eq!(engine.load(), 0);
}

#[test]
fn stop_words_end_an_answer_and_are_not_shown() {
    let model = tiny("llama");
    let engine = Engine::start(model, &options()).unwrap();
    let prompt: Vec<u32> = (2..60).collect();
    let whole = engine.ask(greedy(&prompt, 60)).unwrap();
    let middle = whole
        .text
        .char_indices()
        .nth(whole.text.chars().count() / 2)
        .unwrap()
        .0;
    let word: String = whole.text[middle..].chars().take(3).collect();
    let at = whole.text.find(&word).unwrap();
    let receiver = engine
        .submit(Ask {
            stop: vec!["\u{1}never".into(), word],
            ..greedy(&prompt, 60)
        })
        .unwrap();
    let mut text = String::new();
    let answer = loop {
        match receiver.recv().unwrap() {
            Progress::Text(more) => text.push_str(&more),
            Progress::Done(answer) => break answer.unwrap(),
        }
    };
    assert_eq!(answer.finish, Finish::Stop);
    assert_eq!(answer.text, whole.text[..at]);
    assert_eq!(text, answer.text);
}

#[test]
fn limits_hold() {
    let model = tiny("llama");
    let context = model.network.config.context;
    let engine = Engine::start(model.clone(), &options()).unwrap();
    let long: Vec<u32> = vec![5; context];
    assert!(matches!(
        engine.ask(greedy(&long, 1)),
        Err(LearnError::Context { tokens, .. }) if tokens == context + 1
    ));
    let mut ask = greedy(&long[..context - 3], 100);
    let answer = engine.ask(ask.clone()).unwrap();
    assert!(answer.tokens.len() <= 3 || answer.finish == Finish::Stop);
    ask.deadline = Some(Instant::now());
    assert_eq!(engine.ask(ask).unwrap().finish, Finish::OutOfTime);
    let unknown = engine.ask(greedy(&[288], 1)).unwrap_err().to_string();
    assert!(unknown.contains("token 288"), "{unknown}");
    assert!(engine.ask(greedy(&[], 1)).is_err());
    // Choices: log-probabilities of given tokens behind a prompt.
    let scored = engine
        .ask(Ask {
            choices: (0..288).collect(),
            ..greedy(&[7, 8, 9], 0)
        })
        .unwrap();
    let sum: f64 = scored.choices.iter().map(|l| f64::from(*l).exp()).sum();
    assert!((sum - 1.0).abs() < 1e-4);
    assert!(scored.tokens.is_empty());
    // A full queue refuses, and says so.
    let small = EngineOptions {
        queue: 1,
        slots: 1,
        ..options()
    };
    let engine = Engine::start(model, &small).unwrap();
    let begun = Instant::now();
    let mut waiting = Vec::new();
    let refused = loop {
        match engine.submit(greedy(&long[..context - 50], 40)) {
            Ok(receiver) => waiting.push(receiver),
            Err(e) => break e,
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
    };
    assert!(matches!(refused, LearnError::Busy));
}
