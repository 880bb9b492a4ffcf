//! Reads datasets for the stages that follow.

use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use swegym_core::Instance;
use swegym_data::Dataset;
use tempfile::NamedTempFile;

use crate::Error;

/// All instances of a file, folder or hub name.
///
/// # Errors
/// At the first row that cannot be read.
pub fn read(name: &str) -> Result<Vec<Instance>, Error> {
    Ok(Dataset::open(name)?.instances().collect::<Result<_, _>>()?)
}

/// Writes instances as JSON lines.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, instances: &[Instance]) -> Result<(), Error> {
    write_lines(path, instances)
}

/// Writes values as JSON lines.
///
/// # Errors
/// If the file cannot be written.
pub fn write_lines<T: Serialize>(path: &Path, values: &[T]) -> Result<(), Error> {
    let mut text = Vec::new();
    for value in values {
        serde_json::to_writer(&mut text, value).map_err(Error::bug)?;
        text.push(b'\n');
    }
    Ok(swegym_data::atomic::write(path, &text)?)
}

/// Writes instances as JSON lines one by one; the file appears when it is
/// whole.
pub struct Writer {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
    rows: usize,
}

impl Writer {
    /// Starts a file.
    ///
    /// # Errors
    /// If its folder cannot be written to.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let dir = match path.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let file = NamedTempFile::new_in(dir).map_err(|e| Error::io(dir, e))?;
        Ok(Self {
            file: BufWriter::new(file),
            path: path.to_owned(),
            rows: 0,
        })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn add<T: Serialize>(&mut self, value: &T) -> Result<(), Error> {
        serde_json::to_writer(&mut self.file, value)
            .map_err(std::io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"))
            .map_err(|e| Error::io(&self.path, e))?;
        self.rows += 1;
        Ok(())
    }

    /// Puts the file in its place; gives its number of rows.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> Result<usize, Error> {
        let io = |e| Error::io(&self.path, e);
        let file = self.file.into_inner().map_err(|e| io(e.into_error()))?;
        file.as_file()
            .set_permissions(fs::Permissions::from_mode(0o644))
            .map_err(io)?;
        file.persist(&self.path).map_err(|e| io(e.error))?;
        Ok(self.rows)
    }
}
