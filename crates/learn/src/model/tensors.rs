//! Where tensors come from: safetensors files, one or in shards.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use half::{bf16, f16};
use safetensors::tensor::{Dtype as Stored, Metadata, TensorInfo};

use super::Weight;
use crate::error::{LearnError, Result};

/// How the weights of linear layers are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// As the file has them: `f32`, `bf16`, or quantised where there is a
    /// kernel for it. What has none becomes `f32`.
    #[default]
    Stored,
    /// 4 bytes each.
    F32,
    /// 2 bytes each; sums are in `f32` all the same.
    Bf16,
}

/// Tensors by the names of published checkpoints.
pub trait TensorSource {
    /// A matrix of a linear layer.
    ///
    /// # Errors
    /// If it is missing or has another shape.
    fn matrix(&self, name: &str, rows: usize, columns: usize, dtype: Dtype) -> Result<Weight>;

    /// A vector, always as `f32`.
    ///
    /// # Errors
    /// As above.
    fn vector(&self, name: &str, size: usize) -> Result<Vec<f32>>;
}

/// The safetensors files of a folder.
#[derive(Debug)]
pub struct Safetensors {
    dir: PathBuf,
    tensors: BTreeMap<String, Place>,
}

#[derive(Debug, Clone)]
struct Place {
    file: std::sync::Arc<(PathBuf, Mutex<File>)>,
    start: u64,
    info: TensorInfo,
}

/// Longest header that is read; the format's own limit.
const HEADER: u64 = 100_000_000;

impl Safetensors {
    /// Reads the headers of all `*.safetensors` files of a folder.
    ///
    /// # Errors
    /// If there is none, or one is damaged or cut off.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(|e| LearnError::io(dir, e))? {
            let path = entry.map_err(|e| LearnError::io(dir, e))?.path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                files.push(path);
            }
        }
        files.sort();
        if files.is_empty() {
            return Err(LearnError::format(
                dir,
                "holds no *.safetensors; convert other checkpoints with transformers' save_pretrained",
            ));
        }
        let mut tensors = BTreeMap::new();
        for path in files {
            Self::read(&path, &mut tensors)?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            tensors,
        })
    }

    /// Adds the tensors of a file; gives the notes of its header.
    fn read(
        path: &Path,
        into: &mut BTreeMap<String, Place>,
    ) -> Result<Option<HashMap<String, String>>> {
        let io = |e| LearnError::io(path, e);
        let mut file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length)
            .map_err(|_| LearnError::format(path, "is cut off: no header"))?;
        let length = u64::from_le_bytes(length);
        if length > HEADER || length + 8 > size {
            return Err(LearnError::format(
                path,
                "is cut off, or no safetensors file: its header does not fit into it",
            ));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(io)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|e| LearnError::format(path, format!("bad header: {e}")))?;
        let shared = std::sync::Arc::new((path.to_owned(), Mutex::new(file)));
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            if 8 + length + to as u64 > size {
                return Err(LearnError::tensor(
                    path,
                    &name,
                    "lies beyond the end of the file, which is cut off; fetch it again",
                ));
            }
            let place = Place {
                file: shared.clone(),
                start: 8 + length + from as u64,
                info: info.clone(),
            };
            into.insert(name, place);
        }
        Ok(metadata.metadata().clone())
    }

    fn bytes(&self, name: &str, shape: &[usize]) -> Result<(Vec<u8>, Stored)> {
        let Some(place) = self.tensors.get(name) else {
            return Err(LearnError::tensor(&self.dir, name, "is missing"));
        };
        let (path, file) = &*place.file;
        if place.info.shape != shape {
            return Err(LearnError::tensor(
                path,
                name,
                format!(
                    "has shape {:?}, config.json asks for {shape:?}",
                    place.info.shape
                ),
            ));
        }
        let (from, to) = place.info.data_offsets;
        let mut bytes = vec![0; to - from];
        let mut file = file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        file.seek(SeekFrom::Start(place.start))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|e| LearnError::io(path, e))?;
        Ok((bytes, place.info.dtype))
    }

    /// Names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// First dimension of a tensor; 0 for one that is not there.
    pub(crate) fn rows(&self, name: &str) -> usize {
        let shape = self.tensors.get(name).map(|p| p.info.shape.as_slice());
        shape.and_then(<[usize]>::first).copied().unwrap_or(0)
    }

    /// The file that a tensor is in.
    pub(crate) fn path_of(&self, name: &str) -> &Path {
        self.tensors.get(name).map_or(&self.dir, |p| &p.file.0)
    }

    /// A tensor's numbers as `f32`.
    pub(crate) fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (bytes, stored) = self.bytes(name, shape)?;
        self.floats(name, &bytes, stored)
    }

    fn floats(&self, name: &str, bytes: &[u8], stored: Stored) -> Result<Vec<f32>> {
        match stored {
            Stored::F32 => Ok(words(bytes, f32::from_le_bytes)),
            Stored::BF16 => Ok(words(bytes, |b| bf16::from_le_bytes(b).to_f32())),
            Stored::F16 => Ok(words(bytes, |b| f16::from_le_bytes(b).to_f32())),
            Stored::F64 => Ok(words(bytes, |b| f64::from_le_bytes(b) as f32)),
            other => Err(LearnError::tensor(
                &self.dir,
                name,
                format!("is of type {other:?}; floating-point numbers are needed"),
            )),
        }
    }
}

/// Little-endian words of a byte string.
fn words<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|b| read(*b)).collect()
}

/// One safetensors file with the notes of its header.
///
/// # Errors
/// If it cannot be read or is damaged.
pub(crate) fn read_state(path: &Path) -> Result<(HashMap<String, String>, Safetensors)> {
    let mut tensors = BTreeMap::new();
    let notes = Safetensors::read(path, &mut tensors)?;
    let source = Safetensors {
        dir: path.to_owned(),
        tensors,
    };
    Ok((notes.unwrap_or_default(), source))
}

impl TensorSource for Safetensors {
    fn matrix(&self, name: &str, rows: usize, columns: usize, dtype: Dtype) -> Result<Weight> {
        let (bytes, stored) = self.bytes(name, &[rows, columns])?;
        match (dtype, stored) {
            (Dtype::Stored | Dtype::Bf16, Stored::BF16) => {
                Ok(Weight::Bf16(words(&bytes, bf16::from_le_bytes)))
            }
            _ => Ok(Weight::of(self.floats(name, &bytes, stored)?, dtype)),
        }
    }

    fn vector(&self, name: &str, size: usize) -> Result<Vec<f32>> {
        let (bytes, stored) = self.bytes(name, &[size])?;
        self.floats(name, &bytes, stored)
    }
}
