//! The loop: expert demonstrations, fine-tuning, rollouts, rejection sampling,
//! again; then a verifier that picks among attempts; all measured on tasks
//! that were held out (SWE-GYM.md sections 3 to 5).
//!
//! ```text
//! improve.json                      what the run is
//! parts/<what>-<key>/               every stage, by what goes into it
//! scores.jsonl                      scores of the last policy's attempts
//! summary.json                      what came of it
//! ```

mod parts;
pub mod results;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use swegym_agent::episode::Limits;
use swegym_agent::model::{HttpOptions, Sampling};
use swegym_agent::scaffold::{Dialect, Prompts};
use swegym_agent::verifier::Form;
use swegym_core::{ChatMessage, Instance};
use swegym_data::curate::{DEFAULT_THRESHOLD, Leaks};

use self::parts::{Part, Parts};
use self::results::{PolicyResult, RankingResult};
use crate::curate::{self, Choice, Curated, Rows};
use crate::dispatch::Cancel;
use crate::environment::Environments;
use crate::export::{self, Record};
use crate::home::Home;
use crate::rollout::{self, AgentSpec, ModelSpec};
use crate::train::{HeldOut, TrainEvent, TrainOptions, TrainPlan, TrainRecord};
use crate::verify::{self, Scorers, Verifier};
use crate::{Error, grade, hash, models, train};

/// What a loop is.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its folder.
    pub dir: PathBuf,
    /// Tasks to learn from.
    pub train: Vec<Instance>,
    /// Tasks that are held out.
    pub test: Vec<Instance>,
    /// The model, as [`models::resolve`] finds it.
    pub model: String,
    /// The agent.
    pub agent: AgentSpec,
    /// Its prompts.
    pub prompts: Prompts,
    /// Limits of an episode.
    pub limits: Limits,
    /// Tokens of an answer at most.
    pub max_tokens: u64,
    /// Policies that are trained, one after the other.
    pub rounds: usize,
    /// Attempts at each task to learn from, by each policy.
    pub samples: u32,
    /// Most attempts of a task that a policy learns from.
    pub cap: Option<usize>,
    /// Temperature of those attempts, by round; the last one from then on.
    pub temperatures: Vec<f64>,
    /// Attempts at each task that is held out, by each policy, beside one at
    /// temperature 0.
    pub eval_samples: u32,
    /// Their temperature.
    pub eval_temperature: f64,
    /// Demonstrations in the prompt of a second baseline; none without.
    pub shots: usize,
    /// Rank and alpha of adapters.
    pub lora: (usize, f32),
    /// How a policy is trained.
    pub policy: TrainOptions,
    /// How a verifier is trained; none is without.
    pub verifier: Option<TrainOptions>,
    /// Whether tasks may be like those held out.
    pub leaks: bool,
    /// Seed of all draws.
    pub seed: u64,
    /// How to grade.
    pub grading: grade::Options,
    /// Episodes in flight.
    pub workers: usize,
    /// Commands and test runs at once.
    pub commands: usize,
}

