//! Decodes many sequences together: a thread that admits requests, computes
//! prompts in pieces between the steps of those that already decode, and
//! keeps pages of keys and values for prompts that begin alike.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{
    self, Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, TrySendError,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::cache::{Cache, PAGE, Page, PrefixCache};
use super::forward::{Chunk, Runner, Wanted};
use super::sample::{Sampler, Sampling};
use crate::error::{LearnError, Result};
use crate::kernel::log_sum_exp;
use crate::model::Model;
use crate::tokenizer::Tokenizer;

/// How an engine uses the machine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Sequences that decode at once.
    pub slots: usize,
    /// Requests that wait; more are refused.
    pub queue: usize,
    /// Memory for keys and values, bytes.
    pub cache: usize,
    /// Threads; 0 for all processors.
    pub threads: usize,
    /// Tokens of prompts in one step.
    pub prefill: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            slots: 32,
            queue: 1024,
            cache: 2 << 30,
            threads: 0,
            prefill: 512,
        }
    }
}

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// How they are chosen.
    pub sampling: Sampling,
    /// Words that end it and do not belong to it.
    pub stop: Vec<String>,
    /// Tokens whose log-probability right behind the prompt is asked for.
    pub choices: Vec<u32>,
    /// When it is too late.
    pub deadline: Option<Instant>,
}

/// What happens to a request.
#[derive(Debug)]
pub enum Progress {
    /// More text.
    Text(String),
    /// The end.
    Done(Result<Answer>),
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Its tokens, the one that ended it included.
    pub tokens: Vec<u32>,
    /// Natural logarithm of each one's probability at temperature 1.
    pub logprobs: Vec<f32>,
    /// Its text, without special tokens and stop words.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of those, found in the cache.
    pub cached_tokens: usize,
    /// Log-probabilities of [`Ask::choices`].
    pub choices: Vec<f32>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A token that ends answers, or a stop word.
    Stop,
    /// `max_tokens`, or the model's context.
    Length,
    /// The deadline; the answer is cut off.
    OutOfTime,
}

/// A running engine. Stops when it is dropped.
#[derive(Debug)]
pub struct Engine {
    model: Arc<Model>,
    asks: Option<SyncSender<(Ask, Sender<Progress>)>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    waiting: Arc<AtomicUsize>,
    /// Requests without an answer at most.
    most: usize,
    limit: usize,
}

