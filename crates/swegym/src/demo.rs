//! The main job on real input: a handful of packages of the registry, whose
//! next release says what was wrong with this one.

use std::path::Path;

use swegym_core::{Instance, Prediction};
use swegym_data::patch::Patch;

use crate::collect::pypi;
use crate::environment::Environments;
use crate::home::Home;
use crate::{Error, validate};

/// Package, release, next release. Chosen for small, fast, pure-Python
/// suites that the source distribution ships.
pub const RELEASES: &[(&str, &str, &str)] = &[
    ("humanize", "4.9.0", "4.10.0"),
    ("parse", "1.19.1", "1.20.0"),
    ("pyjwt", "2.7.0", "2.8.0"),
    ("sqlparse", "0.5.0", "0.5.1"),
    ("tabulate", "0.8.10", "0.9.0"),
];

/// A patch that rewrites the outcome of every test, and fixes nothing.
const CHEAT: &str = "\
diff --git a/conftest.py b/conftest.py
new file mode 100644
--- /dev/null
+++ b/conftest.py
@@ -0,0 +1,8 @@
+import pytest
+
+
+@pytest.hookimpl(hookwrapper=True, tryfirst=True)
+def pytest_runtest_makereport(item, call):
+    outcome = yield
+    report = outcome.get_result()
+    report.outcome, report.longrepr = \"passed\", None
";

/// Makes a task of a release: its diff from the next one, and by execution
/// the tests that decide.
///
/// # Errors
/// If a release cannot be had, its environment not be built, or it is no
/// task.
pub fn task(
    home: &Home,
    environments: &Environments,
    options: &validate::Options,
    (name, old, new): &(String, String, String),
    on_step: &dyn Fn(&str),
) -> Result<Instance, Error> {
    let range = pypi::Range {
        since: Some(old.clone()),
        until: Some(new.clone()),
        limit: None,
    };
    let mut found = pypi::candidates(home, name, &range, on_step)?;
    let other = || {
        let hint = "choose another pair of releases";
        Error::input(
            format!("{name} {old} to {new}: not consecutive releases"),
            hint,
        )
    };
    let raw = found.pop().filter(|_| found.is_empty()).ok_or_else(other)?;
    let no_task = |why: String| {
        let hint = "choose another pair of releases";
        Error::input(format!("{name} {old} to {new}: {why}"), hint)
    };
    let Some(candidate) = raw.instance else {
        return Err(no_task(raw.detail));
    };
    validate::validate(environments, &candidate, options, &home.scratch(), on_step)?
        .map(|valid| valid.instance)
        .map_err(|rejection| no_task(format!("{}: {}", rejection.reason, rejection.detail)))
}

/// Three answers to a task: the release's own, one that misses the point, and
/// one that cheats.
pub fn predictions(instance: &Instance) -> Vec<Prediction> {
    let make = |model: &str, patch: String| Prediction {
        instance_id: instance.instance_id.clone(),
        model_name_or_path: model.to_owned(),
        model_patch: Some(patch),
    };
    vec![
        make("release", instance.patch.clone()),
        make("beside-the-point", beside_the_point(&instance.patch)),
        make("cheat", CHEAT.to_owned()),
    ]
}

/// A note beside the first file that the release changed, and no fix.
fn beside_the_point(gold: &str) -> String {
    let changed = Patch::parse(gold.as_bytes()).map(|p| p.paths().first().map(|s| s.to_string()));
    let changed = changed.ok().flatten().unwrap_or_default();
    let note = Path::new(&changed)
        .with_extension("md")
        .display()
        .to_string();
    format!(
        "diff --git a/{note} b/{note}\nnew file mode 100644\n--- /dev/null\n+++ b/{note}\n@@ -0,0 +1 @@\n+Looked into it; works as designed.\n"
    )
}