/// What happens in a loop.
#[derive(Debug)]
pub enum Event<'a> {
    /// A stage begins.
    Stage(&'a str),
    /// Something in it.
    Rollout(rollout::Event<'a>),
    /// Something in a training run.
    Train(TrainEvent<'a>),
    /// So many of all attempts are scored.
    Scored(usize, usize),
    /// A stage is over: what came of it, and whether it was there before.
    Finished(String, bool),
}

/// `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of this record, 1.
    pub schema: u32,
    /// Program and version.
    pub program: String,
    /// Tasks to learn from, and held out.
    pub tasks: (usize, usize),
    /// Repositories of those.
    pub repositories: (usize, usize),
    /// Demonstrations that resolved their task.
    pub experts: usize,
    /// Policies, the untrained ones first.
    pub policies: Vec<PolicyResult>,
    /// Rows the verifier was trained on; without one, why there is none.
    pub verifier: Result<usize, String>,
    /// Rankings of the last policy's attempts.
    pub rankings: Vec<RankingResult>,
    /// Folders of runs by what they are, relative to the loop's.
    pub runs: Vec<(String, PathBuf)>,
    /// Seed of all draws.
    pub seed: u64,
}

/// A policy that rolls out.
#[derive(Debug, Clone)]
struct Policy {
    name: String,
    /// As `local:` takes it.
    model: String,
    /// What it is known by.
    key: String,
    /// Rows it was trained on.
    rows: usize,
    /// Demonstrations in its prompt.
    examples: Vec<ChatMessage>,
}

/// Runs the loop; `None` where it was stopped. The same plan in the same
/// folder goes on where it was, and ends with the same numbers.
///
/// # Errors
/// If an input is wrong, or the machine fails.
pub fn run(
    plan: &Plan,
    environments: Arc<Environments>,
    home: &Home,
    cancel: &Cancel,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Option<Summary>, Error> {
    check(plan)?;
    let base = models::resolve(home, &plan.model, &mut |_| ())?;
    let base = std::path::absolute(&base).map_err(|e| Error::io(&base, e))?;
    let base_key = digest(&base)?;
    same_run(plan, &base_key)?;
    let mut work = Loop {
        plan,
        environments,
        home,
        cancel,
        on_event,
        parts: Parts::at(&plan.dir.join("parts")),
        base,
        base_key,
        runs: Vec::new(),
    };
    let summary = work.all()?;
    if let Some(summary) = &summary {
        swegym_data::atomic::write_json(&plan.dir.join("summary.json"), summary)?;
    }
    Ok(summary)
}

fn check(plan: &Plan) -> Result<(), Error> {
    if plan.agent.command().is_some() {
        return Err(Error::input(
            "a command agent's rows are not learnt from",
            "use --agent repair, workflow, codeact or bash",
        ));
    }
    for (tasks, name) in [(&plan.train, "--tasks"), (&plan.test, "--eval")] {
        if tasks.is_empty() {
            return Err(Error::input(format!("{name} has no tasks"), ""));
        }
    }
    if plan.rounds == 0 || plan.samples == 0 || plan.eval_samples == 0 {
        return Err(Error::input(
            "--rounds, --samples and --eval-samples must be at least 1",
            "",
        ));
    }
    let mut held_out = Leaks::new(DEFAULT_THRESHOLD);
    for instance in &plan.test {
        held_out.hold_out(instance, &[]);
    }
    let leaks = plan.train.iter().flat_map(|i| held_out.check(i, &[]));
    let leaks: Vec<_> = leaks.collect();
    match leaks.first() {
        Some(first) if !plan.leaks => Err(Error::input(
            format!(
                "{} findings of tasks to learn from that are like those held out, the first: {} and {} ({:?})",
                leaks.len(),
                first.instance_id,
                first.held_out,
                first.what
            ),
            "`swegym tasks split` makes parts without; or allow it with --allow-leaks, where tasks of the same packages are what you want to measure",
        )),
        _ => Ok(()),
    }
}

/// Writes what the run is, or refuses where the folder holds another one.
fn same_run(plan: &Plan, base: &str) -> Result<(), Error> {
    let own = json!({
        "schema": 1, "train": tasks_digest(&plan.train), "test": tasks_digest(&plan.test),
        "model": plan.model, "model_digest": base, "agent": plan.agent.name(),
        "prompts": plan.prompts.digest(plan.agent.name()), "limits": plan.limits,
        "max_tokens": plan.max_tokens, "rounds": plan.rounds, "samples": plan.samples,
        "cap": plan.cap, "temperatures": plan.temperatures, "eval_samples": plan.eval_samples,
        "eval_temperature": plan.eval_temperature, "shots": plan.shots, "lora": plan.lora,
        "policy": plan.policy, "verifier": plan.verifier, "seed": plan.seed,
        "timeout": plan.grading.timeout.as_secs(),
        "swegym": env!("CARGO_PKG_VERSION"),
    });
    let path = plan.dir.join("improve.json");
    fs::create_dir_all(&plan.dir).map_err(|e| Error::io(&plan.dir, e))?;
    if path.exists() {
        let text = fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let known: Value = serde_json::from_slice(&text)
            .map_err(|e| Error::input(format!("{}: {e}", path.display()), ""))?;
        let own = own.as_object().expect("an object");
        let differs = own
            .iter()
            .find(|(k, v)| *k != "swegym" && known.get(*k) != Some(v));
        if let Some((name, value)) = differs {
            let was = &known[name.as_str()];
            return Err(Error::input(
                format!(
                    "{} is another run: {name} was {was}, is {value}",
                    plan.dir.display()
                ),
                "choose another --run-id, or the options it was begun with",
            ));
        }
        return Ok(());
    }
    Ok(swegym_data::atomic::write_json(&path, &own)?)
}

fn tasks_digest(tasks: &[Instance]) -> String {
    hash(&serde_json::to_vec(tasks).expect("plain data"))
}

/// Digest of a model's file, or of a folder's configuration and weights.
fn digest(path: &Path) -> Result<String, Error> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(|e| Error::io(path, e))?;
        files = entries
            .map(|entry| entry.map(|e| e.path()))
            .collect::<Result<_, _>>()
            .map_err(|e| Error::io(path, e))?;
        files.retain(|f| {
            f.extension()
                .is_some_and(|e| e == "json" || e == "safetensors")
        });
        files.sort();
    }
    let mut digest = blake3::Hasher::new();
    for file in files {
        let mut file_digest = blake3::Hasher::new();
        let opened = fs::File::open(&file).map_err(|e| Error::io(&file, e))?;
        file_digest
            .update_reader(opened)
            .map_err(|e| Error::io(&file, e))?;
        digest.update(file_digest.finalize().as_bytes());
    }
    Ok(digest.finalize().to_hex().to_string())
}

