//! Models in one GGUF file, read by `candle-core`, which checks what the file
//! says about its own sizes.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use half::f16;

use super::{Dtype, Model, Network, TensorSource, Weight};
use crate::config::{Architecture, Config, RopeScaling};
use crate::error::{LearnError, Result};
use crate::kernel::{BLOCK, Bits, Quantised, Quants};
use crate::template::ChatTemplate;
use crate::tokenizer::{Tables, Tokenizer};

struct Gguf {
    path: PathBuf,
    content: Content,
    file: Mutex<BufReader<File>>,
    /// Head width, where rows of q and k are to be swapped back.
    permuted: Option<usize>,
}

/// Reads the whole model.
pub(super) fn read(path: &Path, dtype: Dtype) -> Result<Model> {
    let file = File::open(path).map_err(|e| LearnError::io(path, e))?;
    let mut reader = BufReader::new(file);
    let content = Content::read(&mut reader)
        .map_err(|e| LearnError::format(path, format!("not a GGUF file, or cut off: {e}")))?;
    let meta = Meta {
        path,
        content: &content,
    };
    let config = meta.config()?;
    let tokenizer = match path.parent().map(|dir| dir.join("tokenizer.json")) {
        Some(beside) if beside.exists() => Tokenizer::from_file(&beside, config.vocab)?,
        _ => Tokenizer::from_tables(path, &meta.tables()?)?,
    };
    let name = path
        .file_stem()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let word = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
    let template = match meta.text("tokenizer.chat_template") {
        Some(source) => Some(ChatTemplate::new(
            &name,
            source,
            &word(config.bos),
            &word(config.eos.first().copied()),
        )?),
        None => None,
    };
    // llama.cpp stores the rotary pairs of this family side by side.
    let permuted = (config.architecture == Architecture::Llama).then_some(config.head_dim);
    let source = Gguf {
        path: path.to_owned(),
        content,
        file: Mutex::new(reader),
        permuted,
    };
    Ok(Model {
        network: Network::read(config, &source, dtype)?,
        path: path.to_owned(),
        tokenizer,
        template,
        name,
    })
}

/// Reads the shape of a model alone.
pub(super) fn read_config(path: &Path) -> Result<Config> {
    let file = File::open(path).map_err(|e| LearnError::io(path, e))?;
    let content = Content::read(&mut BufReader::new(file))
        .map_err(|e| LearnError::format(path, format!("not a GGUF file, or cut off: {e}")))?;
    let meta = Meta {
        path,
        content: &content,
    };
    meta.config()
}

struct Meta<'a> {
    path: &'a Path,
    content: &'a Content,
}

