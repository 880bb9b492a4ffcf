//! Where a dataset comes from: what a task says of its environment, and what
//! each step that wrote a file leaves beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use swegym_core::Instance;
use swegym_data::patch::Tree;
use swegym_forge::MemoryTree;

use crate::environment::Environment;
use crate::funnel::Funnel;
use crate::{Error, hash};

/// File of a step, in the folder it wrote.
pub const FILE: &str = "provenance.json";

/// What one command did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Name and version of the program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How many candidates reached each stage, and why the others did not.
    pub funnel: Funnel,
    /// Files it read, absolute: digest (BLAKE3, 64 hex digits) of each.
    pub inputs: BTreeMap<PathBuf, String>,
    /// Files it wrote, by their names in its folder, likewise.
    pub outputs: BTreeMap<String, String>,
}

impl Step {
    /// The step that this process is, over these inputs; what is no file, such
    /// as a hub name, is left out.
    ///
    /// # Errors
    /// If an input cannot be read.
    pub fn here(funnel: &Funnel, inputs: &[PathBuf]) -> Result<Self, Error> {
        let mut step = Self {
            program: format!("swegym {}", env!("CARGO_PKG_VERSION")),
            arguments: std::env::args().skip(1).collect(),
            funnel: funnel.clone(),
            ..Self::default()
        };
        for path in inputs.iter().filter(|path| path.is_file()) {
            let path = path.canonicalize().map_err(|e| Error::io(path, e))?;
            let digest = digest(&path)?;
            step.inputs.insert(path, digest);
        }
        Ok(step)
    }

    /// Writes the step into its folder, with the digests of what it made there.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn write(mut self, dir: &Path, outputs: &[&str]) -> Result<(), Error> {
        for name in outputs {
            let digest = digest(&dir.join(name))?;
            self.outputs.insert((*name).to_owned(), digest);
        }
        Ok(swegym_data::atomic::write_json(&dir.join(FILE), &self)?)
    }

    /// The steps that led to a file, first to last, as far as their folders
    /// are still there.
    ///
    /// # Errors
    /// If the record of a step is broken.
    pub fn leading_to(file: &Path) -> Result<Vec<Self>, Error> {
        let mut steps = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![file.to_owned()];
        while let Some(file) = open.pop() {
            let Ok(file) = file.canonicalize() else {
                continue;
            };
            let Some(path) = file.parent().map(|dir| dir.join(FILE)) else {
                continue;
            };
            if !path.is_file() || !seen.insert(path.clone()) {
                continue;
            }
            let text = fs::read(&path).map_err(|e| Error::io(&path, e))?;
            let step: Self = serde_json::from_slice(&text).map_err(|e| {
                Error::input(
                    format!("{}: {e}", path.display()),
                    "the command that wrote this folder writes it anew",
                )
            })?;
            open.extend(step.inputs.keys().cloned());
            steps.push(step);
        }
        steps.reverse();
        Ok(steps)
    }
}

fn digest(path: &Path) -> Result<String, Error> {
    Ok(hash(&fs::read(path).map_err(|e| Error::io(path, e))?))
}

/// Adds to a task what its environment turned out to be: `environment_lock`
/// (`python` and the exact `requirements`) and `license_name`.
pub(crate) fn describe(environment: &Environment, instance: &mut Instance) {
    let lock = json!({
        "python": environment.meta.interpreter.version.to_string(),
        "requirements": requirements(environment),
    });
    instance.extra.insert("environment_lock".into(), lock);
    if let Some(name) = license(environment)
        && !instance.extra.contains_key("license_name")
    {
        instance.extra.insert("license_name".into(), name.into());
    }
}

/// Distributions below the codebase, as `name==version`.
fn requirements(environment: &Environment) -> Vec<String> {
    let site = environment.site_packages.trim_start_matches('/');
    let layers = environment.layers.iter().filter(|(role, _)| role == "deps");
    let entries = layers
        .filter_map(|(_, tree)| fs::read_dir(tree.join(site)).ok())
        .flat_map(|entries| entries.flatten());
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let (name, version) = name.strip_suffix(".dist-info")?.rsplit_once('-')?;
        Some(format!(
            "{}=={version}",
            name.replace('_', "-").to_lowercase()
        ))
    });
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

fn license(environment: &Environment) -> Option<String> {
    let tree = environment.tree();
    let files = ["pyproject.toml", "setup.cfg", "setup.py", "PKG-INFO"];
    let texts = files.iter().filter_map(|path| {
        let entry = tree.read(path).ok()??;
        Some((*path, String::from_utf8_lossy(&entry.bytes).into_owned()))
    });
    swegym_forge::license(&texts.collect::<MemoryTree>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_followed_back_to_the_first() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
        fs::create_dir_all(&first)?;
        fs::create_dir_all(&second)?;
        let [raw, kept] = [first.join("raw.jsonl"), second.join("kept.jsonl")];
        fs::write(&raw, "raw")?;
        fs::write(&kept, "kept")?;
        let mut funnel = Funnel::of(&["pairs", "candidates"]);
        funnel.reached("pairs");
        let hub = PathBuf::from("owner/name");
        Step::here(&funnel, &[hub])?.write(&first, &["raw.jsonl"])?;
        Step::here(&Funnel::of(&["kept"]), std::slice::from_ref(&raw))?
            .write(&second, &["kept.jsonl"])?;

        let steps = Step::leading_to(&kept)?;
        let [one, two] = &steps[..] else {
            return Err(format!("{} steps", steps.len()).into());
        };
        assert_eq!(one.funnel, funnel);
        assert!(one.inputs.is_empty());
        let raw = raw.canonicalize()?;
        assert_eq!(two.inputs.get(&raw), one.outputs.get("raw.jsonl"));
        assert_eq!(two.outputs["kept.jsonl"], hash(b"kept"));
        assert_eq!(Step::leading_to(&dir.path().join("missing"))?, []);

        fs::write(first.join(FILE), "{")?;
        let broken = Step::leading_to(&kept)
            .expect_err("it is no JSON")
            .to_string();
        assert!(broken.contains("first/provenance.json"), "{broken}");
        Ok(())
    }
}