struct Loop<'a> {
    plan: &'a Plan,
    environments: Arc<Environments>,
    home: &'a Home,
    cancel: &'a Cancel,
    on_event: &'a mut dyn FnMut(Event<'_>),
    parts: Parts,
    base: PathBuf,
    base_key: String,
    runs: Vec<(String, PathBuf)>,
}

/// What a part came to, or `None` where the work was stopped in it.
type Came<T> = Result<Option<T>, Error>;

/// Goes on with what a part came to, or ends where it was stopped.
macro_rules! came {
    ($part:expr) => {
        match $part? {
            Some(it) => it,
            None => return Ok(None),
        }
    };
}

impl Loop<'_> {
    fn all(&mut self) -> Came<Summary> {
        let plan = self.plan;
        let expert = Policy {
            name: "expert".into(),
            model: String::new(),
            key: "gold".into(),
            rows: 0,
            examples: Vec::new(),
        };
        let experts = came!(self.roll_out("expert demonstrations", &expert, &plan.train, 1, 0.0));
        let demonstrations = read(&experts)?;
        let good = demonstrations.iter().filter(|r| r.resolved == Some(true));
        let good = good.count();
        if good == 0 {
            return Err(Error::input(
                "no expert demonstration resolves its task, so there is nothing to start from",
                format!(
                    "can {} make the gold patches' edits? `swegym runs show` tells",
                    plan.agent.name()
                ),
            ));
        }
        let base = |name: &str, examples: Vec<ChatMessage>| Policy {
            name: name.into(),
            model: self.base.display().to_string(),
            key: self.base_key.clone(),
            rows: 0,
            examples,
        };
        let mut policies = vec![base("untrained", Vec::new())];
        if plan.shots > 0 {
            let examples = examples(&demonstrations, plan.shots, plan.seed);
            policies.push(base(&format!("untrained, {}-shot", plan.shots), examples));
        }
        let mut attempts = Vec::new();
        let mut results: Vec<PolicyResult> = Vec::new();
        let mut pool = vec![experts];
        for policy in &policies {
            came!(self.evaluate(policy, &mut attempts, &mut results));
        }
        for round in 1..=plan.rounds {
            let policy = came!(self.train_policy(round, &pool));
            came!(self.evaluate(&policy, &mut attempts, &mut results));
            let last = plan.temperatures.len().saturating_sub(1);
            let temperature = plan.temperatures.get((round - 1).min(last)).copied();
            // The last policy's attempts are what a verifier learns from.
            if round < plan.rounds || plan.verifier.is_some() {
                let what = format!("round {round}: attempts to learn from");
                let temperature = temperature.unwrap_or(1.0);
                let run =
                    came!(self.roll_out(&what, &policy, &plan.train, plan.samples, temperature));
                pool.push(run);
            }
        }
        let last = attempts.pop().unwrap_or_default();
        let on_policy: Vec<PathBuf> = pool.split_off(1);
        let verifier = came!(self.train_verifier(&on_policy));
        let scores = came!(self.score(&last, verifier.as_ref().ok(), &on_policy));
        let rankings = results::rankings(&last, &scores, plan.seed);
        let repositories = |tasks: &[Instance]| {
            let all: BTreeSet<&str> = tasks.iter().map(|i| i.repo.as_str()).collect();
            all.len()
        };
        Ok(Some(Summary {
            schema: 1,
            program: format!("swegym {}", env!("CARGO_PKG_VERSION")),
            tasks: (plan.train.len(), plan.test.len()),
            repositories: (repositories(&plan.train), repositories(&plan.test)),
            experts: good,
            policies: results,
            verifier: verifier.map(|v| v.rows),
            rankings,
            runs: self.runs.clone(),
            seed: plan.seed,
        }))
    }

    /// A policy on the tasks held out: once at temperature 0, and sampled.
    fn evaluate(
        &mut self,
        policy: &Policy,
        attempts: &mut Vec<Vec<Record>>,
        results: &mut Vec<PolicyResult>,
    ) -> Came<()> {
        let plan = self.plan;
        let what = format!("{}: held-out tasks, temperature 0", policy.name);
        let greedy = came!(self.roll_out(&what, policy, &plan.test, 1, 0.0));
        let what = format!("{}: held-out tasks, sampled", policy.name);
        let count = plan.eval_samples;
        let sampled = came!(self.roll_out(&what, policy, &plan.test, count, plan.eval_temperature));
        let (greedy, sampled) = (read(&greedy)?, read(&sampled)?);
        let mut result = results::policy(&policy.name, policy.rows, &greedy, &sampled);
        for (before, own) in results.iter().zip(attempts.iter()) {
            if let Some(paired) = results::compare(own, &sampled) {
                result.against.push((before.name.clone(), paired));
            }
        }
        results.push(result);
        attempts.push(sampled);
        Ok(Some(()))
    }

    /// Attempts of a policy; the folder of their run.
    fn roll_out(
        &mut self,
        what: &str,
        policy: &Policy,
        tasks: &[Instance],
        samples: u32,
        temperature: f64,
    ) -> Came<PathBuf> {
        let plan = self.plan;
        let gold = policy.key == "gold";
        let inputs = json!({
            "tasks": tasks_digest(tasks), "policy": policy.key, "agent": plan.agent.name(),
            "prompts": plan.prompts.digest(plan.agent.name()), "limits": plan.limits,
            "examples": policy.examples, "temperature": temperature, "samples": samples,
            "max_tokens": plan.max_tokens, "seed": plan.seed,
            "timeout": plan.grading.timeout.as_secs(),
        });
        let part = self.parts.part("rollout", &inputs)?;
        (self.on_event)(Event::Stage(what));
        let place = part.dir.strip_prefix(&plan.dir).unwrap_or(&part.dir);
        self.runs.push((what.to_owned(), place.to_owned()));
        if let Some(line) = part.done::<String>() {
            (self.on_event)(Event::Finished(line, true));
            return Ok(Some(part.dir));
        }
        let dir = std::path::absolute(&part.dir).map_err(|e| Error::io(&part.dir, e))?;
        let rollout = rollout::Plan {
            run_id: format!("rollout-{}", part.key),
            dir,
            instances: tasks.to_vec(),
            samples,
            agent: plan.agent.clone(),
            prompts: plan.prompts.clone(),
            dialect: Dialect::Text,
            model: match gold {
                true => ModelSpec::Gold,
                false => ModelSpec::Local(policy.model.clone()),
            },
            examples: policy.examples.clone(),
            prices: None,
            http: HttpOptions::default(),
            sampling: Sampling {
                temperature: Some(temperature),
                max_tokens: plan.max_tokens,
                seed: Some(plan.seed),
                ..Sampling::default()
            },
            limits: plan.limits,
            budget: None,
            grading: Some(plan.grading.clone()),
            workers: plan.workers,
            commands: plan.commands,
            attempts: 3,
        };
        let on_event = &mut *self.on_event;
        let environments = self.environments.clone();
        let summary = rollout::run(
            rollout,
            environments,
            self.home,
            self.cancel,
            &mut |event| {
                on_event(Event::Rollout(event));
            },
        )?;
        if let Some(why) = summary.rejected {
            return Err(Error::input(
                format!("the model takes no request: {why}"),
                "",
            ));
        }
        if self.cancel.is_cancelled() {
            return Ok(None);
        }
        if !summary.complete {
            return Err(Error::setup(
                format!(
                    "{what}: {} of {} episodes broke",
                    summary.total - summary.done,
                    summary.total
                ),
                format!(
                    "`swegym runs show {}` tells why; the same command tries those again",
                    part.dir.display()
                ),
            ));
        }
        let line = format!("{} of {} resolved", summary.resolved, summary.total);
        part.finish(&line)?;
        (self.on_event)(Event::Finished(line, false));
        Ok(Some(part.dir))
    }

    /// Fine-tunes the base on what resolved its task.
    fn train_policy(&mut self, round: usize, pool: &[PathBuf]) -> Came<Policy> {
        let plan = self.plan;
        let choice = Choice {
            cap: plan.cap,
            length: Some(plan.policy.length),
            seed: plan.seed,
            ..Choice::default()
        };
        let what = format!("round {round}: fine-tuning");
        let curated = self.curate(pool, Rows::Sft, &choice)?;
        let rows = curated.report.rows;
        let part = came!(self.train(&what, "policy", &curated, &plan.policy, false));
        Ok(Some(Policy {
            name: format!("round {round}"),
            model: part.dir.display().to_string(),
            key: part.key,
            rows,
            examples: Vec::new(),
        }))
    }

    fn curate(&self, pool: &[PathBuf], rows: Rows, choice: &Choice) -> Result<Curated, Error> {
        let groups = curate::read_groups(pool, None)?;
        let model = models::open(self.home, &self.base.display().to_string(), &mut |_| ())?;
        curate::curate(&groups, rows, choice, Some(&model))
    }

    fn train(
        &mut self,
        what: &str,
        name: &str,
        curated: &Curated,
        options: &TrainOptions,
        verifier: bool,
    ) -> Came<Part> {
        let plan = self.plan;
        let inputs = json!({
            "rows": hash(&serde_json::to_vec(&curated.rows).expect("plain data")),
            "base": self.base_key, "options": options, "lora": plan.lora,
        });
        let part = self.parts.part(name, &inputs)?;
        (self.on_event)(Event::Stage(what));
        if let Some(line) = part.done::<String>() {
            (self.on_event)(Event::Finished(line, true));
            return Ok(Some(part));
        }
        let data = part.dir.join("rows.jsonl");
        curate::write(&data, &curated.rows)?;
        swegym_data::atomic::write_json(&part.dir.join("report.json"), &curated.report)?;
        let training = TrainPlan {
            data: vec![data],
            held_out: HeldOut::Share(if verifier { 0.2 } else { 0.0 }),
            base: self.base.clone(),
            adapter: None,
            lora: Some(plan.lora),
            verifier,
            options: options.clone(),
            skip_long: true,
            save_every: 20,
            evaluate_every: usize::MAX,
            resume: true,
            out: part.dir.clone(),
        };
        let on_event = &mut *self.on_event;
        let record: TrainRecord = train::run(&training, self.cancel, &mut |event| {
            on_event(Event::Train(event));
        })?;
        if !record.finished {
            return Ok(None);
        }
        let line = format!(
            "{} rows, {} steps, {} tokens learnt of {}, loss {:.3}",
            record.rows,
            record.steps,
            record.tokens.1,
            record.tokens.0,
            record.loss.unwrap_or(f64::NAN)
        );
        part.finish(&line)?;
        (self.on_event)(Event::Finished(line, false));
        Ok(Some(part))
    }

    /// Trains a verifier on the policies' attempts at the tasks to learn from;
    /// the inner error is why there is none.
    fn train_verifier(&mut self, pool: &[PathBuf]) -> Came<Result<Judge, String>> {
        let plan = self.plan;
        let Some(options) = &plan.verifier else {
            return Ok(Some(Err("none was asked for".into())));
        };
        let choice = Choice {
            length: Some(options.length),
            form: Form::Log,
            pooled: true,
            seed: plan.seed,
            ..Choice::default()
        };
        let curated = self.curate(pool, Rows::Verifier, &choice)?;
        let (rows, good) = (curated.report.rows, curated.report.resolved);
        // With fewer there is nothing to learn and to hold out.
        if good < 4 || rows - good < 4 {
            let why = format!(
                "{good} resolved and {} other attempts are too few",
                rows - good
            );
            return Ok(Some(Err(why)));
        }
        let part = came!(self.train("verifier", "verifier", &curated, options, true));
        Ok(Some(Ok(Judge {
            dir: part.dir,
            key: part.key,
            rows,
        })))
    }

    /// Scores the attempts of the last policy at the tasks held out.
    fn score(
        &mut self,
        records: &[Record],
        judge: Option<&Judge>,
        pool: &[PathBuf],
    ) -> Came<Vec<verify::Score>> {
        let plan = self.plan;
        let inputs = json!({
            "judge": judge.map(|j| &j.key), "pool": names(pool), "seed": plan.seed,
            "records": hash(&serde_json::to_vec(&records.iter().map(|r| {
                (&r.instance_id, r.sample, &r.trajectory)
            }).collect::<Vec<_>>()).expect("plain data")),
        });
        let part = self.parts.part("scores", &inputs)?;
        (self.on_event)(Event::Stage("scores of the last policy's attempts"));
        let (scores, known) = match part.done::<Vec<verify::Score>>() {
            Some(scores) => (scores, true),
            None => {
                let attempts = read_all(pool)?;
                let scorers = Scorers {
                    verifier: match judge {
                        Some(judge) => Some(Verifier::open(&judge.dir, None)?),
                        None => None,
                    },
                    // Too few of a kind are no error here: there is none then.
                    features: verify::fit_features(&attempts, plan.seed).ok(),
                };
                let mut count = 0;
                let on_event = &mut *self.on_event;
                let scores = verify::score(records, &scorers, self.cancel, &mut |_, _| {
                    count += 1;
                    on_event(Event::Scored(count, records.len()));
                })?;
                if scores.len() < records.len() {
                    return Ok(None);
                }
                part.finish(&scores)?;
                (scores, false)
            }
        };
        let rows: Vec<Value> = scores
            .iter()
            .map(|s| serde_json::to_value(s).expect("plain data"))
            .collect();
        curate::write(&plan.dir.join("scores.jsonl"), &rows)?;
        (self.on_event)(Event::Finished(format!("{} attempts", scores.len()), known));
        Ok(Some(scores))
    }
}