impl Engine {
    /// Starts the engine's threads.
    ///
    /// # Errors
    /// If the system gives none.
    pub fn start(model: Arc<Model>, options: &EngineOptions) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|n| format!("model-{n}"))
            .build()
            .map_err(|e| LearnError::Request(format!("no threads for the model: {e}")))?;
        let (asks, incoming) = mpsc::sync_channel(options.queue.max(1));
        let waiting = Arc::new(AtomicUsize::new(0));
        let pages = options.cache / Page::bytes(&model.network.config);
        let scheduler = Scheduler {
            model: model.clone(),
            incoming,
            waiting: waiting.clone(),
            pages: pages.max(1),
            prefix: PrefixCache::new(pages.max(1)),
            slots: options.slots.max(1),
            prefill: options.prefill.max(PAGE),
            queue: VecDeque::new(),
            active: Vec::new(),
            runner: Runner::default(),
        };
        let thread = std::thread::Builder::new()
            .name("model".into())
            .spawn(move || pool.install(|| scheduler.run()))
            .map_err(|e| LearnError::Request(format!("no thread for the model: {e}")))?;
        Ok(Self {
            limit: model.network.config.context.min(pages.max(1) * PAGE),
            model,
            asks: Some(asks),
            thread: Mutex::new(Some(thread)),
            waiting,
            most: options.slots.max(1) + options.queue,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens of prompt and answer that fit.
    pub fn context(&self) -> usize {
        self.limit
    }

    /// Requests that have no answer yet.
    pub fn load(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Hands a request in. Dropping the receiver cancels it.
    ///
    /// # Errors
    /// If the prompt is empty or does not fit, or too many wait already.
    pub fn submit(&self, ask: Ask) -> Result<Receiver<Progress>> {
        if ask.prompt.is_empty() {
            return Err(LearnError::Request("the prompt is empty".into()));
        }
        if ask.prompt.len() + usize::from(ask.max_tokens > 0) > self.limit {
            return Err(LearnError::Context {
                tokens: ask.prompt.len() + 1,
                context: self.limit,
            });
        }
        let vocab = self.model.network.config.vocab;
        let tokens = ask.prompt.iter().chain(&ask.choices);
        if let Some(bad) = tokens.into_iter().find(|t| **t as usize >= vocab) {
            return Err(LearnError::Request(format!(
                "token {bad} is none of the model's {vocab}"
            )));
        }
        let (answers, receiver) = mpsc::channel();
        let asks = self.asks.as_ref().expect("taken only on drop");
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(LearnError::Busy);
        }
        asks.try_send((ask, answers)).map_err(|e| {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            match e {
                TrySendError::Full(_) => LearnError::Busy,
                TrySendError::Disconnected(_) => stopped(),
            }
        })?;
        Ok(receiver)
    }

    /// Asks and waits for the whole answer.
    ///
    /// # Errors
    /// As [`Engine::submit`], and if the model's numbers are none.
    pub fn ask(&self, ask: Ask) -> Result<Answer> {
        let receiver = self.submit(ask)?;
        loop {
            match receiver.recv() {
                Ok(Progress::Text(_)) => {}
                Ok(Progress::Done(answer)) => return answer,
                Err(_) => return Err(stopped()),
            }
        }
    }
}

fn stopped() -> LearnError {
    LearnError::Request("the engine has stopped; its thread ended unexpectedly".into())
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.asks = None;
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // It has answered everyone, or panicked, which they were told.
            let _ = thread.join();
        }
    }
}

struct Scheduler {
    model: Arc<Model>,
    incoming: Receiver<(Ask, Sender<Progress>)>,
    waiting: Arc<AtomicUsize>,
    /// Pages for sequences and prefixes together.
    pages: usize,
    prefix: PrefixCache,
    slots: usize,
    prefill: usize,
    queue: VecDeque<Sequence>,
    active: Vec<Sequence>,
    runner: Runner,
}

/// A request that is being answered.
struct Sequence {
    ask: Ask,
    answers: Sender<Progress>,
    sampler: Sampler,
    /// Prompt and answer.
    tokens: Vec<u32>,
    cache: Cache,
    /// Whether its turn has come, and the cache was looked through.
    begun: bool,
    cached: usize,
    logprobs: Vec<f32>,
    choices: Vec<f32>,
    text: Text,
    reserved: usize,
    over: Option<Result<Finish>>,
}

impl Scheduler {
    fn run(mut self) {
        loop {
            if !self.receive() {
                return;
            }
            self.admit();
            self.step();
            self.finish();
        }
    }

    /// Takes what has come in; waits if there is nothing to do. False at the
    /// end.
    fn receive(&mut self) -> bool {
        loop {
            let idle = self.queue.is_empty() && self.active.is_empty();
            let next = if idle {
                match self.incoming.recv_timeout(Duration::from_secs(3600)) {
                    Ok(next) => Some(next),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return false,
                }
            } else {
                match self.incoming.try_recv() {
                    Ok(next) => Some(next),
                    Err(TryRecvError::Empty) => None,
                    // Nobody waits for answers any more.
                    Err(TryRecvError::Disconnected) => return false,
                }
            };
            let Some((ask, answers)) = next else {
                return true;
            };
            self.queue.push_back(Sequence::new(ask, answers));
        }
    }

    fn admit(&mut self) {
        let context = self.model.network.config.context;
        while self.active.len() < self.slots
            && let Some(next) = self.queue.front()
        {
            let most = (next.ask.prompt.len() + next.ask.max_tokens).min(context);
            let need = most.div_ceil(PAGE).min(self.pages);
            let used: usize = self.active.iter().map(|s| s.reserved).sum();
            if used + need > self.pages && !self.active.is_empty() {
                break;
            }
            self.prefix
                .shrink_to(self.pages.saturating_sub(used + need));
            let mut next = self.queue.pop_front().expect("seen above");
            next.reserved = need;
            self.active.push(next);
        }
    }

