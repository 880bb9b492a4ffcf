//! Keys and values of past tokens, in pages that sequences with the same
//! beginning share.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Config;
use crate::kernel::{Block, View};

/// Tokens of a page.
pub const PAGE: usize = 64;

/// Keys and values of [`PAGE`] consecutive tokens in all layers.
#[derive(Debug, Clone)]
pub struct Page {
    /// `[layers, kv_heads, PAGE, head_dim]`.
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Page {
    fn new(config: &Config) -> Self {
        let size = config.layers * config.kv_dim() * PAGE;
        Self {
            keys: vec![0.0; size],
            values: vec![0.0; size],
        }
    }

    /// Bytes of a page.
    pub fn bytes(config: &Config) -> usize {
        config.layers * config.kv_dim() * PAGE * 8
    }

    fn at(config: &Config, layer: usize, head: usize, slot: usize) -> usize {
        ((layer * config.kv_heads + head) * PAGE + slot) * config.head_dim
    }
}

/// Keys and values of one sequence.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    pages: Vec<Arc<Page>>,
    len: usize,
}

impl Cache {
    /// Tokens that are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for `more` tokens. A page that is shared and will be written
    /// to is copied.
    pub(super) fn grow(&mut self, config: &Config, more: usize) {
        let need = (self.len + more).div_ceil(PAGE);
        while self.pages.len() < need {
            self.pages.push(Arc::new(Page::new(config)));
        }
        for page in &mut self.pages[self.len / PAGE..need] {
            Arc::make_mut(page);
        }
    }

    /// Stores keys and values, `[n, kv_dim]`, of the tokens behind those that
    /// are there; [`Cache::advance`] once all layers are stored.
    pub(super) fn store(&mut self, config: &Config, layer: usize, k: &[f32], v: &[f32]) {
        let (width, dim) = (config.kv_dim(), config.head_dim);
        let rows = k.chunks_exact(width).zip(v.chunks_exact(width));
        for (i, (k, v)) in rows.enumerate() {
            let position = self.len + i;
            let page = Arc::get_mut(&mut self.pages[position / PAGE])
                .expect("pages that are written to were made our own");
            for head in 0..config.kv_heads {
                let at = Page::at(config, layer, head, position % PAGE);
                let part = head * dim..(head + 1) * dim;
                page.keys[at..at + dim].copy_from_slice(&k[part.clone()]);
                page.values[at..at + dim].copy_from_slice(&v[part]);
            }
        }
    }

    pub(super) fn advance(&mut self, n: usize) {
        self.len += n;
    }

    /// Forgets all tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.pages.truncate(self.len.div_ceil(PAGE));
    }

    /// Keys and values of one head, page by page, of the first `len` tokens.
    pub(super) fn blocks<'a>(
        &'a self,
        config: &'a Config,
        layer: usize,
        head: usize,
        len: usize,
    ) -> impl Iterator<Item = Block<'a>> {
        let dim = config.head_dim;
        self.pages.iter().enumerate().map_while(move |(n, page)| {
            let tokens = len.checked_sub(n * PAGE).filter(|t| *t > 0)?.min(PAGE);
            let at = Page::at(config, layer, head, 0);
            let range = at..at + tokens * dim;
            Some(Block {
                keys: View::new(&page.keys[range.clone()], tokens, dim),
                values: View::new(&page.values[range], tokens, dim),
            })
        })
    }
}

/// Full pages by the tokens that lead to them. The pages least recently used
/// go first when it is full.
#[derive(Debug)]
pub struct PrefixCache {
    capacity: usize,
    /// By the page before (0: none) and the page's own tokens.
    pages: HashMap<(u64, [u32; PAGE]), Node>,
    next: u64,
    clock: u64,
}

#[derive(Debug)]
struct Node {
    id: u64,
    page: Arc<Page>,
    used: u64,
}

impl PrefixCache {
    /// Room for so many pages.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            pages: HashMap::new(),
            next: 1,
            clock: 0,
        }
    }

    /// Pages that it holds.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// A cache with the longest known beginning of a prompt, but for its last
    /// token, which has to be computed to go on from.
    pub fn lookup(&mut self, tokens: &[u32]) -> Cache {
        let mut cache = Cache::default();
        self.clock += 1;
        let mut parent = 0;
        let usable = tokens.len().saturating_sub(1);
        for chunk in tokens[..usable].as_chunks::<PAGE>().0 {
            let Some(node) = self.pages.get_mut(&(parent, *chunk)) else {
                break;
            };
            node.used = self.clock;
            parent = node.id;
            cache.pages.push(node.page.clone());
            cache.len += PAGE;
        }
        cache
    }

    /// Remembers the full pages of a sequence.
    pub fn insert(&mut self, tokens: &[u32], cache: &Cache) {
        if self.capacity == 0 {
            return;
        }
        self.clock += 1;
        let mut parent = 0;
        let full = tokens.len().min(cache.len) / PAGE;
        let chunks = tokens.as_chunks::<PAGE>().0;
        for (chunk, page) in chunks[..full].iter().zip(&cache.pages) {
            let next = self.next;
            let node = self.pages.entry((parent, *chunk)).or_insert_with(|| Node {
                id: next,
                page: page.clone(),
                used: 0,
            });
            node.used = self.clock;
            parent = node.id;
            if parent == next {
                self.next += 1;
            }
        }
        if self.pages.len() > self.capacity {
            self.shrink_to(self.capacity - self.capacity / 8);
        }
    }

    /// Drops the pages least recently used until `keep` are left. One whose
    /// predecessor is gone can never be found again, and goes in its time.
    pub fn shrink_to(&mut self, keep: usize) {
        let excess = self.pages.len().saturating_sub(keep);
        if excess == 0 {
            return;
        }
        let mut ages: Vec<(u64, u64)> = self.pages.values().map(|n| (n.used, n.id)).collect();
        ages.sort_unstable();
        let last = ages[excess - 1];
        self.pages.retain(|_, node| (node.used, node.id) > last);
    }
}