/// A verifier that was trained.
struct Judge {
    dir: PathBuf,
    key: String,
    rows: usize,
}

fn names(paths: &[PathBuf]) -> Vec<String> {
    let name = |p: &PathBuf| p.file_name().map(|n| n.to_string_lossy().into_owned());
    paths.iter().filter_map(name).collect()
}

fn read(run: &Path) -> Result<Vec<Record>, Error> {
    export::read(&[run.to_owned()])
}

fn read_all(runs: &[PathBuf]) -> Result<Vec<Record>, Error> {
    export::read(runs)
}

/// Demonstrations for a prompt: task and answer in turn, of the shorter half,
/// drawn by the seed.
fn examples(records: &[Record], count: usize, seed: u64) -> Vec<ChatMessage> {
    let first_two = |record: &Record| -> Option<[ChatMessage; 2]> {
        let labelled = curate::labelled(record);
        let row = swegym_agent::rows::text(&labelled).ok()?;
        let messages: Vec<ChatMessage> = serde_json::from_value(row["messages"].clone()).ok()?;
        let mut messages = messages.into_iter().skip(1);
        Some([
            ChatMessage::user(messages.next()?.text()),
            ChatMessage::assistant(messages.next()?.text()),
        ])
    };
    let good = records.iter().filter(|r| r.resolved == Some(true));
    let mut all: Vec<(usize, String, [ChatMessage; 2])> = good
        .filter_map(|r| {
            let pair = first_two(r)?;
            let length = pair.iter().map(|m| m.text().len()).sum();
            Some((
                length,
                hash(format!("{seed}:{}", r.instance_id).as_bytes()),
                pair,
            ))
        })
        .collect();
    all.sort_by_key(|a| a.0);
    all.truncate(all.len().div_ceil(2).max(count));
    all.sort_by(|a, b| a.1.cmp(&b.1));
    all.into_iter().take(count).flat_map(|a| a.2).collect()
}
