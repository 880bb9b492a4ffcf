//! Tasks that make themselves: a candidate is validated, bugs are injected,
//! and what comes out is graded as any other task.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde::Deserialize;
use swegym::dispatch::{self, Cancel};
use swegym::environment::Environments;
use swegym::synth::{self, Rewriter, stage as injection};
use swegym::validate::{self, stage as validation};
use swegym_agent::model::{Finish, Model, ModelError, Reply, Request, Sampling, Usage};
use swegym_agent::scaffold::last_block;
use swegym_core::{Backend, ChatMessage, EnvSpec, Instance, Outcome, Prediction, Source, TestIds};
use swegym_forge::{Mode, mutate};
use swegym_sandbox::NativeBackend;

use crate::integrity::REQUIREMENTS;
use crate::support::{evaluate, home, obstacle, root};

pub fn trials() -> Vec<Trial> {
    let trial = |name: &str, run: fn() -> Result<(), Failed>| match obstacle() {
        None => Trial::test(format!("making: {name}"), run),
        Some(reason) => Trial::test(format!("making: {name} (cannot run: {reason})"), || Ok(()))
            .with_ignored_flag(true),
    };
    vec![
        trial("a candidate is validated", candidate),
        trial("candidates that are no tasks say why", no_tasks),
        trial("bugs are injected", bugs),
        trial("a model writes bugs", rewrites),
    ]
}

fn environments() -> Result<Arc<Environments>, Failed> {
    let backend: Arc<dyn Backend> = Arc::new(NativeBackend::new()?);
    Ok(Arc::new(Environments::open(&home(), backend, Mode::Auto)?))
}

fn environment() -> EnvSpec {
    EnvSpec {
        python: Some("3.11".into()),
        requirements: REQUIREMENTS.iter().map(|&r| r.to_owned()).collect(),
        ..EnvSpec::default()
    }
}

/// A task of the corpus, as its collection would have left it.
fn collected() -> Result<(Instance, Instance), Failed> {
    #[derive(Deserialize)]
    struct Lists {
        #[serde(rename = "FAIL_TO_PASS")]
        fail_to_pass: TestIds,
        #[serde(rename = "PASS_TO_PASS")]
        pass_to_pass: TestIds,
    }
    let dir = root().join("fixtures/integrity");
    let task = dir.join("tasks/tally-new");
    let lists: Lists = serde_json::from_slice(&fs::read(task.join("task.json"))?)?;
    let candidate = Instance {
        instance_id: "tally-new".into(),
        patch: fs::read_to_string(task.join("gold.diff"))?,
        test_patch: fs::read_to_string(task.join("test.diff"))?,
        problem_statement: "Amounts cannot be split.".into(),
        source: Some(Source::Dir(dir.join("repos/tally"))),
        environment: Some(environment()),
        test_command: Some("pytest -rA tests/test_split.py tests/test_ledger.py".into()),
        log_parser: Some("parse_log_pytest".into()),
        ..Instance::default()
    };
    let mut expected = candidate.clone();
    expected.fail_to_pass = lists.fail_to_pass;
    expected.pass_to_pass = lists.pass_to_pass;
    Ok((candidate, expected))
}

fn validated(dir: &Path, candidates: Vec<Instance>) -> Result<validation::Summary, Failed> {
    let plan = validation::Plan {
        dir: dir.to_owned(),
        candidates,
        options: validate::Options::default(),
        dispatch: dispatch::Options::default(),
        scratch: home().scratch(),
    };
    let cancel = Cancel::default();
    Ok(validation::run(
        &plan,
        environments()?,
        &cancel,
        &mut |_| {},
    )?)
}

