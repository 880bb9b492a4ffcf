//! Fine-tuning as a stage: rows in, an adapter or a model out.
//!
//! ```text
//! training.json                 what the run is, and what came of it
//! metrics.jsonl  loss.svg       every step
//! checkpoints/step-000050.safetensors    the last two
//! adapter_config.json adapter_model.safetensors    at the end, or a whole model
//! verifier.json  reliability.svg    of a verifier
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use swegym_agent::verifier::Form;
use swegym_core::ChatMessage;
use swegym_learn::LearnError;
pub use swegym_learn::model::{Dtype, Model};
pub use swegym_learn::train::{AdamWOptions, Estimate, Schedule, StepReport, TrainOptions};
use swegym_learn::train::{Document, Trained, Trainer, checkpoints, document, estimate};

use crate::dispatch::{Cancel, available_memory};
use crate::verify::{self, Verifier, VerifierRecord};
use crate::{Error, plot};

/// What to train on what.
#[derive(Debug, Clone)]
pub struct TrainPlan {
    /// Files of rows.
    pub data: Vec<PathBuf>,
    /// Rows whose loss is measured but not learnt; without a file, a part of
    /// `data`.
    pub held_out: HeldOut,
    /// Folder or file of the model.
    pub base: PathBuf,
    /// An adapter that training goes on from.
    pub adapter: Option<PathBuf>,
    /// Rank and alpha of a new adapter; `None` trains all weights.
    pub lora: Option<(usize, f32)>,
    /// Whether it is a verifier: its decisions on held-out rows are measured.
    pub verifier: bool,
    /// How.
    pub options: TrainOptions,
    /// Whether rows longer than a group are left out instead of refused.
    pub skip_long: bool,
    /// Steps between checkpoints.
    pub save_every: usize,
    /// Steps between measurements of the held-out loss.
    pub evaluate_every: usize,
    /// Whether to go on with the run in the folder.
    pub resume: bool,
    /// The folder.
    pub out: PathBuf,
}

/// Where held-out rows come from.
#[derive(Debug, Clone, PartialEq)]
pub enum HeldOut {
    /// Another file.
    File(PathBuf),
    /// This share of the rows' instances, drawn by their names.
    Share(f64),
}

/// What happens in a run.
#[derive(Debug)]
pub enum TrainEvent<'a> {
    /// It begins, so many steps of it done before.
    Start {
        /// Time and memory.
        estimate: &'a Estimate,
        /// Rows, held-out rows, and why rows were left out.
        rows: (usize, usize, &'a BTreeMap<String, usize>),
        /// Steps done before.
        done: usize,
    },
    /// A step.
    Step(StepReport),
    /// The held-out loss after a step.
    Evaluated(usize, f64),
}

/// `training.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainRecord {
    /// Version of this record, 1.
    pub schema: u32,
    /// Program and version.
    pub program: String,
    /// The model that was trained.
    pub base: PathBuf,
    /// Digest of the rows' tokens and the base model.
    pub identity: String,
    /// Rank and alpha, if an adapter was trained.
    pub lora: Option<(usize, f32)>,
    /// How.
    pub options: TrainOptions,
    /// Rows learnt.
    pub rows: usize,
    /// Rows held out.
    pub held_out: usize,
    /// Why rows were left out, and how many.
    pub left_out: BTreeMap<String, usize>,
    /// Tokens that went through the network, and those of them learnt.
    pub tokens: (usize, usize),
    /// Steps done.
    pub steps: usize,
    /// Mean loss of the last tenth of the steps, nats a learnt token.
    pub loss: Option<f64>,
    /// Held-out loss before and after.
    pub held_out_loss: Option<(f64, f64)>,
    /// Seconds of all steps.
    pub seconds: f64,
    /// Whether all steps were done.
    pub finished: bool,
}

/// Rows as documents.
#[derive(Debug, Default)]
struct Rows {
    learnt: Vec<Document>,
    held_out: Vec<Document>,
    left_out: BTreeMap<String, usize>,
    /// Of a verifier: what its rows show.
    form: Option<Form>,
    /// Its held-out rows as prompts with their labels and instances.
    judged: Vec<Judgeable>,
}

/// A prompt of a verifier, whether yes is true, and the instance.
pub type Judgeable = (Vec<ChatMessage>, bool, String);

