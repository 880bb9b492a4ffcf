//! Fine-tuning elsewhere: rows, a configuration with the paper's
//! hyper-parameters, a launch script, and how to serve the result.

use std::fs;
use std::path::Path;

use include_dir::{Dir, include_dir};
use minijinja::{Environment as Templates, context};
use regex::Regex;
use serde::Serialize;
use serde_json::Value;

use crate::Error;
use crate::curate::{self, Curated, Rows};

static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates/hand-over");

/// Who fine-tunes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trainer {
    /// TRL with accelerate.
    Trl,
    /// torchtune 0.6.
    Torchtune,
    /// Axolotl.
    Axolotl,
}

impl Trainer {
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Trl => &[
                "rows.py",
                "fine_tune.py",
                "accelerate.yaml",
                "run.sh",
                "serve.sh",
                "README.md",
            ],
            Self::Torchtune => &[
                "rows.py",
                "torchtune.yaml",
                "run.sh",
                "serve.sh",
                "README.md",
            ],
            Self::Axolotl => &["axolotl.yaml", "run.sh", "serve.sh", "README.md"],
        }
    }
}

/// What is fine-tuned, and where.
#[derive(Debug, Clone)]
pub struct Target {
    /// Who does it.
    pub trainer: Trainer,
    /// `OWNER/NAME` or a folder.
    pub model: String,
    /// GPUs of the machine.
    pub gpus: usize,
    /// Tokens of a row; the paper's without.
    pub length: Option<usize>,
}

/// The paper's hyper-parameters (SWE-GYM.md sections 3 and 4).
#[derive(Serialize)]
struct HyperParameters {
    /// Rank and alpha; 0 trains all weights.
    lora: usize,
    rate: &'static str,
    epochs: usize,
    schedule: &'static str,
    warmup: usize,
    accumulate: usize,
    length: usize,
    seed: u64,
}

impl HyperParameters {
    fn of(kind: Rows) -> Self {
        match kind {
            Rows::Sft | Rows::Pairs => Self {
                lora: 0,
                rate: "1.0e-4",
                epochs: 5,
                schedule: "cosine",
                warmup: 5,
                accumulate: 1,
                length: 32_768,
                seed: 42,
            },
            Rows::Verifier => Self {
                lora: 64,
                rate: "1.0e-4",
                epochs: 2,
                schedule: "linear",
                warmup: 15,
                accumulate: 8,
                length: 32_768,
                seed: 3407,
            },
        }
    }
}

/// Writes `rows.jsonl` and `report.json`, and for a trainer all that it needs.
///
/// # Errors
/// If a file cannot be written, or the trainer cannot have these rows or this
/// model.
pub fn write(
    dir: &Path,
    curated: &Curated,
    kind: Rows,
    target: Option<&Target>,
) -> Result<(), Error> {
    let mut rows = curated.rows.clone();
    if target.is_some_and(|t| t.trainer == Trainer::Axolotl) {
        rows.iter_mut().for_each(axolotl_weights);
    }
    curate::write(&dir.join("rows.jsonl"), &rows)?;
    swegym_data::atomic::write_json(&dir.join("report.json"), &curated.report)?;
    let Some(target) = target else {
        return Ok(());
    };
    if kind == Rows::Pairs {
        return Err(Error::input(
            "pairs are written as rows alone: the paper fine-tunes on none",
            "leave --for out; rows.jsonl is what TRL's DPO trainer reads",
        ));
    }
    let mut paper = HyperParameters::of(kind);
    paper.length = target.length.unwrap_or(paper.length);
    let local = Path::new(&target.model);
    let model_dir = match local.is_dir() {
        true => target.model.clone(),
        false => target
            .model
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned(),
    };
    let torchtune = match target.trainer {
        Trainer::Torchtune => Torchtune::of(&target.model, paper.lora)?,
        _ => Torchtune::default(),
    };
    let mut templates = Templates::new();
    templates.set_trim_blocks(true);
    templates.set_lstrip_blocks(true);
    templates.set_keep_trailing_newline(true);
    let given = context! {
        trainer => target.trainer, model => target.model, model_dir => model_dir,
        model_literal => quoted(&target.model), model_dir_literal => quoted(&model_dir),
        gpus => target.gpus, report => curated.report,
        component => torchtune.component, files => torchtune.files,
        model_type => torchtune.model_type,
        ..minijinja::Value::from_serialize(&paper)
    };
    for name in target.trainer.files() {
        let source = TEMPLATES.get_file(name).and_then(|f| f.contents_utf8());
        let source = source.ok_or_else(|| Error::bug(format!("no template {name}")))?;
        // Python is its own language, with braces of its own.
        let text = match *name {
            "rows.py" => source.to_owned(),
            _ => templates.render_str(source, &given).map_err(Error::bug)?,
        };
        let path = dir.join(name);
        swegym_data::atomic::write(&path, text.as_bytes())?;
    }
    Ok(())
}

