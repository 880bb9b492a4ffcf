//! Checkpoints that are not what they should be: the error names the file and
//! the tensor or field, and says what to do.

use std::path::Path;

use swegym_learn::model::{Dtype, Model};

use crate::fixtures;

fn copied(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

#[track_caller]
fn fails(dir: &Path, parts: &[&str]) {
    let error = Model::read(dir, Dtype::Stored)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    for part in parts {
        assert!(error.contains(part), "{error}");
    }
}

fn edit(path: &Path, change: impl Fn(String) -> String) {
    let text = std::fs::read_to_string(path).unwrap();
    let changed = change(text.clone());
    assert_ne!(text, changed, "the edit finds what it changes");
    std::fs::write(path, changed).unwrap();
}

#[test]
fn an_unknown_architecture_is_named() {
    let dir = copied("llama");
    let config = dir.path().join("config.json");
    edit(&config, |t| t.replace("\"llama\"", "\"mamba\""));
    fails(
        dir.path(),
        &["config.json", "\"mamba\"", "Llama, Qwen2 and Qwen3"],
    );
}

#[test]
fn fields_that_are_wrong_are_named() {
    for (from, to, parts) in [
        (
            "\"hidden_size\": 32",
            "\"hidden_size\": \"wide\"",
            ["hidden_size", "whole number"],
        ),
        (
            "\"vocab_size\": 288",
            "\"vocab_sizes\": 288",
            ["vocab_size", "is missing"],
        ),
        (
            "\"num_key_value_heads\": 2",
            "\"num_key_value_heads\": 3",
            ["4 query heads", "3 key heads"],
        ),
        ("\"llama3\"", "\"longrope\"", ["rope_type", "longrope"]),
        ("\"silu\"", "\"gelu\"", ["hidden_act", "gelu"]),
    ] {
        let dir = copied("llama");
        edit(&dir.path().join("config.json"), |t| t.replace(from, to));
        fails(dir.path(), &parts);
    }
}

#[test]
fn tensors_that_are_missing_or_of_another_shape_are_named() {
    let dir = copied("llama");
    edit(&dir.path().join("config.json"), |t| {
        t.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")
    });
    fails(
        dir.path(),
        &["model.layers.2.input_layernorm.weight", "is missing"],
    );
    let dir = copied("llama");
    edit(&dir.path().join("config.json"), |t| {
        t.replace("\"intermediate_size\": 64", "\"intermediate_size\": 65")
    });
    fails(
        dir.path(),
        &["mlp.gate_proj.weight", "[64, 32]", "[65, 32]"],
    );
}

#[test]
fn files_that_are_cut_off_are_named() {
    let dir = copied("llama");
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for size in [4, 100, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..size]).unwrap();
        fails(dir.path(), &["model.safetensors", "cut off"]);
    }
    std::fs::remove_file(&path).unwrap();
    fails(dir.path(), &["holds no *.safetensors"]);
    std::fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    std::fs::write(&path, &bytes).unwrap();
    fails(dir.path(), &["tokenizer.json", "not a tokenizer"]);
    let gguf = dir.path().join("model.gguf");
    std::fs::write(&gguf, b"GGUF\x03\0\0\0\xff\xff").unwrap();
    fails(&gguf, &["model.gguf", "cut off"]);
    fails(&dir.path().join("nowhere"), &["no such file"]);
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let dir = copied("llama");
    edit(&dir.path().join("config.json"), |t| {
        t.replace("\"vocab_size\": 288", "\"vocab_size\": 270")
    });
    fails(dir.path(), &["tokenizer.json", "270 rows"]);
}

#[test]
fn templates_that_fail_say_where() {
    let dir = copied("llama");
    let path = dir.path().join("chat_template.jinja");
    std::fs::write(&path, "{% for m in %}").unwrap();
    fails(dir.path(), &["chat template", "line 1"]);
    std::fs::write(
        &path,
        "ok\n{{ raise_exception('only one system message') }}",
    )
    .unwrap();
    let model = Model::read(dir.path(), Dtype::Stored).unwrap();
    let error = model
        .template
        .unwrap()
        .render(&[], &[], true)
        .unwrap_err()
        .to_string();
    assert!(error.contains("only one system message"), "{error}");
    assert!(error.contains("line 2"), "{error}");
}