/// Trains. Ctrl-C ends it after a checkpoint; the record says so then.
///
/// # Errors
/// If an input is wrong, the machine has too little memory, a file cannot be
/// written, or the loss is no number.
pub fn run(
    plan: &TrainPlan,
    cancel: &Cancel,
    report: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<TrainRecord, Error> {
    let found = checkpoints(&plan.out.join("checkpoints")).map_err(learn)?;
    if !found.is_empty() && !plan.resume {
        return Err(Error::input(
            format!("{} holds a training run", plan.out.display()),
            "go on with it with --resume, or name another folder with --out",
        ));
    }
    let mut model = read_base(plan)?;
    let rows = read_rows(plan, &model)?;
    let trained = match plan.lora {
        Some((rank, alpha)) => {
            match &plan.adapter {
                Some(dir) => model.network.read_lora(dir).map_err(learn)?,
                None => model.network.add_lora(rank, alpha, plan.options.seed),
            }
            Trained::Lora
        }
        None => Trained::Full,
    };
    let identity = identity(&model, &rows);
    let needs = estimate(&model.network, &rows.learnt, trained, &plan.options, true);
    let needs = needs.map_err(learn)?;
    fits(&needs, plan)?;
    let mut record = TrainRecord {
        schema: 1,
        program: format!("swegym {}", env!("CARGO_PKG_VERSION")),
        base: plan.base.clone(),
        identity: identity.clone(),
        lora: plan.lora,
        options: plan.options.clone(),
        rows: rows.learnt.len(),
        held_out: rows.held_out.len(),
        left_out: rows.left_out.clone(),
        tokens: (0, 0),
        steps: 0,
        loss: None,
        held_out_loss: None,
        seconds: 0.0,
        finished: false,
    };
    let network = &mut model.network;
    let mut trainer =
        Trainer::new(network, &rows.learnt, trained, plan.options.clone()).map_err(learn)?;
    if let Some((_, path)) = found.last() {
        trainer.resume(path, &identity).map_err(learn)?;
    }
    let metrics = Metrics::open(&plan.out.join("metrics.jsonl"), trainer.done())?;
    report(TrainEvent::Start {
        estimate: &needs,
        rows: (rows.learnt.len(), rows.held_out.len(), &rows.left_out),
        done: trainer.done(),
    });
    let mut run = Run {
        plan,
        held_out: &rows.held_out,
        identity,
        dir: plan.out.join("checkpoints"),
        metrics,
        report,
    };
    run.steps(&mut trainer, cancel)?;
    run.metrics.sum(&mut record);
    record.steps = trainer.done();
    record.finished = trainer.done() == trainer.steps();
    drop(trainer);
    if record.finished {
        match trained {
            Trained::Lora => model.network.write_lora(&plan.out, &model.name),
            Trained::Full => model.write(&plan.out, Dtype::F32),
        }
        .map_err(learn)?;
    }
    run.metrics.plot(&plan.out.join("loss.svg"))?;
    swegym_data::atomic::write_json(&plan.out.join("training.json"), &record)?;
    if record.finished && plan.verifier {
        write_verifier(plan, model, &rows)?;
    }
    Ok(record)
}

/// What a verifier is beside its weights: its form, and how its log-odds on
/// the held-out rows are to be read.
fn write_verifier(plan: &TrainPlan, model: Model, rows: &Rows) -> Result<(), Error> {
    let record = VerifierRecord {
        schema: 1,
        base: match plan.lora {
            Some(_) => plan.base.clone(),
            None => plan.out.clone(),
        },
        form: rows.form.unwrap_or_default(),
        length: plan.options.length,
        temperature: 1.0,
        held_out: None,
    };
    let mut verifier = Verifier::of(model, record)?;
    if !rows.judged.is_empty() {
        verifier.calibrate(&rows.judged)?;
        let held_out = verifier.record().held_out.as_ref();
        let bins = held_out.map_or(&[][..], |h| h.bins.as_slice());
        let svg = plot::reliability("Reliability on held-out attempts", bins)?;
        swegym_data::atomic::write(&plan.out.join("reliability.svg"), svg.as_bytes())?;
    }
    let path = plan.out.join(verify::FILE);
    Ok(swegym_data::atomic::write_json(&path, verifier.record())?)
}

/// A run under way.
struct Run<'a> {
    plan: &'a TrainPlan,
    held_out: &'a [Document],
    identity: String,
    /// Of the checkpoints.
    dir: PathBuf,
    metrics: Metrics,
    report: &'a mut dyn FnMut(TrainEvent<'_>),
}

