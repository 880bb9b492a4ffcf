//! Low-rank adapters in the layout of PEFT: `adapter_config.json` and
//! `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::tensors::Safetensors;
use super::write::{Tensor, write_safetensors};
use super::{LINEARS, Linear, Lora, Network, Weight, read_json};
use crate::error::{LearnError, Result};
use crate::kernel::{View, ViewMut, matmul};

/// What PEFT puts before the names of a model's layers.
const PREFIX: &str = "base_model.model.";
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// A linear layer's last name, such as `q_proj`.
fn short(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

fn module(layer: usize, linear: usize) -> String {
    format!("model.layers.{layer}.{}", LINEARS[linear])
}

impl Network {
    /// All linear layers of the blocks with their full names.
    fn modules(&mut self) -> impl Iterator<Item = (String, &mut Linear)> {
        let layers = self.layers.iter_mut().enumerate();
        layers.flat_map(|(n, layer)| {
            let linears = layer.linears_mut().into_iter().enumerate();
            linears.map(move |(i, linear)| (module(n, i), linear))
        })
    }

    /// Gives every linear layer of the blocks a new adapter, which changes
    /// nothing before it is trained: A as PEFT draws it (uniform within `1 /
    /// sqrt(columns)`), B zero.
    pub fn add_lora(&mut self, rank: usize, alpha: f32, seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for (_, linear) in self.modules() {
            let bound = 1.0 / (linear.columns as f32).sqrt();
            let a = (0..rank * linear.columns).map(|_| random.random_range(-bound..bound));
            linear.lora = Some(Lora {
                rank,
                scale: alpha / rank as f32,
                a: a.collect(),
                b: vec![0.0; linear.rows * rank],
            });
        }
    }

    /// Takes an adapter off.
    pub fn remove_lora(&mut self) {
        for (_, linear) in self.modules() {
            linear.lora = None;
        }
    }

    /// Adds the adapter to the weights, which become `f32` where they were
    /// not, and takes it off.
    pub fn merge_lora(&mut self) {
        for (_, linear) in self.modules() {
            let Some(lora) = linear.lora.take() else {
                continue;
            };
            let (rows, columns) = (linear.rows, linear.columns);
            let weight = std::mem::replace(&mut linear.weight, Weight::F32(Vec::new()));
            let mut weight = weight.into_f32();
            let b = View::new(&lora.b, rows, lora.rank);
            let a = View::new(&lora.a, lora.rank, columns);
            let into = ViewMut::new(&mut weight, rows, columns);
            matmul(into, 1.0, lora.scale, b, a);
            linear.weight = Weight::F32(weight);
        }
    }

    /// Puts on an adapter that PEFT, or [`Network::write_lora`], wrote.
    ///
    /// # Errors
    /// If the folder is not complete, the adapter is of a kind that cannot be
    /// put on, or does not fit this model. The network is as before then.
    pub fn read_lora(&mut self, dir: &Path) -> Result<()> {
        let path = dir.join(CONFIG);
        let config = read_json(&path)?.ok_or_else(|| {
            LearnError::format(
                dir,
                "holds no adapter_config.json; an adapter has it beside adapter_model.safetensors",
            )
        })?;
        let config = PeftConfig::new(&path, &config)?;
        let source = Safetensors::open(dir)?;
        let mut unused: BTreeSet<String> = source.names().map(str::to_owned).collect();
        let mut found = Vec::new();
        for (name, linear) in self.modules() {
            let tensor = |part: &str| format!("{PREFIX}{name}.lora_{part}.weight");
            let (a, b) = (tensor("A"), tensor("B"));
            if !unused.remove(&a) {
                found.push(None);
                continue;
            }
            unused.remove(&b);
            let rank = source.rows(&a);
            found.push(Some(Lora {
                rank,
                scale: config.scale(&name, rank),
                a: source.numbers(&a, &[rank, linear.columns])?,
                b: source.numbers(&b, &[linear.rows, rank])?,
            }));
        }
        if let Some(name) = unused.first() {
            return Err(LearnError::tensor(
                source.path_of(name),
                name,
                "is for no linear layer of this model's blocks; adapters of other layers cannot be put on",
            ));
        }
        if found.iter().all(Option::is_none) {
            return Err(LearnError::format(dir, "holds no low-rank matrices"));
        }
        for ((_, linear), lora) in self.modules().zip(found) {
            linear.lora = lora;
        }
        Ok(())
    }

    /// Writes the adapter as PEFT reads it; `base` is what it names as its
    /// base model.
    ///
    /// # Errors
    /// If there is none, or a file cannot be written.
    pub fn write_lora(&self, dir: &Path, base: &str) -> Result<()> {
        let mut parts = Vec::new();
        for (n, layer) in self.layers.iter().enumerate() {
            for (i, linear) in layer.linears().into_iter().enumerate() {
                if let Some(lora) = &linear.lora {
                    parts.push((module(n, i), linear, lora));
                }
            }
        }
        let Some((_, _, first)) = parts.first() else {
            return Err(LearnError::Request(
                "the model has no adapter to write".into(),
            ));
        };
        let (rank, alpha) = (first.rank, first.alpha());
        let others = |value: &dyn Fn(&Lora) -> Value, usual: Value| -> Value {
            let differ = parts.iter().filter(|p| value(p.2) != usual);
            differ
                .map(|p| (p.0.clone(), value(p.2)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let targets: BTreeSet<&str> = parts.iter().map(|p| short(&p.0)).collect();
        let config = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base,
            "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none",
            "target_modules": targets, "inference_mode": true, "fan_in_fan_out": false,
            "init_lora_weights": true, "use_rslora": false, "use_dora": false,
            "modules_to_save": null, "layers_to_transform": null, "layers_pattern": null,
            "rank_pattern": others(&|l| l.rank.into(), rank.into()),
            "alpha_pattern": others(&|l| l.alpha().into(), alpha.into()),
        });
        let mut views = BTreeMap::new();
        for (name, linear, lora) in &parts {
            let sides = [
                ("A", [lora.rank, linear.columns], &lora.a),
                ("B", [linear.rows, lora.rank], &lora.b),
            ];
            for (side, shape, numbers) in sides {
                let tensor = Tensor::f32(&shape, numbers);
                views.insert(format!("{PREFIX}{name}.lora_{side}.weight"), tensor);
            }
        }
        std::fs::create_dir_all(dir).map_err(|e| LearnError::io(dir, e))?;
        write_safetensors(
            &dir.join(WEIGHTS),
            views,
            HashMap::from([("format".into(), "pt".into())]),
        )?;
        let text = serde_json::to_string_pretty(&config).unwrap_or_default() + "\n";
        let path = dir.join(CONFIG);
        std::fs::write(&path, text).map_err(|e| LearnError::io(path, e))
    }
}

impl Lora {
    /// The `lora_alpha` of its configuration.
    fn alpha(&self) -> f32 {
        self.scale * self.rank as f32
    }
}

/// What matters of `adapter_config.json`.
struct PeftConfig {
    alpha: f64,
    alphas: Vec<(String, f64)>,
    root: bool,
}

impl PeftConfig {
    fn new(path: &Path, config: &Value) -> Result<Self> {
        let bad = |field: &str, problem: &str| {
            LearnError::format(path, format!("field `{field}`: {problem}"))
        };
        if config["peft_type"] != "LORA" {
            return Err(bad(
                "peft_type",
                "is not LORA, the only kind of adapter that is read",
            ));
        }
        for (field, plain) in [
            ("use_dora", json!(false)),
            ("fan_in_fan_out", json!(false)),
            ("lora_bias", json!(false)),
            ("bias", json!("none")),
            ("modules_to_save", Value::Null),
            ("layer_replication", Value::Null),
        ] {
            let value = &config[field];
            if !value.is_null() && *value != plain {
                return Err(bad(field, &format!("is {value}; only {plain} can be read")));
            }
        }
        let alpha = config["lora_alpha"]
            .as_f64()
            .ok_or_else(|| bad("lora_alpha", "is not a number"))?;
        let mut alphas = Vec::new();
        for (name, value) in config["alpha_pattern"].as_object().into_iter().flatten() {
            if name.contains(['*', '(', '[', '\\', '|', '^', '$', '+', '?']) {
                return Err(bad(
                    "alpha_pattern",
                    "holds a regular expression; write out the layers' names",
                ));
            }
            let alpha = value
                .as_f64()
                .ok_or_else(|| bad("alpha_pattern", "holds what is no number"))?;
            alphas.push((name.clone(), alpha));
        }
        Ok(Self {
            alpha,
            alphas,
            root: config["use_rslora"] == true,
        })
    }

    fn scale(&self, module: &str, rank: usize) -> f32 {
        let own = self.alphas.iter().find(|(name, _)| {
            module
                .strip_suffix(name.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = rank as f64;
        (alpha / if self.root { rank.sqrt() } else { rank }) as f32
    }
}