impl Meta<'_> {
    fn bad(&self, key: &str, problem: &str) -> LearnError {
        LearnError::format(self.path, format!("metadata `{key}`: {problem}"))
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.content.metadata.get(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.content.metadata.get(key) else {
            return Ok(None);
        };
        let number = match value {
            Value::U8(n) => f64::from(*n),
            Value::I8(n) => f64::from(*n),
            Value::U16(n) => f64::from(*n),
            Value::I16(n) => f64::from(*n),
            Value::U32(n) => f64::from(*n),
            Value::I32(n) => f64::from(*n),
            Value::U64(n) => *n as f64,
            Value::I64(n) => *n as f64,
            Value::F32(n) => f64::from(*n),
            Value::F64(n) => *n,
            _ => return Err(self.bad(key, "is not a number")),
        };
        Ok(Some(number))
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        match self.number(key)? {
            None => Ok(None),
            Some(n) if n >= 1.0 && n < f64::from(1 << 30) && n.fract() == 0.0 => {
                Ok(Some(n as usize))
            }
            Some(_) => Err(self.bad(key, "is not a positive whole number")),
        }
    }

    fn need(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.bad(key, "is missing"))
    }

    fn list(&self, key: &str) -> Result<&[Value]> {
        match self.content.metadata.get(key) {
            Some(Value::Array(list)) => Ok(list),
            Some(_) => Err(self.bad(key, "is not a list")),
            None => Err(self.bad(key, "is missing")),
        }
    }

    fn strings(&self, key: &str) -> Result<Vec<String>> {
        self.list(key)?
            .iter()
            .map(|value| match value {
                Value::String(text) => Ok(text.clone()),
                _ => Err(self.bad(key, "holds what is no string")),
            })
            .collect()
    }

    fn config(&self) -> Result<Config> {
        let kind = self.text("general.architecture").unwrap_or("(none)");
        let architecture = match kind {
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            other => {
                return Err(LearnError::Architecture {
                    path: self.path.to_owned(),
                    found: other.to_owned(),
                });
            }
        };
        let key = |part: &str| format!("{kind}.{part}");
        if self.number(&key("expert_count"))?.is_some_and(|n| n > 0.0) {
            return Err(self.bad(
                &key("expert_count"),
                "mixtures of experts are not supported",
            ));
        }
        let hidden = self.need(&key("embedding_length"))?;
        let heads = self.need(&key("attention.head_count"))?;
        let context = self.need(&key("context_length"))?;
        let infos = &self.content.tensor_infos;
        let vocab = match infos.get("token_embd.weight").map(|t| t.shape.dims()) {
            Some([rows, _]) => *rows,
            _ => {
                return Err(LearnError::tensor(
                    self.path,
                    "token_embd.weight",
                    "is missing, or no matrix",
                ));
            }
        };
        let scaling = match self.text(&key("rope.scaling.type")) {
            None | Some("none") => None,
            Some("linear") => Some(RopeScaling::Linear {
                factor: self.number(&key("rope.scaling.factor"))?.unwrap_or(1.0),
            }),
            Some("yarn") => Some(RopeScaling::Yarn {
                factor: self.number(&key("rope.scaling.factor"))?.unwrap_or(1.0),
                original_context: self
                    .number(&key("rope.scaling.original_context_length"))?
                    .unwrap_or(context as f64),
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: None,
            }),
            Some(other) => {
                return Err(self.bad(
                    &key("rope.scaling.type"),
                    &format!("{other:?} is not supported"),
                ));
            }
        };
        if infos.contains_key("rope_freqs.weight") {
            return Err(self.bad(
                "rope_freqs.weight",
                "frequencies of Llama 3.1 in a GGUF file are not supported; use its safetensors",
            ));
        }
        let token = |key: &str| -> Result<Option<u32>> { Ok(self.number(key)?.map(|n| n as u32)) };
        let mut eos = Vec::new();
        for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
            if let Some(id) = token(key)?
                && !eos.contains(&id)
            {
                eos.push(id);
            }
        }
        Config {
            architecture,
            vocab,
            hidden,
            intermediate: self.need(&key("feed_forward_length"))?,
            layers: self.need(&key("block_count"))?,
            heads,
            kv_heads: self.size(&key("attention.head_count_kv"))?.unwrap_or(heads),
            head_dim: self
                .size(&key("attention.key_length"))?
                .unwrap_or(hidden / heads),
            rope_theta: self.number(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            rope_scaling: scaling,
            norm_epsilon: self
                .number(&key("attention.layer_norm_rms_epsilon"))?
                .unwrap_or(1e-6) as f32,
            tied: !infos.contains_key("output.weight"),
            qkv_bias: infos.contains_key("blk.0.attn_q.bias"),
            o_bias: infos.contains_key("blk.0.attn_output.bias"),
            context,
            bos: token("tokenizer.ggml.bos_token_id")?,
            eos,
        }
        .checked(self.path)
    }

    fn tables(&self) -> Result<Tables> {
        let model = self.text("tokenizer.ggml.model").unwrap_or("(none)");
        if model != "gpt2" {
            return Err(self.bad(
                "tokenizer.ggml.model",
                &format!(
                    "{model:?} is not supported; put the model's tokenizer.json beside the file"
                ),
            ));
        }
        let tokens = self.strings("tokenizer.ggml.tokens")?;
        let kinds = match self.content.metadata.get("tokenizer.ggml.token_type") {
            None => vec![1; tokens.len()],
            Some(_) => self
                .list("tokenizer.ggml.token_type")?
                .iter()
                .map(|v| match v {
                    Value::I32(n) => i64::from(*n),
                    Value::U32(n) => i64::from(*n),
                    _ => 1,
                })
                .collect(),
        };
        let add_bos = matches!(
            self.content.metadata.get("tokenizer.ggml.add_bos_token"),
            Some(Value::Bool(true))
        );
        Ok(Tables {
            pre: self
                .text("tokenizer.ggml.pre")
                .unwrap_or("default")
                .to_owned(),
            merges: self.strings("tokenizer.ggml.merges")?,
            bos: self
                .number("tokenizer.ggml.bos_token_id")?
                .map(|n| n as u32),
            tokens,
            kinds,
            add_bos,
        })
    }
}

impl Gguf {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<(String, QTensor)> {
        let stored = stored_name(name);
        let bad = |problem: String| LearnError::tensor(&self.path, &stored, problem);
        let Some(info) = self.content.tensor_infos.get(&stored) else {
            return Err(bad("is missing".into()));
        };
        if info.shape.dims() != shape {
            return Err(bad(format!(
                "has shape {:?}, the metadata ask for {shape:?}",
                info.shape.dims()
            )));
        }
        let mut file = self
            .file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let tensor = self
            .content
            .tensor(&mut *file, &stored, &Device::Cpu)
            .map_err(|e| bad(format!("cannot be read: {e}")))?;
        Ok((stored, tensor))
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (stored, tensor) = self.tensor(name, shape)?;
        tensor
            .dequantize(&Device::Cpu)
            .and_then(|t| t.flatten_all())
            .and_then(|t| t.to_vec1::<f32>())
            .map_err(|e| LearnError::tensor(&self.path, &stored, e))
    }
}

