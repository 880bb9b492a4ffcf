//! A model's weights, and how they are read and written.

mod adapter;
mod gguf;
mod linear;
mod tensors;
mod write;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub use linear::{Linear, LinearGradients, Lora, Weight};
pub(crate) use tensors::read_state;
pub use tensors::{Dtype, TensorSource};
pub(crate) use write::{Tensor, write_safetensors};

use crate::config::Config;
use crate::error::{LearnError, Result};
use crate::kernel::Rope;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// One block of the decoder.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Norm before attention, `[hidden]`.
    pub attention_norm: Vec<f32>,
    /// Queries, `[heads * head_dim, hidden]`.
    pub q: Linear,
    /// Keys, `[kv_heads * head_dim, hidden]`.
    pub k: Linear,
    /// Values, as the keys.
    pub v: Linear,
    /// Output, `[hidden, heads * head_dim]`.
    pub o: Linear,
    /// Norm of each query head (Qwen3), `[head_dim]`.
    pub q_norm: Option<Vec<f32>>,
    /// Norm of each key head (Qwen3).
    pub k_norm: Option<Vec<f32>>,
    /// Norm before the feed-forward layer.
    pub mlp_norm: Vec<f32>,
    /// `[intermediate, hidden]`.
    pub gate: Linear,
    /// `[intermediate, hidden]`.
    pub up: Linear,
    /// `[hidden, intermediate]`.
    pub down: Linear,
}

/// The seven linear layers of a block by the names of published checkpoints.
pub const LINEARS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

impl Layer {
    /// Its linear layers, in the order of [`LINEARS`].
    pub fn linears(&self) -> [&Linear; 7] {
        [
            &self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down,
        ]
    }

    /// The same, to change.
    pub fn linears_mut(&mut self) -> [&mut Linear; 7] {
        [
            &mut self.q,
            &mut self.k,
            &mut self.v,
            &mut self.o,
            &mut self.gate,
            &mut self.up,
            &mut self.down,
        ]
    }
}

/// Weights of a decoder.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its shape.
    pub config: Config,
    /// Token embedding, `[vocab, hidden]`.
    pub embedding: Linear,
    /// Blocks, bottom first.
    pub layers: Vec<Layer>,
    /// Last norm.
    pub norm: Vec<f32>,
    /// Output layer `[vocab, hidden]`, if it is not the embedding.
    pub head: Option<Linear>,
    /// Rotary positions.
    pub rope: Rope,
}

/// A model that can be asked: weights, tokenizer and chat template.
#[derive(Debug, Clone)]
pub struct Model {
    /// What it is called.
    pub name: String,
    /// The folder or file that it was read from.
    pub path: PathBuf,
    /// Weights.
    pub network: Network,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// How a conversation is written down; none for base models.
    pub template: Option<ChatTemplate>,
}

impl Network {
    /// Reads all weights.
    ///
    /// # Errors
    /// If a tensor is missing, or has another shape than the configuration
    /// says.
    pub fn read(config: Config, source: &dyn TensorSource, dtype: Dtype) -> Result<Self> {
        let c = &config;
        let linear = |name: String, rows, columns, bias| -> Result<Linear> {
            Ok(Linear {
                rows,
                columns,
                weight: source.matrix(&format!("{name}.weight"), rows, columns, dtype)?,
                bias: match bias {
                    true => Some(source.vector(&format!("{name}.bias"), rows)?),
                    false => None,
                },
                lora: None,
            })
        };
        let mut layers = Vec::with_capacity(c.layers);
        for n in 0..c.layers {
            let at = |part: &str| format!("model.layers.{n}.{part}");
            let norm = |part: &str, size| source.vector(&at(part), size);
            let qwen3 = c.architecture == crate::config::Architecture::Qwen3;
            let head_norm = |part: &str| -> Result<Option<Vec<f32>>> {
                qwen3.then(|| norm(part, c.head_dim)).transpose()
            };
            layers.push(Layer {
                attention_norm: norm("input_layernorm.weight", c.hidden)?,
                q: linear(at(LINEARS[0]), c.q_dim(), c.hidden, c.qkv_bias)?,
                k: linear(at(LINEARS[1]), c.kv_dim(), c.hidden, c.qkv_bias)?,
                v: linear(at(LINEARS[2]), c.kv_dim(), c.hidden, c.qkv_bias)?,
                o: linear(at(LINEARS[3]), c.hidden, c.q_dim(), c.o_bias)?,
                q_norm: head_norm("self_attn.q_norm.weight")?,
                k_norm: head_norm("self_attn.k_norm.weight")?,
                mlp_norm: norm("post_attention_layernorm.weight", c.hidden)?,
                gate: linear(at(LINEARS[4]), c.intermediate, c.hidden, false)?,
                up: linear(at(LINEARS[5]), c.intermediate, c.hidden, false)?,
                down: linear(at(LINEARS[6]), c.hidden, c.intermediate, false)?,
            });
        }
        Ok(Self {
            embedding: linear("model.embed_tokens".into(), c.vocab, c.hidden, false)?,
            norm: source.vector("model.norm.weight", c.hidden)?,
            head: match c.tied {
                true => None,
                false => Some(linear("lm_head".into(), c.vocab, c.hidden, false)?),
            },
            layers,
            rope: Rope::new(c),
            config,
        })
    }