    /// One forward pass: a token of each that decodes, and a piece of the
    /// oldest prompts.
    fn step(&mut self) {
        let mut budget = self.prefill;
        let mut chunks = Vec::new();
        let mut owners = Vec::new();
        for (n, sequence) in self.active.iter_mut().enumerate() {
            if sequence.late() {
                continue;
            }
            let decoding = sequence.cache.len() >= sequence.ask.prompt.len();
            if !decoding && budget == 0 {
                continue;
            }
            if !sequence.begun {
                sequence.begun = true;
                sequence.cache = self.prefix.lookup(&sequence.ask.prompt);
                sequence.cached = sequence.cache.len();
            }
            let start = sequence.cache.len();
            let mut count = sequence.tokens.len() - start;
            if !decoding {
                count = count.min(budget);
                budget -= count;
            }
            let last = start + count == sequence.tokens.len();
            owners.push(n);
            chunks.push(Chunk {
                tokens: &sequence.tokens[start..start + count],
                cache: &mut sequence.cache,
                wanted: if last { Wanted::Last } else { Wanted::None },
            });
            if !decoding && !last {
                // The oldest prompt first: others may begin with it.
                budget = 0;
            }
        }
        let result = self.runner.run(&self.model.network, &mut chunks);
        drop(chunks);
        match result {
            Ok(logits) => {
                for (n, logits) in owners.into_iter().zip(logits) {
                    if !logits.is_empty() {
                        self.take(n, &logits);
                    }
                }
            }
            Err(e) => {
                let text = e.to_string();
                for n in owners {
                    self.active[n].over = Some(Err(LearnError::Request(text.clone())));
                }
            }
        }
    }

    /// The next token of a sequence.
    fn take(&mut self, n: usize, logits: &[f32]) {
        let config = &self.model.network.config;
        let sequence = &mut self.active[n];
        let prompt = sequence.ask.prompt.len();
        if sequence.tokens.len() == prompt {
            self.prefix.insert(&sequence.tokens, &sequence.cache);
            if !sequence.ask.choices.is_empty() {
                let norm = log_sum_exp(logits);
                let choices = &sequence.ask.choices;
                sequence.choices = choices.iter().map(|t| logits[*t as usize] - norm).collect();
            }
            if sequence.ask.max_tokens == 0 {
                sequence.over = Some(Ok(Finish::Length));
                return;
            }
        }
        let Some((token, logprob)) = sequence.sampler.choose(logits) else {
            sequence.over = Some(Err(LearnError::Request(
                "the model's output is not a number; its weights or adapter are damaged".into(),
            )));
            return;
        };
        sequence.tokens.push(token);
        sequence.logprobs.push(logprob);
        if config.eos.contains(&token) {
            sequence.over = Some(Ok(Finish::Stop));
            return;
        }
        let answer = &sequence.tokens[prompt..];
        match sequence
            .text
            .push(&self.model.tokenizer, answer, &sequence.ask.stop)
        {
            Err(e) => sequence.over = Some(Err(e)),
            Ok(true) => sequence.over = Some(Ok(Finish::Stop)),
            Ok(false) => {
                let full = sequence.tokens.len() >= config.context.min(self.pages * PAGE);
                if answer.len() >= sequence.ask.max_tokens || full {
                    sequence.over = Some(Ok(Finish::Length));
                }
            }
        }
        if sequence.over.is_none()
            && let Some(text) = sequence.text.ready(&sequence.ask.stop)
            && sequence.answers.send(Progress::Text(text)).is_err()
        {
            // Nobody listens.
            sequence.over = Some(Ok(Finish::OutOfTime));
        }
    }

    fn finish(&mut self) {
        let mut n = 0;
        while n < self.active.len() {
            if self.active[n].over.is_none() {
                n += 1;
                continue;
            }
            let mut sequence = self.active.remove(n);
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.prefix.insert(&sequence.tokens, &sequence.cache);
            let over = sequence.over.take().expect("seen above");
            let answer = over.map(|finish| sequence.answer(&self.model.tokenizer, finish));
            let answer = answer.and_then(|a| a);
            // Whoever no longer listens needs no answer.
            let _ = sequence.answers.send(Progress::Done(answer));
        }
    }
}