impl Run<'_> {
    /// All steps that are left, or until Ctrl-C; a checkpoint at the end of
    /// either.
    fn steps(&mut self, trainer: &mut Trainer<'_>, cancel: &Cancel) -> Result<(), Error> {
        let mut saved = trainer.done();
        if trainer.done() == 0 {
            self.evaluate(trainer)?;
        }
        while !cancel.is_cancelled() {
            let step = match trainer.step() {
                Ok(Some(step)) => step,
                Ok(None) => break,
                Err(e) => return Err(self.stopped(e)),
            };
            self.metrics.add(Line::Step(step.clone()))?;
            (self.report)(TrainEvent::Step(step));
            let done = trainer.done();
            let last = done == trainer.steps();
            if last || done.is_multiple_of(self.plan.evaluate_every) {
                self.evaluate(trainer)?;
            }
            if last || done.is_multiple_of(self.plan.save_every) {
                self.save(trainer)?;
                saved = done;
            }
        }
        if saved < trainer.done() {
            self.save(trainer)?;
        }
        Ok(())
    }

    fn evaluate(&mut self, trainer: &mut Trainer<'_>) -> Result<(), Error> {
        if self.held_out.is_empty() {
            return Ok(());
        }
        let loss = trainer.evaluate(self.held_out).map_err(learn)?;
        let step = trainer.done();
        self.metrics.add(Line::Evaluated {
            step,
            held_out_loss: loss,
        })?;
        (self.report)(TrainEvent::Evaluated(step, loss));
        Ok(())
    }

    /// Writes a checkpoint, and removes all but it and the one before.
    fn save(&self, trainer: &mut Trainer<'_>) -> Result<(), Error> {
        fs::create_dir_all(&self.dir).map_err(|e| Error::io(&self.dir, e))?;
        let name = format!("step-{:06}.safetensors", trainer.done());
        trainer
            .save(&self.dir.join(name), &self.identity)
            .map_err(learn)?;
        let all = checkpoints(&self.dir).map_err(learn)?;
        for (_, old) in all.iter().rev().skip(2) {
            fs::remove_file(old).map_err(|e| Error::io(old, e))?;
        }
        Ok(())
    }

    /// An error of a step, with what is left of the run.
    fn stopped(&self, error: LearnError) -> Error {
        let last = checkpoints(&self.dir).ok().and_then(|mut all| all.pop());
        let kept = match last {
            Some((_, path)) => format!("the last good checkpoint is {}", path.display()),
            None => "there was no checkpoint yet".into(),
        };
        Error::input(error.to_string(), kept)
    }
}

/// An error of the models, by who can act on it.
pub fn learn(error: LearnError) -> Error {
    match error {
        LearnError::Io { path, source } => Error::Io { path, source },
        other => Error::input(other.to_string(), ""),
    }
}

fn read_base(plan: &TrainPlan) -> Result<Model, Error> {
    // All weights are trained as `f32`; under an adapter they stay as they are.
    let dtype = match plan.lora {
        Some(_) => Dtype::Stored,
        None => Dtype::F32,
    };
    let mut model = Model::read(&plan.base, dtype).map_err(learn)?;
    let unpacked = model.network.parameters() as u64 * 4;
    if available_memory().is_none_or(|free| unpacked <= free / 4) {
        model.network.unpack();
    }
    Ok(model)
}

fn read_rows(plan: &TrainPlan, model: &Model) -> Result<Rows, Error> {
    let mut rows = Rows::default();
    for path in &plan.data {
        let share = match plan.held_out {
            HeldOut::Share(share) => share,
            HeldOut::File(_) => 0.0,
        };
        read_file(path, model, plan, &mut rows, share)?;
    }
    if let HeldOut::File(path) = &plan.held_out {
        read_file(path, model, plan, &mut rows, 1.0)?;
    }
    let most = plan.options.length.min(model.network.config.context);
    let fits = |d: &Document| d.tokens.len() <= most;
    if plan.skip_long {
        let before = rows.learnt.len() + rows.held_out.len();
        rows.learnt.retain(fits);
        rows.held_out.retain(fits);
        let long = before - rows.learnt.len() - rows.held_out.len();
        if long > 0 {
            let why = format!("longer than {most} tokens");
            rows.left_out.insert(why, long);
        }
    }
    let long: Vec<&Document> = rows
        .learnt
        .iter()
        .chain(&rows.held_out)
        .filter(|d| !fits(d))
        .collect();
    if let Some(longest) = long.iter().max_by_key(|d| d.tokens.len()) {
        return Err(Error::input(
            format!(
                "{} rows are longer than {most} tokens; {} has {}",
                long.len(),
                longest.name,
                longest.tokens.len()
            ),
            format!(
                "leave them out with --skip-long, or raise --length (the model's context is {})",
                model.network.config.context
            ),
        ));
    }
    if rows.learnt.is_empty() {
        return Err(Error::input(
            "there are no rows to learn from",
            "give a file of rows with --data; `swegym runs export` writes them",
        ));
    }
    Ok(rows)
}

