//! What a model is: `config.json` of the hub, or the metadata of a GGUF file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{LearnError, Result};

/// Families of decoder that this crate knows. All share one block: RMSNorm,
/// grouped-query attention with rotary positions, gated SiLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// Llama 2 and 3, SmolLM, Mistral without sliding windows.
    Llama,
    /// Qwen 2 and 2.5: biases on q, k and v.
    Qwen2,
    /// Qwen 3: norms on q and k.
    Qwen3,
}

/// Shape and constants of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How they are stretched for long contexts.
    pub rope_scaling: Option<RopeScaling>,
    /// Epsilon of the norms.
    pub norm_epsilon: f32,
    /// Whether the output layer is the embedding.
    pub tied: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output has one.
    pub o_bias: bool,
    /// Positions.
    pub context: usize,
    /// Token that begins a text, where the tokenizer adds one.
    pub bos: Option<u32>,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
}

/// Rotary frequencies for contexts longer than those trained on, as
/// `transformers` defines them.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// All positions divided.
    Linear {
        /// By this.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept.
    Llama3 {
        /// By this.
        factor: f64,
        /// Below so many turns over the old context: divided.
        low_freq_factor: f64,
        /// Above so many: kept.
        high_freq_factor: f64,
        /// Positions trained on.
        original_context: f64,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// By this.
        factor: f64,
        /// Positions trained on.
        original_context: f64,
        /// Turns from which a frequency is kept.
        beta_fast: f64,
        /// Turns below which it is divided.
        beta_slow: f64,
        /// Scale of cosine and sine, if not the paper's.
        attention_factor: Option<f64>,
    },
}

/// Fields of a JSON object, with errors that name them.
struct Fields<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn bad(&self, field: &str, problem: &str) -> LearnError {
        LearnError::format(self.path, format!("field `{field}`: {problem}"))
    }

    fn number(&self, field: &str) -> Result<Option<f64>> {
        match self.map.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|n| n.is_finite())
                .map(Some)
                .ok_or_else(|| self.bad(field, "is not a number")),
        }
    }

    fn size(&self, field: &str) -> Result<Option<usize>> {
        match self.map.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_u64()
                .filter(|n| (1..1 << 31).contains(n))
                .map(|n| Some(n as usize))
                .ok_or_else(|| self.bad(field, "is not a positive whole number")),
        }
    }

    fn need(&self, field: &str) -> Result<usize> {
        self.size(field)?
            .ok_or_else(|| self.bad(field, "is missing"))
    }

    fn yes(&self, field: &str) -> Option<bool> {
        self.map.get(field).and_then(Value::as_bool)
    }

    fn tokens(&self, field: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        match self.map.get(field) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => list
                .iter()
                .map(|v| id(v).ok_or_else(|| self.bad(field, "holds what is no token id")))
                .collect(),
            Some(value) => Ok(vec![
                id(value).ok_or_else(|| self.bad(field, "is no token id"))?,
            ]),
        }
    }
}

impl Config {
    /// Reads a `config.json`, with the tokens that end an answer also from
    /// `generation_config.json` where that is given.
    ///
    /// # Errors
    /// On an unknown architecture, or a field that is missing, of the wrong
    /// type, or contradicts others.
    pub fn from_json(path: &Path, config: &Value, generation: Option<&Value>) -> Result<Self> {
        let map = config
            .as_object()
            .ok_or_else(|| LearnError::format(path, "is not a JSON object"))?;
        let fields = Fields { path, map };
        let found = map
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or("(no field `model_type`)");
        let architecture = match found {
            "llama" | "mistral" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            other => {
                return Err(LearnError::Architecture {
                    path: path.to_owned(),
                    found: other.to_owned(),
                });
            }
        };
        if let Some(act) = map.get("hidden_act").and_then(Value::as_str)
            && act != "silu"
        {
            return Err(fields.bad("hidden_act", &format!("{act:?}; only \"silu\" is known")));
        }
        let windowed = match architecture {
            Architecture::Llama => fields.size("sliding_window")?.is_some(),
            _ => fields.yes("use_sliding_window") == Some(true),
        };
        if windowed {
            return Err(fields.bad("sliding_window", "attention in windows is not supported"));
        }
        if fields.yes("mlp_bias") == Some(true) {
            return Err(fields.bad(
                "mlp_bias",
                "biases in the feed-forward layer are not supported",
            ));
        }
        let hidden = fields.need("hidden_size")?;
        let heads = fields.need("num_attention_heads")?;
        let head_dim = match fields.size("head_dim")? {
            Some(dim) => dim,
            None if architecture == Architecture::Qwen3 => 128,
            None => hidden / heads,
        };
        let bias = fields.yes("attention_bias").unwrap_or(false);
        let mut eos = fields.tokens("eos_token_id")?;
        if let Some(Value::Object(map)) = generation {
            let fields = Fields { path, map };
            for token in fields.tokens("eos_token_id")? {
                if !eos.contains(&token) {
                    eos.push(token);
                }
            }
        }
        // transformers 5 moved both into `rope_parameters`.
        let rope = map
            .get("rope_parameters")
            .or_else(|| map.get("rope_scaling"));
        let theta = match fields.number("rope_theta")? {
            Some(theta) => theta,
            None => rope
                .and_then(|rope| rope.get("rope_theta"))
                .and_then(Value::as_f64)
                .unwrap_or(10_000.0),
        };
        let context = fields.size("max_position_embeddings")?.unwrap_or(2048);
        let config = Self {
            architecture,
            vocab: fields.need("vocab_size")?,
            hidden,
            intermediate: fields.need("intermediate_size")?,
            layers: fields.need("num_hidden_layers")?,
            heads,
            kv_heads: fields.size("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            rope_theta: theta,
            rope_scaling: rope_scaling(&fields, rope, context)?,
            norm_epsilon: fields.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            tied: fields.yes("tie_word_embeddings").unwrap_or(false),
            qkv_bias: bias || architecture == Architecture::Qwen2,
            o_bias: bias,
            context,
            bos: fields.tokens("bos_token_id")?.first().copied(),
            eos,
        };
        config.checked(path)
    }

    /// Whether its numbers go together.
    pub(crate) fn checked(self, path: &Path) -> Result<Self> {
        let problem = if self.heads == 0 || self.kv_heads == 0 || self.layers == 0 {
            Some("has no heads or layers".to_owned())
        } else if !self.heads.is_multiple_of(self.kv_heads) {
            Some(format!(
                "{} query heads do not share {} key heads evenly",
                self.heads, self.kv_heads
            ))
        } else if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            Some(format!(
                "a head is {} wide; rotary positions need an even number",
                self.head_dim
            ))
        } else {
            None
        };
        match problem {
            Some(problem) => Err(LearnError::format(path, problem)),
            None => Ok(self),
        }
    }

    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads together.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Numbers that a model of this shape is.
    pub fn parameters(&self) -> usize {
        let attention = 2 * self.hidden * (self.q_dim() + self.kv_dim());
        let biases = usize::from(self.qkv_bias) * (self.q_dim() + 2 * self.kv_dim())
            + usize::from(self.o_bias) * self.hidden;
        let head_norms = match self.architecture {
            Architecture::Qwen3 => 2 * self.head_dim,
            _ => 0,
        };
        let layer =
            attention + biases + head_norms + 3 * self.hidden * self.intermediate + 2 * self.hidden;
        let tables = if self.tied { 1 } else { 2 };
        self.layers * layer + tables * self.vocab * self.hidden + self.hidden
    }

