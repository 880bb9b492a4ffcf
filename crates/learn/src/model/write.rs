//! Models written down, as `transformers` reads them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::View;
use safetensors::tensor::Dtype as Stored;
use serde_json::json;

use super::{Dtype, LINEARS, Linear, Model, Weight};
use crate::error::{LearnError, Result};
use crate::kernel::Quantised;

/// A tensor on its way into a file.
#[derive(Debug, Clone)]
pub(crate) struct Tensor<'a> {
    shape: Vec<usize>,
    numbers: Numbers<'a>,
    /// What it becomes.
    stored: Stored,
}

#[derive(Debug, Clone, Copy)]
enum Numbers<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    Quantised(&'a Quantised),
}

impl<'a> Tensor<'a> {
    /// Numbers that are kept as they are.
    pub(crate) fn f32(shape: &[usize], numbers: &'a [f32]) -> Self {
        Self {
            shape: shape.to_vec(),
            numbers: Numbers::F32(numbers),
            stored: Stored::F32,
        }
    }

    fn of(linear: &'a Linear, dtype: Dtype) -> Self {
        let numbers = match &linear.weight {
            Weight::F32(w) => Numbers::F32(w),
            Weight::Bf16(w) => Numbers::Bf16(w),
            Weight::Quantised(w) => Numbers::Quantised(w),
        };
        Self {
            shape: vec![linear.rows, linear.columns],
            stored: stored(dtype, numbers),
            numbers,
        }
    }

    fn vector(numbers: &'a [f32], dtype: Dtype) -> Self {
        let shape = vec![numbers.len()];
        let numbers = Numbers::F32(numbers);
        Self {
            shape,
            stored: stored(dtype, numbers),
            numbers,
        }
    }
}

fn stored(dtype: Dtype, numbers: Numbers<'_>) -> Stored {
    match (dtype, numbers) {
        (Dtype::Bf16, _) | (Dtype::Stored, Numbers::Bf16(_)) => Stored::BF16,
        (Dtype::F32, _) | (Dtype::Stored, _) => Stored::F32,
    }
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Stored {
        self.stored
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let unpacked;
        let floats = match self.numbers {
            Numbers::Bf16(w) if self.stored == Stored::BF16 => {
                return Cow::Borrowed(bytemuck::cast_slice(w));
            }
            Numbers::F32(w) if self.stored == Stored::F32 => {
                return Cow::Borrowed(bytemuck::cast_slice(w));
            }
            Numbers::F32(w) => w,
            Numbers::Bf16(w) => {
                unpacked = Weight::Bf16(w.to_vec()).into_f32();
                &unpacked
            }
            Numbers::Quantised(w) => {
                unpacked = Weight::Quantised(w.clone()).into_f32();
                &unpacked
            }
        };
        let bytes = match self.stored {
            Stored::BF16 => {
                let halves = floats.iter().map(|x| bf16::from_f32(*x).to_le_bytes());
                halves.flatten().collect()
            }
            _ => floats.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        let each = if self.stored == Stored::BF16 { 2 } else { 4 };
        self.shape.iter().product::<usize>() * each
    }
}

/// Writes tensors as one safetensors file: first under another name, so that
/// there is never half a file.
///
/// # Errors
/// If it cannot be written; nothing is left of it then, and an older file of
/// the name is kept.
pub(crate) fn write_safetensors(
    path: &Path,
    tensors: BTreeMap<String, Tensor<'_>>,
    notes: HashMap<String, String>,
) -> Result<()> {
    let hidden = hidden_name(path);
    let written = safetensors::serialize_to_file(tensors, Some(notes), &hidden)
        .map_err(|e| match e {
            safetensors::SafeTensorError::IoError(e) => e,
            other => std::io::Error::other(other.to_string()),
        })
        .and_then(|()| std::fs::File::open(&hidden)?.sync_all())
        .and_then(|()| readable(&hidden))
        .and_then(|()| std::fs::rename(&hidden, path));
    written.map_err(|e| {
        // What is left of it would only fill the disk.
        let _ = std::fs::remove_file(&hidden);
        LearnError::io(path, e)
    })
}

/// The library makes files that only their owner may read.
#[cfg(unix)]
fn readable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &Path) -> std::io::Result<()> {
    Ok(())
}

fn hidden_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.part"))
}

impl Model {
    /// Writes the model into a folder that `transformers`, vLLM and this
    /// program read: `config.json`, `model.safetensors`, `tokenizer.json` and
    /// the chat template. An adapter is not written; merge it first.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, dir: &Path, dtype: Dtype) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| LearnError::io(dir, e))?;
        let tensors = self.tensors(dtype);
        let torch = match tensors.values().any(|t| t.stored == Stored::BF16) {
            true => "bfloat16",
            false => "float32",
        };
        let notes = HashMap::from([("format".into(), "pt".into())]);
        write_safetensors(&dir.join("model.safetensors"), tensors, notes)?;
        let text = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|e| LearnError::io(path, e))
        };
        let mut config = self.network.config.to_json();
        config["dtype"] = torch.into();
        let pretty = |value| serde_json::to_string_pretty(&value).unwrap_or_default() + "\n";
        text("config.json", pretty(config))?;
        text("tokenizer.json", self.tokenizer.json().to_owned())?;
        let mut tokenizer = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.network.config.context,
            "clean_up_tokenization_spaces": false,
        });
        let eos = self.network.config.eos.first();
        if let Some(template) = &self.template {
            let (bos, eos) = template.words();
            for (field, word) in [("bos_token", bos), ("eos_token", eos)] {
                if !word.is_empty() {
                    tokenizer[field] = word.into();
                }
            }
            text("chat_template.jinja", template.source().to_owned())?;
        } else if let Some(word) = eos.and_then(|id| self.tokenizer.token(*id)) {
            tokenizer["eos_token"] = word.into();
        }
        text("tokenizer_config.json", pretty(tokenizer))
    }

    fn tensors(&self, dtype: Dtype) -> BTreeMap<String, Tensor<'_>> {
        let network = &self.network;
        let mut all = BTreeMap::new();
        let mut linear = |name: String, linear| {
            let linear: &Linear = linear;
            all.insert(format!("{name}.weight"), Tensor::of(linear, dtype));
            if let Some(bias) = &linear.bias {
                all.insert(format!("{name}.bias"), Tensor::vector(bias, dtype));
            }
        };
        linear("model.embed_tokens".into(), &network.embedding);
        if let Some(head) = &network.head {
            linear("lm_head".into(), head);
        }
        for (n, layer) in network.layers.iter().enumerate() {
            for (name, own) in LINEARS.iter().zip(layer.linears()) {
                linear(format!("model.layers.{n}.{name}"), own);
            }
        }
        let mut norm = |name: String, weight| {
            all.insert(format!("{name}.weight"), Tensor::vector(weight, dtype));
        };
        norm("model.norm".into(), &network.norm);
        for (n, layer) in network.layers.iter().enumerate() {
            let at = |part: &str| format!("model.layers.{n}.{part}");
            norm(at("input_layernorm"), &layer.attention_norm);
            norm(at("post_attention_layernorm"), &layer.mlp_norm);
            for (part, own) in [("q_norm", &layer.q_norm), ("k_norm", &layer.k_norm)] {
                if let Some(own) = own {
                    norm(at(&format!("self_attn.{part}")), own);
                }
            }
        }
        all
    }
}