/// Adds the rows of a file, of which this share of instances is held out.
fn read_file(
    path: &Path,
    model: &Model,
    plan: &TrainPlan,
    rows: &mut Rows,
    share: f64,
) -> Result<(), Error> {
    let file = fs::File::open(path).map_err(|e| Error::io(path, e))?;
    for (n, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|e| Error::io(path, e))?;
        if line.trim().is_empty() {
            continue;
        }
        let name = format!("{}, line {}", path.display(), n + 1);
        let row: Value = serde_json::from_str(&line)
            .map_err(|e| Error::input(format!("{name}: invalid JSON: {e}"), ""))?;
        let group = row["instance_id"].as_str().unwrap_or(&name).to_owned();
        let document = document(model, &row, &name).map_err(learn)?;
        let held_out = draws(&group, plan.options.seed) < share;
        if plan.verifier {
            let judgeable = judgeable(&row, &name, group, rows)?;
            if held_out {
                rows.judged.push(judgeable);
            }
        }
        match held_out {
            true => rows.held_out.push(document),
            false => rows.learnt.push(document),
        }
    }
    Ok(())
}

/// A verifier's row without its answer.
fn judgeable(row: &Value, name: &str, group: String, rows: &mut Rows) -> Result<Judgeable, Error> {
    let bad = |problem: &str| {
        Error::input(
            format!("{name}: {problem}"),
            "`swegym export verifier` writes rows of verifiers",
        )
    };
    let form = match row.get("form") {
        None => Form::Log,
        Some(form) => serde_json::from_value(form.clone())
            .map_err(|_| bad("field `form` is neither log nor patch"))?,
    };
    if *rows.form.get_or_insert(form) != form {
        return Err(bad("is of another form than the rows before"));
    }
    let resolved = row["resolved"]
        .as_bool()
        .ok_or_else(|| bad("field `resolved` is neither true nor false"))?;
    let mut messages: Vec<ChatMessage> = serde_json::from_value(row["messages"].clone())
        .map_err(|e| bad(&format!("field `messages`: {e}")))?;
    let answer = messages.pop().map(|m| m.text()).unwrap_or_default();
    let [yes, no] = form.answers();
    if answer != if resolved { yes } else { no } {
        return Err(bad(
            "its last message is not the answer that its label says",
        ));
    }
    Ok((messages, resolved, group))
}

/// A number in 0..1 that a name and a seed always give.
fn draws(name: &str, seed: u64) -> f64 {
    let digest = blake3::hash(format!("{seed}:{name}").as_bytes());
    let word = u32::from_le_bytes(digest.as_bytes()[..4].try_into().expect("4 bytes"));
    f64::from(word) / (f64::from(u32::MAX) + 1.0)
}

/// What a resumed run must have in common with this one beside its options.
fn identity(model: &Model, rows: &Rows) -> String {
    let mut digest = blake3::Hasher::new();
    digest.update(model.network.config.to_json().to_string().as_bytes());
    let layers = &model.network.layers;
    for layer in layers.first().into_iter().chain(layers.last()) {
        let mut row = vec![0.0_f32; layer.q.columns];
        let mut bytes = Vec::new();
        for n in 0..layer.q.rows {
            layer.q.row(n, &mut row);
            bytes.extend(row.iter().flat_map(|x| x.to_le_bytes()));
        }
        digest.update(&bytes);
        if let Some(lora) = &layer.q.lora {
            digest.update(format!("{} {}", lora.rank, lora.scale).as_bytes());
        }
    }
    for document in rows.learnt.iter().chain(&rows.held_out) {
        let tokens = document.tokens.iter().zip(&document.learnt);
        for (token, learnt) in tokens {
            digest.update(&(token * 2 + u32::from(*learnt)).to_le_bytes());
        }
        digest.update(b"end");
    }
    digest.finalize().to_hex().to_string()
}

