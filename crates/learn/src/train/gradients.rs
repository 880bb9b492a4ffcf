//! Gradients of what is trained, and the numbers that they belong to, always
//! in one order.

use crate::model::{LINEARS, Layer, Linear, LinearGradients, Network, Weight};

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trained {
    /// The low-rank parts, where layers have one.
    Lora,
    /// All weights.
    Full,
}

/// Gradients of a block.
#[derive(Debug, Clone, Default)]
pub struct LayerGradients {
    /// Of the norms: before attention, before the feed-forward layer, of
    /// queries, of keys.
    pub norms: [Option<Vec<f32>>; 4],
    /// Of the linear layers, in the order of [`LINEARS`].
    pub linears: [LinearGradients; 7],
}

/// Gradients of a network.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    /// Of the embedding, which may be the output layer too.
    pub embedding: LinearGradients,
    /// Of the blocks, bottom first.
    pub layers: Vec<LayerGradients>,
    /// Of the last norm.
    pub norm: Option<Vec<f32>>,
    /// Of an output layer of its own.
    pub head: LinearGradients,
}

/// A trained tensor beside its gradient.
#[derive(Debug)]
pub struct Slot<'a> {
    /// Its name in published checkpoints and adapters, without their prefix.
    pub name: String,
    /// Rows and columns; one row for vectors.
    pub shape: [usize; 2],
    /// The numbers.
    pub parameter: &'a mut [f32],
    /// Their gradient.
    pub gradient: &'a mut [f32],
    /// Whether weight decay pulls at it: norms and biases are left alone.
    pub decays: bool,
}

fn linear_gradients(linear: &Linear, trained: Trained) -> LinearGradients {
    match trained {
        Trained::Lora => LinearGradients {
            lora: linear
                .lora
                .as_ref()
                .map(|l| (vec![0.0; l.a.len()], vec![0.0; l.b.len()])),
            ..LinearGradients::default()
        },
        Trained::Full => LinearGradients {
            weight: Some(vec![0.0; linear.rows * linear.columns]),
            bias: linear.bias.as_ref().map(|b| vec![0.0; b.len()]),
            lora: None,
        },
    }
}

impl Gradients {
    /// Zero gradients for all that is trained.
    pub fn new(network: &Network, trained: Trained) -> Self {
        let full = trained == Trained::Full;
        let vector = |v: &[f32]| full.then(|| vec![0.0; v.len()]);
        let layer = |layer: &Layer| LayerGradients {
            norms: [
                vector(&layer.attention_norm),
                vector(&layer.mlp_norm),
                layer.q_norm.as_deref().and_then(vector),
                layer.k_norm.as_deref().and_then(vector),
            ],
            linears: layer.linears().map(|l| linear_gradients(l, trained)),
        };
        let outer = |linear: &Linear| match trained {
            Trained::Full => linear_gradients(linear, trained),
            Trained::Lora => LinearGradients::default(),
        };
        Self {
            embedding: outer(&network.embedding),
            layers: network.layers.iter().map(layer).collect(),
            norm: vector(&network.norm),
            head: network.head.as_ref().map(outer).unwrap_or_default(),
        }
    }

    /// All trained tensors of the network with their gradients.
    pub fn slots<'a>(&'a mut self, network: &'a mut Network) -> Vec<Slot<'a>> {
        let mut slots = Slots(Vec::new());
        slots.linear(
            "model.embed_tokens",
            &mut network.embedding,
            &mut self.embedding,
        );
        for (n, (layer, own)) in network.layers.iter_mut().zip(&mut self.layers).enumerate() {
            let Layer {
                q,
                k,
                v,
                o,
                gate,
                up,
                down,
                attention_norm,
                mlp_norm,
                q_norm,
                k_norm,
            } = layer;
            let at = |part: &str| format!("model.layers.{n}.{part}");
            let norms = [
                ("input_layernorm", Some(attention_norm)),
                ("post_attention_layernorm", Some(mlp_norm)),
                ("self_attn.q_norm", q_norm.as_mut()),
                ("self_attn.k_norm", k_norm.as_mut()),
            ];
            for ((name, norm), gradient) in norms.into_iter().zip(&mut own.norms) {
                slots.vector(at(name) + ".weight", norm, gradient);
            }
            let linears = [q, k, v, o, gate, up, down]
                .into_iter()
                .zip(&mut own.linears);
            for (name, (linear, gradients)) in LINEARS.iter().zip(linears) {
                slots.linear(&at(name), linear, gradients);
            }
        }
        slots.vector(
            "model.norm.weight".into(),
            Some(&mut network.norm),
            &mut self.norm,
        );
        if let Some(head) = &mut network.head {
            slots.linear("lm_head", head, &mut self.head);
        }
        slots.0
    }

    /// Sets all of them to zero.
    pub fn clear(&mut self) {
        let layers = self.layers.iter_mut().flat_map(|layer| {
            let norms = layer.norms.iter_mut().flatten();
            norms.chain(layer.linears.iter_mut().flat_map(tensors))
        });
        let all = layers
            .chain(tensors(&mut self.embedding))
            .chain(tensors(&mut self.head))
            .chain(&mut self.norm);
        for tensor in all {
            tensor.fill(0.0);
        }
    }
}

fn tensors(linear: &mut LinearGradients) -> impl Iterator<Item = &mut Vec<f32>> {
    let lora = linear.lora.iter_mut().flat_map(|(a, b)| [a, b]);
    linear.weight.iter_mut().chain(&mut linear.bias).chain(lora)
}

struct Slots<'a>(Vec<Slot<'a>>);

impl<'a> Slots<'a> {
    fn vector(
        &mut self,
        name: String,
        parameter: Option<&'a mut Vec<f32>>,
        gradient: &'a mut Option<Vec<f32>>,
    ) {
        if let (Some(parameter), Some(gradient)) = (parameter, gradient) {
            self.0.push(Slot {
                name,
                shape: [1, parameter.len()],
                parameter,
                gradient,
                decays: false,
            });
        }
    }

    fn linear(&mut self, name: &str, linear: &'a mut Linear, gradients: &'a mut LinearGradients) {
        let (rows, columns) = (linear.rows, linear.columns);
        let mut matrix = |name: String, shape, parameter, gradient| {
            self.0.push(Slot {
                name,
                shape,
                parameter,
                gradient,
                decays: true,
            });
        };
        if let (Weight::F32(weight), Some(gradient)) = (&mut linear.weight, &mut gradients.weight) {
            matrix(format!("{name}.weight"), [rows, columns], weight, gradient);
        }
        if let (Some(lora), Some((a, b))) = (&mut linear.lora, &mut gradients.lora) {
            let rank = lora.rank;
            matrix(
                format!("{name}.lora_A.weight"),
                [rank, columns],
                &mut lora.a,
                a,
            );
            matrix(
                format!("{name}.lora_B.weight"),
                [rows, rank],
                &mut lora.b,
                b,
            );
        }
        self.vector(
            format!("{name}.bias"),
            linear.bias.as_mut(),
            &mut gradients.bias,
        );
    }
}