fn candidate() -> Result<(), Failed> {
    let (candidate, expected) = collected()?;
    let dir = tempfile::tempdir()?;
    let summary = validated(dir.path(), vec![candidate.clone()])?;
    if (summary.kept, summary.with_mutants) != (1, 1) {
        return Err(format!("{summary:?}").into());
    }
    let tasks = swegym::tasks::read(&summary.tasks.display().to_string())?;
    let task = &tasks[0];
    for (name, found, wanted) in [
        ("FAIL_TO_PASS", &task.fail_to_pass, &expected.fail_to_pass),
        ("PASS_TO_PASS", &task.pass_to_pass, &expected.pass_to_pass),
    ] {
        let sorted = |ids: &TestIds| {
            let mut ids = ids.0.clone();
            ids.sort();
            ids
        };
        if sorted(found) != sorted(wanted) {
            return Err(format!("{name}: {found:?} instead of {wanted:?}").into());
        }
    }
    // Every record is there: a second run only writes the same dataset.
    let before = fs::read(&summary.tasks)?;
    let again = validated(dir.path(), vec![candidate])?;
    if !again.complete || fs::read(&again.tasks)? != before {
        return Err("a second run gives another dataset".into());
    }
    Ok(())
}

fn no_tasks() -> Result<(), Failed> {
    let (good, _) = collected()?;
    let named = |id: &str, change: fn(&mut Instance)| {
        let mut instance = good.clone();
        instance.instance_id = id.into();
        change(&mut instance);
        instance
    };
    let candidates = vec![
        named("no-fix", |i| {
            i.patch = "diff --git a/README.rst b/README.rst\n--- a/README.rst\n+++ b/README.rst\n@@ -1 +1 @@\n-tally\n+Tally\n".into();
        }),
        named("elsewhere", |i| {
            i.patch = i.patch.replace("src/tally", "src/other")
        }),
        named("no-tests", |i| {
            i.test_command = Some("pytest -rA docs".into())
        }),
        named("hangs", |i| i.test_command = Some("sleep 1000".into())),
    ];
    let dir = tempfile::tempdir()?;
    let mut plan = validation::Plan {
        dir: dir.path().to_owned(),
        candidates,
        options: validate::Options::default(),
        dispatch: dispatch::Options::default(),
        scratch: home().scratch(),
    };
    plan.options.grading.timeout = Duration::from_secs(20);
    let mut reasons = Vec::new();
    validation::run(&plan, environments()?, &Cancel::default(), &mut |event| {
        if let validation::Event::Done(record) = event {
            let reason = record.rejection.as_ref().map(|r| r.reason.name());
            reasons.push((record.instance_id.clone(), reason));
        }
    })?;
    reasons.sort();
    let expected = [
        ("elsewhere", "patch_fails"),
        ("hangs", "timed_out"),
        ("no-fix", "no_fail_to_pass"),
        ("no-tests", "no_tests"),
    ];
    let expected = expected.map(|(id, reason)| (id.to_owned(), Some(reason)));
    if reasons != expected {
        return Err(format!("{reasons:?} instead of {expected:?}").into());
    }
    Ok(())
}

/// The codebase of the corpus, to be broken.
fn seed() -> Instance {
    Instance {
        instance_id: "tally".into(),
        repo: "local/tally".into(),
        source: Some(Source::Dir(root().join("fixtures/integrity/repos/tally"))),
        environment: Some(environment()),
        ..Instance::default()
    }
}

/// Breaks sums and says so in a comment; else it has nothing to say.
#[derive(Default)]
struct Breaker(AtomicUsize);

impl Model for Breaker {
    fn name(&self) -> &str {
        "breaker"
    }

    fn complete(&self, request: &Request<'_>) -> Result<Reply, ModelError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let prompt = request.messages[0].text();
        let source = last_block(&prompt).expect("a function");
        let answer = match source.contains(" * 100 + int(") {
            true => source.replace(" * 100 + int(", " * 10 + int(").replace(
                "\n    sign =",
                "\n    # BUG: ten cents to the whole.\n    sign =",
            ),
            false => source,
        };
        Ok(Reply {
            message: ChatMessage::assistant(format!("Here it is:\n```python\n{answer}```\n")),
            finish: Finish::Stop,
            usage: Usage {
                completion_tokens: Some(7),
                ..Usage::default()
            },
            model: "breaker".into(),
            tokens: None,
            seconds: 0.0,
            attempts: 1,
        })
    }
}

