//! Text to tokens and back, by the `tokenizers` crate.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::error::{LearnError, Result};

/// A model's tokenizer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    json: Arc<str>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Tokens beyond `vocab` have no embedding.
    ///
    /// # Errors
    /// If it is missing, damaged, or of more tokens than the model has.
    pub fn from_file(path: &Path, vocab: usize) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| LearnError::io(path, e))?;
        Self::from_json(path, text, vocab)
    }

    fn from_json(path: &Path, text: String, vocab: usize) -> Result<Self> {
        let mut inner: tokenizers::Tokenizer = text
            .parse()
            .map_err(|e| LearnError::format(path, format!("not a tokenizer: {e}")))?;
        // Checkpoints keep the settings of the data they were trained on.
        inner
            .with_truncation(None)
            .map_err(|e| LearnError::Tokenizer(e.to_string()))?;
        inner.with_padding(None);
        let most = inner.get_vocab(true).values().copied().max();
        if most.is_some_and(|most| most as usize >= vocab) {
            return Err(LearnError::format(
                path,
                format!(
                    "has token {}, but the model's embedding has {vocab} rows; they belong to different models",
                    most.unwrap_or_default()
                ),
            ));
        }
        Ok(Self {
            inner: Arc::new(inner),
            json: text.into(),
        })
    }

    /// Makes one of the tables of a GGUF file.
    ///
    /// # Errors
    /// If the file's way of splitting text is none that is known here.
    pub(crate) fn from_tables(path: &Path, tables: &Tables) -> Result<Self> {
        let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "pretokenizers": steps});
        let mut normalizer = Value::Null;
        let before = match tables.pre.as_str() {
            "smollm" => sequence(vec![
                json!({"type": "Digits", "individual_digits": true}),
                bytes(true),
            ]),
            "gpt-2" | "default" => bytes(true),
            "qwen2" => {
                normalizer = json!({"type": "NFC"});
                sequence(vec![split(QWEN2), bytes(false)])
            }
            "llama-bpe" | "llama3" => sequence(vec![split(LLAMA3), bytes(false)]),
            other => {
                return Err(LearnError::format(
                    path,
                    format!(
                        "its tokenizer splits text in the manner {other:?}, which is not known; put the model's tokenizer.json beside the file"
                    ),
                ));
            }
        };
        let mut added = Vec::new();
        let mut vocab = serde_json::Map::new();
        for (id, (token, kind)) in tables.tokens.iter().zip(&tables.kinds).enumerate() {
            // 3: control, 4: added by the user.
            if matches!(kind, 3 | 4) {
                added.push(json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": *kind == 3,
                }));
            }
            vocab.insert(token.clone(), id.into());
        }
        let processor = match tables.add_bos.then_some(tables.bos).flatten() {
            Some(bos) => {
                let token = tables.tokens.get(bos as usize).cloned().unwrap_or_default();
                json!({
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {token.clone(): {"id": token, "ids": [bos], "tokens": [token]}},
                })
            }
            None => bytes(true),
        };
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": before,
            "post_processor": processor,
            "decoder": bytes(true),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": tables.pre == "llama-bpe" || tables.pre == "llama3",
                "vocab": vocab, "merges": tables.merges,
            },
        });
        Self::from_json(path, tokenizer.to_string(), tables.tokens.len())
    }

    /// Tokens of a text. Special tokens that are written out in it are those
    /// tokens, as everywhere; with `begin` the tokenizer's own first token is
    /// added.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode(&self, text: &str, begin: bool) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, begin)
            .map_err(|e| LearnError::Tokenizer(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens; special ones are left out if so asked.
    ///
    /// # Errors
    /// As above.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> Result<String> {
        self.inner
            .decode(tokens, skip_special)
            .map_err(|e| LearnError::Tokenizer(e.to_string()))
    }

    /// The id of a token by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of a token as the vocabulary has it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Its `tokenizer.json`.
    pub fn json(&self) -> &str {
        &self.json
    }
}

/// What a GGUF file says about its tokenizer.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// `tokenizer.ggml.pre`: how text is split before merging.
    pub pre: String,
    /// Tokens by id.
    pub tokens: Vec<String>,
    /// Their kinds.
    pub kinds: Vec<i64>,
    /// Pairs that are merged, best first, as `left right`.
    pub merges: Vec<String>,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Whether it is added.
    pub add_bos: bool,
}

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