impl Gguf {
    /// A matrix in its 4 or 8 bits; `None` for types that have no kernel.
    fn packed(&self, name: &str, rows: usize, columns: usize) -> Result<Option<Quantised>> {
        let (stored, tensor) = self.tensor(name, &[rows, columns])?;
        let read: fn(&[u8]) -> Quants = match tensor.dtype() {
            GgmlDType::Q4_0 => q4_0,
            GgmlDType::Q4_1 => q4_1,
            GgmlDType::Q8_0 => q8_0,
            _ => return Ok(None),
        };
        let bits = match tensor.dtype() {
            GgmlDType::Q8_0 => Bits::Eight,
            _ => Bits::Four,
        };
        if !columns.is_multiple_of(BLOCK) {
            return Ok(None);
        }
        let bytes = tensor
            .data()
            .map_err(|e| LearnError::tensor(&self.path, &stored, e))?;
        let blocks = columns / BLOCK;
        let size = bytes.len() / (rows * blocks);
        let moved = self.permuted.filter(|_| is_permuted(name));
        let pack = Quantised::pack(rows, columns, bits, |row, block| {
            let from = moved.map_or(row, |head_dim| stored_row(row, head_dim));
            read(&bytes[(from * blocks + block) * size..][..size])
        });
        Ok(Some(pack))
    }

    /// Rows of queries and keys in the order of published checkpoints.
    fn restore(&self, name: &str, stored: Vec<f32>, rows: usize, columns: usize) -> Vec<f32> {
        let Some(head_dim) = self.permuted else {
            return stored;
        };
        if !is_permuted(name) {
            return stored;
        }
        let mut moved = Vec::with_capacity(stored.len());
        for row in 0..rows {
            let from = stored_row(row, head_dim) * columns;
            moved.extend_from_slice(&stored[from..from + columns]);
        }
        moved
    }
}

/// Whether llama.cpp keeps the rows of a tensor in another order.
fn is_permuted(name: &str) -> bool {
    name.contains("q_proj.") || name.contains("k_proj.")
}

fn half(bytes: &[u8]) -> f16 {
    f16::from_le_bytes([bytes[0], bytes[1]])
}

/// Sixteen bytes as 32 steps: the lower halves first.
fn nibbles(bytes: &[u8]) -> [u8; BLOCK] {
    std::array::from_fn(|k| {
        if k < 16 {
            bytes[k] & 15
        } else {
            bytes[k - 16] >> 4
        }
    })
}

/// GGML's blocks: scale and 4 bits around 8.
fn q4_0(block: &[u8]) -> Quants {
    let scale = half(block);
    Quants {
        scale,
        least: f16::from_f32(scale.to_f32() * -8.0),
        steps: nibbles(&block[2..]),
    }
}

/// Scale, least and 4 bits.
fn q4_1(block: &[u8]) -> Quants {
    Quants {
        scale: half(block),
        least: half(&block[2..]),
        steps: nibbles(&block[4..]),
    }
}

/// Scale and 8 bits with their sign.
fn q8_0(block: &[u8]) -> Quants {
    let scale = half(block);
    Quants {
        scale,
        least: f16::from_f32(scale.to_f32() * -128.0),
        steps: std::array::from_fn(|k| block[2 + k] ^ 0x80),
    }
}

/// Where row `to` of a matrix of queries or keys lies in the file.
fn stored_row(to: usize, head_dim: usize) -> usize {
    let (head, i) = (to / head_dim, to % head_dim);
    let half = head_dim / 2;
    head * head_dim + (i % half) * 2 + i / half
}

impl TensorSource for Gguf {
    fn matrix(&self, name: &str, rows: usize, columns: usize, dtype: Dtype) -> Result<Weight> {
        if dtype == Dtype::Stored
            && let Some(packed) = self.packed(name, rows, columns)?
        {
            return Ok(Weight::Quantised(packed));
        }
        let numbers = self.floats(name, &[rows, columns])?;
        Ok(Weight::of(
            self.restore(name, numbers, rows, columns),
            dtype,
        ))
    }

    fn vector(&self, name: &str, size: usize) -> Result<Vec<f32>> {
        let numbers = self.floats(name, &[size])?;
        Ok(self.restore(name, numbers, size, 1))
    }
}

/// The name of a tensor in GGUF.
fn stored_name(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".into(),
        "model.norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let mut stored = name.replacen("model.layers.", "blk.", 1);
    for (from, to) in [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ] {
        stored = stored.replacen(from, to, 1);
    }
    stored
}
