//! Reads datasets for the stages that follow.

use std::path::Path;

use serde::Serialize;
use swegym_core::Instance;
use swegym_data::Dataset;

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