fn rewrites() -> Result<(), Failed> {
    let breaker = Arc::new(Breaker::default());
    let dir = tempfile::tempdir()?;
    let plan = injection::Plan {
        dir: dir.path().to_owned(),
        seeds: vec![seed()],
        options: synth::Options {
            mutate: mutate::Options {
                per_function: 0,
                ..mutate::Options::default()
            },
            ..synth::Options::default()
        },
        rewriter: Some(Rewriter {
            model: breaker.clone(),
            sampling: Sampling::default(),
            // The same answer twice is one bug.
            per_function: 2,
        }),
        dispatch: dispatch::Options::default(),
        scratch: home().scratch(),
    };
    let run = || -> Result<injection::Summary, Failed> {
        let cancel = Cancel::default();
        Ok(injection::run(
            &plan,
            &environments()?,
            &cancel,
            &mut |_| {},
        )?)
    };
    let summary = run()?;
    let asked = breaker.0.load(Ordering::SeqCst);
    let reasons = &summary.codebases[0].funnel.reasons;
    let tokens = summary.asked.and_then(|usage| usage.completion_tokens);
    if summary.kept != 1
        || reasons.get("no_bug") != Some(&(asked - 2))
        || tokens != Some(7 * asked as u64)
    {
        return Err(format!("{asked} calls: {summary:?}").into());
    }
    let tasks = swegym::tasks::read(&summary.tasks.display().to_string())?;
    let whole = fs::read_to_string(&summary.tasks)?;
    if whole.contains("BUG")
        || !tasks[0]
            .patch
            .contains("+    return sign * (abs(int(whole)) * 100")
    {
        return Err(whole.into());
    }
    // What was answered is not asked again.
    run()?;
    if breaker.0.load(Ordering::SeqCst) != asked || fs::read_to_string(&summary.tasks)? != whole {
        return Err("another run asks again, or finds other tasks".into());
    }
    graded(tasks)
}

fn bugs() -> Result<(), Failed> {
    let inject = |dir: &Path| -> Result<injection::Summary, Failed> {
        let plan = injection::Plan {
            dir: dir.to_owned(),
            seeds: vec![seed()],
            options: synth::Options {
                limit: Some(8),
                ..synth::Options::default()
            },
            rewriter: None,
            dispatch: dispatch::Options::default(),
            scratch: home().scratch(),
        };
        let cancel = Cancel::default();
        Ok(injection::run(
            &plan,
            &environments()?,
            &cancel,
            &mut |_| {},
        )?)
    };
    let dir = tempfile::tempdir()?;
    let summary = inject(&dir.path().join("first"))?;
    if summary.kept < 3 || summary.with_mutants == 0 {
        return Err(format!("{summary:?}").into());
    }
    let again = inject(&dir.path().join("second"))?;
    if fs::read(&summary.tasks)? != fs::read(&again.tasks)? {
        return Err("the same seed gives other tasks".into());
    }
    let tasks = swegym::tasks::read(&summary.tasks.display().to_string())?;
    for task in &tasks {
        let fix = task
            .patch
            .lines()
            .filter(|l| l.starts_with('+') && !l.starts_with("++"));
        let shown = fix
            .map(|line| line[1..].trim())
            .find(|line| line.len() > 6 && task.problem_statement.contains(line));
        if let Some(line) = shown {
            return Err(format!("{}: the issue shows {line:?}", task.instance_id).into());
        }
    }
    graded(tasks)
}

/// Gold resolves, and a note beside the point does not.
fn graded(tasks: Vec<Instance>) -> Result<(), Failed> {
    const NOTE: &str = "diff --git a/note.md b/note.md\nnew file mode 100644\n--- /dev/null\n+++ b/note.md\n@@ -0,0 +1 @@\n+works\n";
    let mut predictions = Vec::new();
    for task in &tasks {
        for (model, patch) in [("gold", task.patch.as_str()), ("note", NOTE)] {
            predictions.push(Prediction {
                instance_id: task.instance_id.clone(),
                model_name_or_path: model.into(),
                model_patch: Some(patch.to_owned()),
            });
        }
    }
    let results = evaluate(tasks, predictions, Mode::Auto, Duration::from_secs(60));
    for row in results {
        let right = match row.model_name_or_path.as_str() {
            "gold" => row.outcome == Outcome::Resolved,
            _ => row.outcome == Outcome::Unresolved,
        };
        if !right {
            let what = format!(
                "{} of {}: {:?}",
                row.model_name_or_path, row.instance_id, row.outcome
            );
            return Err(format!("{what} {:?}", row.flags).into());
        }
    }
    Ok(())
}
