//! Parts of a long piece of work, each in a folder named by what goes into
//! it: a part that is there is used again, by whichever work asks for it, and
//! another input is another part.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, hash};

/// Says that a part is whole.
const DONE: &str = "done.json";

/// A folder of parts.
#[derive(Debug, Clone)]
pub struct Parts {
    dir: PathBuf,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its folder.
    pub dir: PathBuf,
    /// What it is known by: a digest of all that goes into it.
    pub key: String,
}

impl Parts {
    /// The parts of a folder.
    pub fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// The part of this name that is made of `inputs`, whether it is there or
    /// not. What it is made of is written beside it.
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub fn part(&self, name: &str, inputs: &Value) -> Result<Part, Error> {
        let key = hash(inputs.to_string().as_bytes())[..16].to_owned();
        let dir = self.dir.join(format!("{name}-{key}"));
        fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        let path = dir.join("inputs.json");
        if !path.exists() {
            swegym_data::atomic::write_json(&path, inputs)?;
        }
        Ok(Part { dir, key })
    }
}

impl Part {
    /// What it came to, if it is whole.
    pub fn done<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&fs::read(self.dir.join(DONE)).ok()?).ok()
    }

    /// Says that it is whole, and what it came to.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn finish<T: Serialize>(&self, came_to: &T) -> Result<(), Error> {
        Ok(swegym_data::atomic::write_json(
            &self.dir.join(DONE),
            came_to,
        )?)
    }
}
