//! Images out of layers: the merged tree as one tar archive, imported once.
//!
//! Everything in it belongs to the user that commands run as.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::USER;

/// Block of a file system.
const BLOCK: u64 = 4096;
/// Most that a name and an inode take up in btrfs, whose trees are half full
/// at worst.
const ENTRY: u64 = 1024;

/// Entries of the merged tree: path below the root to the file of a layer.
#[derive(Debug)]
pub struct Tree(BTreeMap<PathBuf, Entry>);

/// One of them.
#[derive(Debug)]
pub struct Entry {
    pub source: PathBuf,
    pub metadata: Metadata,
}

impl Entry {
    /// Whether an image has it: sockets and devices mean nothing there.
    pub fn is_archived(&self) -> bool {
        let kind = self.metadata.file_type();
        kind.is_dir() || kind.is_file() || kind.is_symlink() || kind.is_fifo()
    }
}

impl Tree {
    /// Merges layers, topmost first, as an overlay would.
    pub fn merge(layers: &[PathBuf]) -> io::Result<Self> {
        let mut tree = Self(BTreeMap::new());
        let mut hidden = HashSet::new();
        for layer in layers {
            let mut hides = Vec::new();
            tree.add(layer, Path::new(""), &hidden, &mut hides)?;
            hidden.extend(hides);
        }
        Ok(tree)
    }

    /// Whether the tree has this absolute path.
    pub fn contains(&self, path: &Path) -> bool {
        path.strip_prefix("/")
            .is_ok_and(|path| self.0.contains_key(path))
    }

    /// What it has at a path below the root.
    pub fn get(&self, path: &Path) -> Option<&Entry> {
        self.0.get(path)
    }

    /// All it has; what is in a directory follows it.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.0.iter().map(|(path, entry)| (path.as_path(), entry))
    }

    /// Adds a directory of a layer below what layers above it have.
    fn add(
        &mut self,
        layer: &Path,
        directory: &Path,
        hidden: &HashSet<PathBuf>,
        hides: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        let full = layer.join(directory);
        for entry in fs::read_dir(&full).map_err(at(&full))? {
            let entry = entry.map_err(at(&full))?;
            let (path, source) = (directory.join(entry.file_name()), entry.path());
            let metadata = fs::symlink_metadata(&source).map_err(at(&source))?;
            let kind = metadata.file_type();
            let above = self.0.get(&path).map(|e| e.metadata.is_dir());
            if hidden.contains(&path) && above.is_none() || above == Some(false) {
                continue;
            }
            if kind.is_char_device() && metadata.rdev() == 0 {
                hides.push(path);
                continue;
            }
            if above == Some(true) && (!kind.is_dir() || hidden.contains(&path)) {
                // A directory above hides what is not one, and what it replaced.
                hides.push(path);
                continue;
            }
            if kind.is_dir() {
                if is_opaque(&source) {
                    hides.push(path.clone());
                }
                self.0
                    .entry(path.clone())
                    .or_insert(Entry { source, metadata });
                self.add(layer, &path, hidden, hides)?;
            } else {
                self.0.insert(path.clone(), Entry { source, metadata });
                hides.push(path);
            }
        }
        Ok(())
    }

    /// Writes the tree as a tar archive.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut archive = Builder::new(out);
        let mut links: HashMap<(u64, u64), &Path> = HashMap::new();
        for (path, entry) in self.0.iter().filter(|(_, entry)| entry.is_archived()) {
            let metadata = &entry.metadata;
            let mut header = header(metadata);
            let kind = metadata.file_type();
            if kind.is_dir() {
                header.set_entry_type(EntryType::Directory);
                archive.append_data(&mut header, path, io::empty())?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&entry.source).map_err(at(&entry.source))?;
                header.set_entry_type(EntryType::Symlink);
                archive.append_link(&mut header, path, target)?;
            } else if kind.is_file() {
                let inode = (metadata.dev(), metadata.ino());
                if let Some(first) = links.get(&inode) {
                    header.set_entry_type(EntryType::Link);
                    archive.append_link(&mut header, path, first)?;
                    continue;
                }
                if metadata.nlink() > 1 {
                    links.insert(inode, path);
                }
                header.set_size(metadata.len());
                let file = File::open(&entry.source).map_err(at(&entry.source))?;
                archive.append_data(&mut header, path, file.take(metadata.len()))?;
            } else {
                header.set_entry_type(EntryType::Fifo);
                archive.append_data(&mut header, path, io::empty())?;
            }
        }
        archive.into_inner()?.flush()
    }

    /// What a copy of it takes up in a file system, metadata included: rather
    /// too much than too little.
    pub fn size(&self) -> u64 {
        let mut counted = HashSet::new();
        let entries = self.0.values().filter(|entry| entry.is_archived());
        let sizes = entries.map(|Entry { metadata, .. }| {
            let again = metadata.nlink() > 1 && !counted.insert((metadata.dev(), metadata.ino()));
            let content = match metadata.len() {
                _ if !metadata.is_file() || again => 0,
                // A small one may be stored in a tree that is half full.
                length => (2 * length).min(length.next_multiple_of(BLOCK)),
            };
            content + ENTRY
        });
        sizes.sum()
    }

    /// A name for the contents.
    pub fn digest(&self) -> io::Result<String> {
        let mut hasher = blake3::Hasher::new();
        self.write(&mut hasher)?;
        Ok(hasher.finalize().to_hex()[..32].to_owned())
    }
}

fn header(metadata: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    // Set-id bits would be meant for another owner.
    header.set_mode(metadata.mode() & 0o1777);
    header.set_uid(USER.into());
    header.set_gid(USER.into());
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}

/// Whether a directory hides what lower layers have in its place.
fn is_opaque(path: &Path) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|name| {
            let mut value = [0; 8];
            rustix::fs::lgetxattr(path.as_os_str().as_bytes(), *name, &mut value[..])
                .is_ok_and(|length| value[..length].starts_with(b"y"))
        })
}

/// Names the file in an error.
pub fn at(path: &Path) -> impl Fn(io::Error) -> io::Error + use<> {
    let path = path.to_owned();
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}