impl Sequence {
    fn new(ask: Ask, answers: Sender<Progress>) -> Self {
        Self {
            sampler: Sampler::new(ask.sampling),
            tokens: ask.prompt.clone(),
            ask,
            answers,
            cache: Cache::default(),
            begun: false,
            cached: 0,
            logprobs: Vec::new(),
            choices: Vec::new(),
            text: Text::default(),
            reserved: 0,
            over: None,
        }
    }

    /// Whether its time is up; it is over then.
    fn late(&mut self) -> bool {
        let late = self.ask.deadline.is_some_and(|d| Instant::now() >= d);
        if late {
            self.over = Some(Ok(Finish::OutOfTime));
        }
        late
    }

    fn answer(&mut self, tokenizer: &Tokenizer, finish: Finish) -> Result<Answer> {
        let prompt = self.ask.prompt.len();
        let rest = self.text.rest(tokenizer, &self.tokens[prompt..])?;
        if !rest.is_empty() {
            let _ = self.answers.send(Progress::Text(rest));
        }
        Ok(Answer {
            tokens: self.tokens.split_off(prompt),
            logprobs: std::mem::take(&mut self.logprobs),
            text: std::mem::take(&mut self.text.all),
            finish,
            prompt_tokens: prompt,
            cached_tokens: self.cached,
            choices: std::mem::take(&mut self.choices),
        })
    }
}

/// Text of an answer as its tokens come: whole characters only, and nothing
/// that may become a stop word.
#[derive(Debug, Default)]
struct Text {
    all: String,
    /// Bytes that were handed out.
    sent: usize,
    /// Tokens whose text is in `all`, and from which on they are decoded
    /// together with those that follow.
    done: usize,
    from: usize,
    stopped: bool,
}

impl Text {
    /// Adds the text of the newest tokens; whether a stop word ends it.
    fn push(&mut self, tokenizer: &Tokenizer, tokens: &[u32], stop: &[String]) -> Result<bool> {
        let before = tokenizer.decode(&tokens[self.from..self.done], true)?;
        let after = tokenizer.decode(&tokens[self.from..], true)?;
        if after.len() <= before.len() || after.ends_with('\u{fffd}') {
            return Ok(false);
        }
        let old = self.all.len();
        self.all.push_str(&after[before.len()..]);
        self.from = self.done;
        self.done = tokens.len();
        let longest = stop.iter().map(String::len).max().unwrap_or_default();
        let mut search = old.saturating_sub(longest);
        while !self.all.is_char_boundary(search) {
            search -= 1;
        }
        let found = stop
            .iter()
            .filter(|word| !word.is_empty())
            .filter_map(|word| self.all[search..].find(word.as_str()))
            .min();
        if let Some(at) = found {
            self.all.truncate(search + at);
            self.stopped = true;
        }
        Ok(self.stopped)
    }

    /// Text that can be handed out.
    fn ready(&mut self, stop: &[String]) -> Option<String> {
        let mut end = self.all.len();
        for word in stop {
            for (at, _) in word.char_indices().skip(1) {
                if self.all.ends_with(&word[..at]) {
                    end = end.min(self.all.len() - at);
                }
            }
        }
        if end <= self.sent {
            return None;
        }
        let text = self.all[self.sent..end].to_owned();
        self.sent = end;
        Some(text)
    }

    /// What is left at the end, with characters that stayed incomplete.
    fn rest(&mut self, tokenizer: &Tokenizer, tokens: &[u32]) -> Result<String> {
        if !self.stopped && self.done < tokens.len() {
            let before = tokenizer.decode(&tokens[self.from..self.done], true)?;
            let after = tokenizer.decode(&tokens[self.from..], true)?;
            if let Some(more) = after.get(before.len()..) {
                self.all.push_str(more);
            }
        }
        Ok(self.all.get(self.sent..).unwrap_or_default().to_owned())
    }
}