    /// The output layer.
    pub fn head(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Turns weights of 4 and 8 bits into `f32`: training is faster over them,
    /// by their size.
    pub fn unpack(&mut self) {
        let outer = [Some(&mut self.embedding), self.head.as_mut()];
        let inner = self.layers.iter_mut().flat_map(Layer::linears_mut);
        for linear in outer.into_iter().flatten().chain(inner) {
            if matches!(linear.weight, Weight::Quantised(_)) {
                let weight = std::mem::replace(&mut linear.weight, Weight::F32(Vec::new()));
                linear.weight = Weight::F32(weight.into_f32());
            }
        }
    }

    /// How many numbers the weights are.
    pub fn parameters(&self) -> usize {
        let linear = |l: &Linear| l.rows * l.columns + l.bias.as_ref().map_or(0, Vec::len);
        let layer = |l: &Layer| -> usize {
            l.linears().into_iter().map(linear).sum::<usize>()
                + l.attention_norm.len()
                + l.mlp_norm.len()
                + l.q_norm.as_ref().map_or(0, Vec::len)
                + l.k_norm.as_ref().map_or(0, Vec::len)
        };
        self.layers.iter().map(layer).sum::<usize>()
            + linear(&self.embedding)
            + self.norm.len()
            + self.head.as_ref().map_or(0, linear)
    }
}

impl Model {
    /// Reads a model from a folder of the hub's layout (`config.json`,
    /// `*.safetensors`, `tokenizer.json`) or from a GGUF file.
    ///
    /// # Errors
    /// If it is of an unknown architecture, incomplete or damaged.
    pub fn read(path: &Path, dtype: Dtype) -> Result<Self> {
        if path.is_dir() {
            let only = single_gguf(path)?;
            return match only {
                Some(file) => gguf::read(&file, dtype),
                None => read_folder(path, dtype),
            };
        }
        if !path.exists() {
            return Err(LearnError::format(path, "no such file or directory"));
        }
        if path.extension().is_some_and(|e| e == "gguf") {
            return gguf::read(path, dtype);
        }
        Err(LearnError::format(
            path,
            "is neither a folder with config.json and *.safetensors nor a .gguf file",
        ))
    }
}

/// The shape of a model, without its weights.
///
/// # Errors
/// As [`Model::read`], as far as the shape goes.
pub fn read_config(path: &Path) -> Result<Config> {
    if !path.is_dir() {
        return gguf::read_config(path);
    }
    match single_gguf(path)? {
        Some(file) => gguf::read_config(&file),
        None => folder_config(path),
    }
}

fn folder_config(dir: &Path) -> Result<Config> {
    let path = dir.join("config.json");
    let config = read_json(&path)?.ok_or_else(|| {
        LearnError::format(
            dir,
            "holds no config.json; a model folder has config.json, *.safetensors and tokenizer.json",
        )
    })?;
    let generation = read_json(&dir.join("generation_config.json"))?;
    Config::from_json(&path, &config, generation.as_ref())
}

/// The GGUF file of a folder that holds no other model.
fn single_gguf(dir: &Path) -> Result<Option<PathBuf>> {
    if dir.join("config.json").exists() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| LearnError::io(dir, e))? {
        let path = entry.map_err(|e| LearnError::io(dir, e))?.path();
        if path.extension().is_some_and(|e| e == "gguf") {
            found.push(path);
        }
    }
    match found.len() {
        0 => Ok(None),
        1 => Ok(found.pop()),
        many => Err(LearnError::format(
            dir,
            format!("holds {many} .gguf files; name one of them"),
        )),
    }
}

fn read_json(path: &Path) -> Result<Option<Value>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(LearnError::io(path, e)),
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|e| LearnError::format(path, format!("invalid JSON: {e}")))
}

fn read_folder(dir: &Path, dtype: Dtype) -> Result<Model> {
    let config = folder_config(dir)?;
    let source = tensors::Safetensors::open(dir)?;
    let tokenizer_config = read_json(&dir.join("tokenizer_config.json"))?;
    let name = dir.file_name().map_or_else(
        || dir.display().to_string(),
        |n| n.to_string_lossy().into_owned(),
    );
    let tokenizer = Tokenizer::from_file(&dir.join("tokenizer.json"), config.vocab)?;
    let template = ChatTemplate::from_folder(dir, &name, tokenizer_config.as_ref())?;
    Ok(Model {
        network: Network::read(config, &source, dtype)?,
        path: dir.to_owned(),
        tokenizer,
        template,
        name,
    })
}
