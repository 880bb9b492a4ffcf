//! Gradients against autograd's, adapters against PEFT's, and the loop.

use std::collections::BTreeMap;

use swegym_learn::LearnError;
use swegym_learn::model::{Dtype, Model};
use swegym_learn::train::{
    Document, Gradients, Packed, Pass, Schedule, TrainOptions, Trained, Trainer,
};

use crate::fixtures;

/// Tensors of a fixture as `f32`; the loss is among them.
fn tensors(path: &str) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(fixtures().join(path)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let floats = |view: safetensors::tensor::TensorView<'_>| -> Vec<f32> {
        let words = view.data().as_chunks::<4>().0;
        words.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let all = tensors.iter().filter(|(name, _)| *name != "ids");
    all.map(|(name, view)| (name.to_owned(), floats(view)))
        .collect()
}

fn ids(name: &str) -> Vec<u32> {
    let bytes = std::fs::read(fixtures().join(name).join("expected.logits")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let words = tensors
        .tensor("ids")
        .unwrap()
        .data()
        .as_chunks::<4>()
        .0
        .to_vec();
    words.into_iter().map(u32::from_le_bytes).collect()
}

/// The two documents of `make.py`.
fn documents(name: &str) -> Vec<Document> {
    let ids = ids(name);
    let parts = [&ids[..100], &ids[100..181]];
    let one = |(n, tokens): (usize, &&[u32])| Document {
        name: format!("row {n}"),
        tokens: tokens.to_vec(),
        learnt: (0..tokens.len()).map(|i| i >= 10 && i % 3 != 0).collect(),
    };
    parts.iter().enumerate().map(one).collect()
}

fn read(name: &str) -> Model {
    Model::read(&fixtures().join(name), Dtype::F32).unwrap()
}

/// Loss and gradients of the packed documents, by name.
fn computed(model: &mut Model, trained: Trained, checkpoint: bool) -> BTreeMap<String, Vec<f32>> {
    let documents = documents(&model.name);
    let packed = Packed::new(&documents, &[0, 1]);
    let mut gradients = Gradients::new(&model.network, trained);
    let count = packed.targets.len();
    let losses = Pass::new(checkpoint)
        .gradients(&model.network, &packed, 1.0 / count as f32, &mut gradients)
        .unwrap();
    let slots = gradients.slots(&mut model.network);
    let mut found: BTreeMap<_, _> = slots
        .into_iter()
        .map(|slot| (slot.name, slot.gradient.to_vec()))
        .collect();
    found.insert("loss".into(), vec![(losses.sum() / count as f64) as f32]);
    found
}

/// Every tensor within 2e-5 of its largest number.
#[track_caller]
fn same(what: &str, got: &BTreeMap<String, Vec<f32>>, want: &BTreeMap<String, Vec<f32>>) {
    let names = |map: &BTreeMap<String, Vec<f32>>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(got), names(want), "{what}");
    for (name, want) in want {
        let got = &got[name];
        assert_eq!(got.len(), want.len(), "{what} {name}");
        let most = want.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
        let off = got
            .iter()
            .zip(want)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(
            off <= 2e-5 * most,
            "{what} {name}: off by {off}, of at most {most}"
        );
    }
}

#[test]
fn gradients_are_those_of_autograd() {
    for name in ["llama", "qwen2", "qwen3"] {
        let want = tensors(&format!("{name}/gradients.expected"));
        let got = computed(&mut read(name), Trained::Full, false);
        same(name, &got, &want);
    }
}

#[test]
fn activations_computed_twice_give_the_same_to_the_last_bit() {
    for name in ["llama", "qwen3"] {
        let kept = computed(&mut read(name), Trained::Full, false);
        assert_eq!(
            kept,
            computed(&mut read(name), Trained::Full, true),
            "{name}"
        );
    }
}

/// An adapter that PEFT wrote gives its logits and its gradients here; written
/// again it is the same.
#[test]
fn adapters_are_those_of_peft() {
    let mut want = tensors("llama-adapter/gradients.expected");
    let logits = want.remove("logits").unwrap();
    let mut model = read("llama");
    let dir = fixtures().join("llama-adapter");
    model.network.read_lora(&dir).unwrap();
    same("lora", &computed(&mut model, Trained::Lora, false), &want);
    same("lora", &computed(&mut model, Trained::Lora, true), &want);
    let got = crate::parity::logits(&model, &ids("llama"));
    crate::parity::same("adapter", &got, &logits);

    let temp = tempfile::tempdir().unwrap();
    model.network.write_lora(temp.path(), "llama").unwrap();
    let mut again = read("llama");
    again.network.read_lora(temp.path()).unwrap();
    for (a, b) in model.network.layers.iter().zip(&again.network.layers) {
        for (a, b) in a.linears().into_iter().zip(b.linears()) {
            assert_eq!(a.lora, b.lora);
        }
    }
    model.network.merge_lora();
    let got = crate::parity::logits(&model, &ids("llama"));
    crate::parity::same("merged", &got, &logits);
}