/// Refuses a run that this machine has not the memory for.
fn fits(needs: &Estimate, plan: &TrainPlan) -> Result<(), Error> {
    let Some(free) = available_memory() else {
        return Ok(());
    };
    // The weights are there already.
    if needs.optimizer + needs.activations <= free {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let mut advice = Vec::new();
    if !plan.options.checkpoint_activations {
        advice.push("--checkpoint-activations");
    }
    if plan.lora.is_none() {
        advice.push("an adapter (--lora 16)");
    }
    advice.push("a smaller --length");
    Err(Error::setup(
        format!(
            "training takes {:.1} GiB beside the weights ({:.1} for activations, {:.1} for the optimiser), and {:.1} are free",
            gib(needs.optimizer + needs.activations),
            gib(needs.activations),
            gib(needs.optimizer),
            gib(free)
        ),
        format!(
            "try {}; or take the rows to a larger machine with `swegym export sft`",
            advice.join(", ")
        ),
    ))
}

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Evaluated { step: usize, held_out_loss: f64 },
    Step(StepReport),
}

impl Line {
    fn step(&self) -> usize {
        match self {
            Self::Evaluated { step, .. } => *step,
            Self::Step(report) => report.step,
        }
    }
}

/// `metrics.jsonl`, and its lines.
struct Metrics {
    path: PathBuf,
    file: fs::File,
    lines: Vec<Line>,
}

impl Metrics {
    /// Opens the file, without the lines of steps that will be done again.
    fn open(path: &Path, done: usize) -> Result<Self, Error> {
        let io = |e| Error::io(path, e);
        let text = match fs::read_to_string(path) {
            Ok(text) if done > 0 => text,
            Ok(_) => String::new(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(io(e)),
        };
        // A last line may be cut off; its step is done again then.
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let lines: Vec<Line> = lines.filter(|line: &Line| line.step() <= done).collect();
        let kept: Vec<String> = lines.iter().map(|l| json!(l).to_string() + "\n").collect();
        swegym_data::atomic::write(path, kept.concat().as_bytes())?;
        let file = fs::File::options().append(true).open(path).map_err(io)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            lines,
        })
    }

    fn add(&mut self, line: Line) -> Result<(), Error> {
        let text = json!(line).to_string() + "\n";
        self.file
            .write_all(text.as_bytes())
            .map_err(|e| Error::io(&self.path, e))?;
        self.lines.push(line);
        Ok(())
    }

    fn steps(&self) -> impl DoubleEndedIterator<Item = &StepReport> {
        self.lines.iter().filter_map(|line| match line {
            Line::Step(report) => Some(report),
            Line::Evaluated { .. } => None,
        })
    }

    fn held_out(&self) -> impl DoubleEndedIterator<Item = (usize, f64)> {
        self.lines.iter().filter_map(|line| match line {
            Line::Evaluated {
                step,
                held_out_loss,
            } => Some((*step, *held_out_loss)),
            Line::Step(_) => None,
        })
    }

    fn sum(&self, record: &mut TrainRecord) {
        let count = self.steps().count();
        for step in self.steps() {
            record.tokens.0 += step.tokens;
            record.tokens.1 += step.targets;
            record.seconds += step.seconds;
        }
        let last: Vec<f64> = self
            .steps()
            .rev()
            .take(count.div_ceil(10))
            .map(|s| s.loss)
            .collect();
        record.loss = (!last.is_empty()).then(|| last.iter().sum::<f64>() / last.len() as f64);
        let first = self.held_out().next();
        record.held_out_loss = first.zip(self.held_out().last()).map(|(a, b)| (a.1, b.1));
    }

    fn plot(&self, path: &Path) -> Result<(), Error> {
        let point = |s: &StepReport| (s.step as f64, s.loss);
        let held_out = self.held_out().map(|(step, loss)| (step as f64, loss));
        let series = [
            ("training".to_owned(), self.steps().map(point).collect()),
            ("held out".to_owned(), held_out.collect()),
        ];
        let svg = plot::lines("Loss", "step", "nats a learnt token", &series)?;
        Ok(swegym_data::atomic::write(path, svg.as_bytes())?)
    }
}