    /// Query heads that share a key head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The `config.json` that says the same, for checkpoints that we write.
    pub fn to_json(&self) -> Value {
        let (kind, class) = match self.architecture {
            Architecture::Llama => ("llama", "LlamaForCausalLM"),
            Architecture::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
            Architecture::Qwen3 => ("qwen3", "Qwen3ForCausalLM"),
        };
        let scaling = match &self.rope_scaling {
            None => Value::Null,
            Some(RopeScaling::Linear { factor }) => {
                serde_json::json!({"rope_type": "linear", "factor": factor})
            }
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            }) => serde_json::json!({
                "rope_type": "llama3", "factor": factor,
                "low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": *original_context as u64,
            }),
            Some(RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                attention_factor,
            }) => {
                let mut map = serde_json::json!({
                    "rope_type": "yarn", "factor": factor,
                    "original_max_position_embeddings": *original_context as u64,
                    "beta_fast": beta_fast, "beta_slow": beta_slow,
                });
                if let Some(attention) = attention_factor {
                    map["attention_factor"] = (*attention).into();
                }
                map
            }
        };
        let eos = match self.eos.as_slice() {
            [] => Value::Null,
            [one] => (*one).into(),
            many => many.into(),
        };
        let mut map = serde_json::json!({
            "architectures": [class],
            "model_type": kind,
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": f64::from(self.norm_epsilon),
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling,
            "tie_word_embeddings": self.tied,
            "bos_token_id": self.bos,
            "eos_token_id": eos,
        });
        if self.architecture != Architecture::Qwen2 {
            map["attention_bias"] = self.qkv_bias.into();
        }
        map
    }
}

fn rope_scaling(
    fields: &Fields<'_>,
    rope: Option<&Value>,
    context: usize,
) -> Result<Option<RopeScaling>> {
    let Some(Value::Object(map)) = rope else {
        return Ok(None);
    };
    let rope = Fields {
        path: fields.path,
        map,
    };
    let kind = map
        .get("rope_type")
        .or_else(|| map.get("type"))
        .and_then(Value::as_str)
        .unwrap_or("default");
    let need = |field: &str| -> Result<f64> {
        rope.number(field)?
            .filter(|n| *n > 0.0)
            .ok_or_else(|| rope.bad(field, "a positive number is needed here"))
    };
    let original = || -> Result<f64> {
        Ok(rope
            .number("original_max_position_embeddings")?
            .unwrap_or(context as f64))
    };
    match kind {
        "default" => Ok(None),
        "linear" => Ok(Some(RopeScaling::Linear {
            factor: need("factor")?,
        })),
        "llama3" => Ok(Some(RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_context: original()?,
        })),
        "yarn" => Ok(Some(RopeScaling::Yarn {
            factor: need("factor")?,
            original_context: original()?,
            beta_fast: rope.number("beta_fast")?.unwrap_or(32.0),
            beta_slow: rope.number("beta_slow")?.unwrap_or(1.0),
            attention_factor: rope.number("attention_factor")?,
        })),
        other => Err(rope.bad("rope_type", &format!("{other:?} is not supported"))),
    }
}