/// What a document is packed with does not change its gradient.
#[test]
fn packed_documents_do_not_see_each_other() {
    let model = read("qwen2");
    let documents = documents("qwen2");
    let losses = |groups: &[&[usize]]| -> Vec<f32> {
        let mut pass = Pass::default();
        let one = |group: &&[usize]| {
            let packed = Packed::new(&documents, group);
            pass.losses(&model.network, &packed).unwrap().each
        };
        groups.iter().flat_map(one).collect()
    };
    let apart = losses(&[&[0], &[1]]);
    for (a, b) in apart.iter().zip(losses(&[&[0, 1]])) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

/// A model that is written is the same when it is read.
#[test]
fn models_are_written_as_they_are_read() {
    for (name, dtype) in [
        ("llama", Dtype::F32),
        ("qwen2", Dtype::F32),
        ("qwen3", Dtype::Stored),
    ] {
        let model = Model::read(&fixtures().join(name), dtype).unwrap();
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join(name);
        model.write(&dir, Dtype::Stored).unwrap();
        let again = Model::read(&dir, Dtype::Stored).unwrap();
        let config = swegym_learn::model::read_config(&dir).unwrap();
        assert_eq!(config, model.network.config, "{name}");
        assert_eq!(config.parameters(), model.network.parameters(), "{name}");
        assert_eq!(again.network.config, model.network.config, "{name}");
        let ids = ids(name);
        let (a, b) = (
            crate::parity::logits(&model, &ids),
            crate::parity::logits(&again, &ids),
        );
        assert_eq!(a, b, "{name}");
        let chat = [swegym_core::ChatMessage::user("Hello")];
        let render = |m: &Model| {
            m.template
                .as_ref()
                .unwrap()
                .render(&chat, &[], true)
                .unwrap()
        };
        assert_eq!(render(&model), render(&again));
        assert_eq!(model.tokenizer.json(), again.tokenizer.json());
    }
}

fn options() -> TrainOptions {
    TrainOptions {
        rate: 2e-2,
        schedule: Schedule::Cosine,
        warmup: 2,
        length: 128,
        epochs: 6,
        ..TrainOptions::default()
    }
}

/// Losses and the adapter of a run, cut off after some steps and resumed.
fn trained(cut: Option<usize>) -> (Vec<f64>, Vec<f32>) {
    let mut model = read("llama");
    model.network.add_lora(4, 8.0, 1);
    let documents = documents("llama");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    let mut losses = Vec::new();
    if let Some(cut) = cut {
        let mut first = model.network.clone();
        let mut trainer = Trainer::new(&mut first, &documents, Trained::Lora, options()).unwrap();
        for _ in 0..cut {
            losses.push(trainer.step().unwrap().unwrap().loss);
        }
        trainer.save(&path, "rows").unwrap();
    }
    let mut trainer =
        Trainer::new(&mut model.network, &documents, Trained::Lora, options()).unwrap();
    assert_eq!(trainer.steps(), 12);
    if cut.is_some() {
        let e = trainer.resume(&path, "other rows").unwrap_err().to_string();
        assert!(e.contains("is of a run with other rows"), "{e}");
        trainer.resume(&path, "rows").unwrap();
    }
    while let Some(report) = trainer.step().unwrap() {
        losses.push(report.loss);
    }
    let lora = model.network.layers[1].down.lora.clone().unwrap();
    (losses, [lora.a, lora.b].concat())
}

#[test]
fn a_run_that_was_cut_off_ends_as_one_that_was_not() {
    let whole = trained(None);
    assert_eq!(whole.0.len(), 12);
    assert!(whole.0[11] < whole.0[0] * 0.8, "{:?}", whole.0);
    for cut in [1, 7] {
        assert_eq!(trained(Some(cut)), whole, "cut after {cut}");
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_before_anything_changes() {
    let mut model = read("llama");
    model.network.add_lora(4, 8.0, 1);
    let documents = documents("llama");
    let options = TrainOptions {
        schedule: Schedule::Constant,
        warmup: 0,
        ..options()
    };
    let mut trainer = Trainer::new(&mut model.network, &documents, Trained::Lora, options).unwrap();
    trainer.step().unwrap().unwrap();
    drop(trainer);
    let mut broken = model.network.clone();
    broken.layers[0].mlp_norm[3] = f32::NAN;
    let before = broken.layers[1].q.lora.clone();
    let options = TrainOptions {
        length: 256,
        ..TrainOptions::default()
    };
    let mut trainer = Trainer::new(&mut broken, &documents, Trained::Lora, options).unwrap();
    let error = trainer.step().unwrap_err();
    assert!(
        matches!(&error, LearnError::Diverged { step: 1, rows } if rows.len() == 2),
        "{error}"
    );
    assert!(error.to_string().contains("row 0"), "{error}");
    assert_eq!(trainer.done(), 0);
    drop(trainer);
    assert_eq!(broken.layers[1].q.lora, before);
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let mut model = read("llama");
    let mut documents = documents("llama");
    let mut refused = |documents: &[Document], options: TrainOptions| {
        let run = Trainer::new(&mut model.network, documents, Trained::Full, options);
        run.map(|_| ()).unwrap_err().to_string()
    };
    let short = TrainOptions {
        length: 90,
        ..options()
    };
    let e = refused(&documents, short);
    assert!(
        e.contains("1 of 2 rows are longer than 90 tokens, the first being row 0 with 100"),
        "{e}"
    );
    let whole = documents.clone();
    for document in &mut documents {
        document.learnt.fill(false);
    }
    assert!(refused(&documents, options()).contains("anything to learn"));
    let e = Trainer::new(&mut model.network, &whole, Trained::Lora, options());
    assert!(e.unwrap_err().to_string().contains("no adapter"));
}

/// A checkpoint that does not fit on the disk is an error, and the one before
/// it is kept.
#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let mut model = read("llama");
    let documents = documents("llama");
    let mut trainer =
        Trainer::new(&mut model.network, &documents, Trained::Full, options()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("step-000001.safetensors");
    trainer.save(&path, "rows").unwrap();
    let before = std::fs::read(&path).unwrap();
    // What a full disk does to a file, a directory in its place does too.
    std::fs::create_dir(dir.path().join(".step-000001.safetensors.part")).unwrap();
    trainer.step().unwrap();
    let e = trainer.save(&path, "rows").unwrap_err().to_string();
    assert!(e.contains("step-000001.safetensors"), "{e}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}