/// Text as a literal of Python and YAML alike, which JSON's are.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Axolotl tells what is learnt by a field of another name.
fn axolotl_weights(row: &mut Value) {
    for message in row["messages"].as_array_mut().into_iter().flatten() {
        if let Some(weight) = message.as_object_mut().and_then(|m| m.remove("weight")) {
            message["train"] = (weight.as_f64() != Some(0.0)).into();
        }
    }
}

/// What torchtune calls a model.
#[derive(Default)]
struct Torchtune {
    /// The `model:` part of its configuration.
    component: String,
    /// Names of the weights' files.
    files: String,
    model_type: &'static str,
}

impl Torchtune {
    fn of(model: &str, lora: usize) -> Result<Self, Error> {
        let dir = Path::new(model);
        if dir.join("config.json").is_file() {
            return Self::of_folder(dir, lora);
        }
        let name = Regex::new(r"(?i)Qwen2\.5-(?:Coder-)?(0\.5|1\.5|3|7|14|32|72)B").expect("valid");
        let Some(found) = name.captures(model) else {
            return Err(Error::input(
                format!("torchtune's builder for {model} is not known"),
                "name a Qwen2.5 model, or a folder with config.json and *.safetensors",
            ));
        };
        let size = found[1].replace('.', "_");
        let kind = match (size.as_str(), model.ends_with("Instruct")) {
            ("32" | "72", _) | (_, true) => "instruct",
            _ => "base",
        };
        let shards = match size.as_str() {
            "0_5" | "1_5" => 1,
            "3" => 2,
            "7" => 4,
            "14" => 6,
            "32" => 14,
            _ => 37,
        };
        let builder = format!("qwen2_5_{size}b_{kind}");
        Ok(Self {
            component: component(&format!("torchtune.models.qwen2_5.{{}}{builder}"), lora, ""),
            files: if shards == 1 {
                "[model.safetensors]".into()
            } else {
                format!(
                    "{{filename_format: \"model-{{}}-of-{{}}.safetensors\", max_filename: \"{shards:05}\"}}"
                )
            },
            model_type: "QWEN2",
        })
    }

    /// Any model of the two architectures, by its shape.
    fn of_folder(dir: &Path, lora: usize) -> Result<Self, Error> {
        let path = dir.join("config.json");
        let text = fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let config: Value = serde_json::from_str(&text)
            .map_err(|e| Error::input(format!("{}: {e}", path.display()), ""))?;
        let number = |field: &str| config[field].as_f64().unwrap_or_default();
        let theta = config["rope_theta"].as_f64();
        let theta = theta.or_else(|| config["rope_parameters"]["rope_theta"].as_f64());
        let tied = config["tie_word_embeddings"] == true;
        let shape = format!(
            "  vocab_size: {}\n  num_layers: {}\n  num_heads: {}\n  num_kv_heads: {}\n  embed_dim: {}\n  intermediate_dim: {}\n  max_seq_len: {}\n  norm_eps: {}\n  rope_base: {}\n",
            number("vocab_size"),
            number("num_hidden_layers"),
            number("num_attention_heads"),
            number("num_key_value_heads"),
            number("hidden_size"),
            number("intermediate_size"),
            number("max_position_embeddings"),
            number("rms_norm_eps"),
            theta.unwrap_or(10_000.0),
        );
        let (builder, more, model_type) = match (config["model_type"].as_str(), tied) {
            (Some("qwen2"), tied) => {
                let more = format!("  tie_word_embeddings: {tied}\n");
                ("torchtune.models.qwen2.{}qwen2", more, "QWEN2")
            }
            (Some("llama"), true) => (
                "torchtune.models.llama3_2.{}llama3_2",
                "  scale_factor: 1\n".into(),
                "LLAMA3_2",
            ),
            (Some("llama"), false) => ("torchtune.models.llama3.{}llama3", String::new(), "LLAMA3"),
            (other, _) => {
                return Err(Error::input(
                    format!("{}: torchtune has no builder for {other:?}", path.display()),
                    "use --for trl",
                ));
            }
        };
        let mut files: Vec<String> = Vec::new();
        for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
            let name = entry.map_err(|e| Error::io(dir, e))?.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".safetensors") {
                files.push(name.into_owned());
            }
        }
        files.sort();
        Ok(Self {
            component: component(builder, lora, &(shape + &more)),
            files: format!("[{}]", files.join(", ")),
            model_type,
        })
    }
}

/// A model's component; `{}` in its name is where `lora_` goes.
fn component(builder: &str, lora: usize, more: &str) -> String {
    let mut text = String::new();
    if lora == 0 {
        text += &format!("  _component_: {}\n", builder.replace("{}", ""));
    } else {
        text += &format!("  _component_: {}\n", builder.replace("{}", "lora_"));
        text += "  lora_attn_modules: [q_proj, k_proj, v_proj, output_proj]\n";
        text += "  apply_lora_to_mlp: true\n  apply_lora_to_output: false\n";
        text += &format!("  lora_rank: {lora}\n  lora_alpha: {lora}\n  lora_dropout: 0.0\n");
    }
    (text + more).trim_end().to_owned()
}
