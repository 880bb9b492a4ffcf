//! What a container changed, as the upper directory of an overlay over its
//! layers.
//!
//! Engines tell the whole tree of a container as a tar archive. What differs
//! from the layers, in kind, mode, time or content, is written; what is missing
//! becomes a whiteout. No engine's own idea of a difference is needed, so the
//! storage driver does not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tar::{Archive, EntryType, Header};

use super::image::{Entry, Tree, at};

/// Folders that are the kernel's, whatever an archive says of them.
const KERNEL: [&str; 3] = ["dev", "proc", "sys"];

/// Writes what an archive has and a tree has not.
pub fn write(tree: &Tree, archive: impl Read, upper: &Path) -> io::Result<()> {
    let mut changes = Changes {
        tree,
        upper,
        user: None,
        seen: BTreeSet::new(),
        directories: BTreeMap::new(),
        written: BTreeSet::new(),
    };
    let mut archive = Archive::new(archive);
    for entry in archive.entries()? {
        changes.take(&mut entry?)?;
    }
    if changes.seen.is_empty() {
        // Better no answer than that all was deleted.
        return Err(invalid(Path::new("/"), "nothing is in it"));
    }
    changes.deletions()?;
    changes.finish_directories()
}

/// Mode and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attributes {
    mode: u32,
    seconds: u64,
}

impl Attributes {
    fn of(header: &Header) -> io::Result<Self> {
        Ok(Self {
            // Set-id bits would be meant for another owner.
            mode: header.mode()? & 0o1777,
            seconds: header.mtime()?,
        })
    }

    /// Those that a file of a layer has in an image.
    fn in_image(entry: &Entry) -> Self {
        Self {
            mode: entry.metadata.mode() & 0o1777,
            seconds: u64::try_from(entry.metadata.mtime()).unwrap_or(0),
        }
    }

    fn put_on(self, file: &File) -> io::Result<()> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.seconds);
        file.set_times(FileTimes::new().set_modified(time))?;
        file.set_permissions(Permissions::from_mode(self.mode))
    }
}

struct Changes<'a> {
    tree: &'a Tree,
    upper: &'a Path,
    /// Owner of what the layers have, as the archive says it: which number that
    /// is depends on the engine's user namespaces.
    user: Option<u64>,
    /// What the archive has.
    seen: BTreeSet<PathBuf>,
    /// Directories it has, and whether they were written.
    directories: BTreeMap<PathBuf, (Attributes, bool)>,
    /// Other things that were written.
    written: BTreeSet<PathBuf>,
}

impl Changes<'_> {
    fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<()> {
        let path = plain(&entry.path()?)?;
        if path.as_os_str().is_empty() || is_kernels(&path) {
            return Ok(());
        }
        self.seen.insert(path.clone());
        let header = entry.header();
        let (kind, attributes) = (header.entry_type(), Attributes::of(header)?);
        let below = self.tree.get(&path);
        let uid = header.uid()?;
        if below.is_some() && self.user.is_none() {
            self.user = Some(uid);
        }
        // What is not the user's is the engine's: mount points and its own
        // files. So is all in `/` that the layers have not.
        let own = self.user == Some(uid);
        if kind == EntryType::Directory {
            self.directories.insert(path.clone(), (attributes, false));
            let same = below.is_some_and(|b| {
                b.metadata.is_dir() && Attributes::in_image(b).mode == attributes.mode
            });
            return if same || !own {
                Ok(())
            } else {
                self.directory(&path)
            };
        }
        if !own {
            return Ok(());
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(&path, attributes, entry)?;
            }
            EntryType::Link => {
                let target = entry
                    .link_name()?
                    .ok_or_else(|| invalid(&path, "no target"))?;
                self.link(&path, attributes, &plain(&target)?)?;
            }
            EntryType::Symlink => {
                let target = entry
                    .link_name()?
                    .ok_or_else(|| invalid(&path, "no target"))?;
                let same = below.is_some_and(|b| {
                    b.metadata.is_symlink() && fs::read_link(&b.source).is_ok_and(|t| t == target)
                });
                if !same {
                    let place = self.place(&path)?;
                    symlink(&target, &place).map_err(at(&place))?;
                }
            }
            EntryType::Fifo => {
                use std::os::unix::fs::FileTypeExt as _;
                if !below.is_some_and(|b| b.metadata.file_type().is_fifo()) {
                    let place = self.place(&path)?;
                    let mode = Mode::from_raw_mode(attributes.mode);
                    mknodat(CWD, &place, FileType::Fifo, mode, 0)
                        .map_err(|e| at(&place)(e.into()))?;
                }
            }
            // Devices mean nothing in a layer.
            _ => {}
        }
        Ok(())
    }

    /// A file, unless the layers have the same.
    fn file(
        &mut self,
        path: &Path,
        attributes: Attributes,
        contents: &mut tar::Entry<'_, impl Read>,
    ) -> io::Result<()> {
        let size = contents.size();
        let below = self
            .tree
            .get(path)
            .filter(|b| b.metadata.is_file() && b.metadata.len() == size);
        let (mut same, mut first) = (0, Vec::new());
        if let Some(below) = below {
            let mut old = File::open(&below.source).map_err(at(&below.source))?;
            (same, first) = common(&mut old, contents).map_err(at(&below.source))?;
            if same == size && first.is_empty() && Attributes::in_image(below) == attributes {
                return Ok(());
            }
        }
        let place = self.place(path)?;
        let mut out = create(&place)?;
        if let Some(below) = below {
            let old = File::open(&below.source).map_err(at(&below.source))?;
            io::copy(&mut old.take(same), &mut out).map_err(at(&place))?;
        }
        out.write_all(&first).map_err(at(&place))?;
        io::copy(contents, &mut out).map_err(at(&place))?;
        attributes.put_on(&out).map_err(at(&place))?;
        self.written.insert(path.to_owned());
        Ok(())
    }

    /// Another name of a file.
    fn link(&mut self, path: &Path, attributes: Attributes, target: &Path) -> io::Result<()> {
        if self.written.contains(target) {
            let place = self.place(path)?;
            fs::hard_link(self.upper.join(target), &place).map_err(at(&place))?;
            self.written.insert(path.to_owned());
            return Ok(());
        }
        // The layers have what it is a name of.
        let Some(source) = self.tree.get(target).filter(|t| t.metadata.is_file()) else {
            return Err(invalid(path, "a link to what is no file"));
        };
        if let Some(below) = self.tree.get(path).filter(|b| b.metadata.is_file()) {
            let one = |e: &Entry| (e.metadata.dev(), e.metadata.ino());
            if one(below) == one(source) {
                return Ok(());
            }
        }
        let place = self.place(path)?;
        let mut out = create(&place)?;
        let mut old = File::open(&source.source).map_err(at(&source.source))?;
        io::copy(&mut old, &mut out).map_err(at(&place))?;
        attributes.put_on(&out).map_err(at(&place))?;
        self.written.insert(path.to_owned());
        Ok(())
    }

    /// Where to write what lies at a path, in directories that exist.
    fn place(&mut self, path: &Path) -> io::Result<PathBuf> {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            self.directory(parent)?;
        }
        Ok(self.upper.join(path))
    }

    /// Makes a directory and those above it. Each must be one in the archive
    /// too, so that no link leads elsewhere.
    fn directory(&mut self, path: &Path) -> io::Result<()> {
        let Some((_, written)) = self.directories.get_mut(path) else {
            return Err(invalid(path, "not a directory of the archive"));
        };
        if std::mem::replace(written, true) {
            return Ok(());
        }
        let place = self.place(path)?;
        fs::create_dir(&place).map_err(at(&place))?;
        // Whatever its mode is to be, files are written into it first.
        fs::set_permissions(&place, Permissions::from_mode(0o700)).map_err(at(&place))
    }

    /// Whiteouts for what is in the layers only.
    fn deletions(&mut self) -> io::Result<()> {
        let mut gone: Option<&Path> = None;
        for (path, entry) in self.tree.iter() {
            let below_gone = gone.is_some_and(|gone| path.starts_with(gone));
            if below_gone || is_kernels(path) || !entry.is_archived() || self.seen.contains(path) {
                continue;
            }
            gone = Some(path);
            let parent = path.parent().unwrap_or(Path::new(""));
            // What is not a directory any more hides what was in it.
            if parent.as_os_str().is_empty() || self.directories.contains_key(parent) {
                let place = self.place(path)?;
                mknodat(CWD, &place, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(|e| at(&place)(e.into()))?;
            }
        }
        Ok(())
    }

    /// Gives directories their modes and times, the deepest first.
    fn finish_directories(&self) -> io::Result<()> {
        let written = self.directories.iter().filter(|(_, (_, written))| *written);
        for (path, (attributes, _)) in written.rev() {
            let place = self.upper.join(path);
            let directory = File::open(&place).map_err(at(&place))?;
            attributes.put_on(&directory).map_err(at(&place))?;
        }
        Ok(())
    }
}

/// A path of names only, below the root.
fn plain(path: &Path) -> io::Result<PathBuf> {
    let mut names = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::RootDir | Component::CurDir => {}
            _ => return Err(invalid(path, "leads upwards")),
        }
    }
    Ok(names)
}

fn is_kernels(path: &Path) -> bool {
    let first = path.iter().next();
    KERNEL.iter().any(|name| first == Some(OsStr::new(name)))
}

fn create(path: &Path) -> io::Result<File> {
    let new = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    new.map_err(at(path))
}

/// How many bytes two contents have in common, and what of the second was read
/// behind those.
fn common(old: &mut impl Read, new: &mut impl Read) -> io::Result<(u64, Vec<u8>)> {
    let (mut ours, mut theirs) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut same = 0;
    loop {
        let read = new.read(&mut theirs)?;
        if read == 0 {
            return Ok((same, Vec::new()));
        }
        if old.read_exact(&mut ours[..read]).is_err() || ours[..read] != theirs[..read] {
            return Ok((same, theirs[..read].to_vec()));
        }
        same += read as u64;
    }
}

fn invalid(path: &Path, what: &str) -> io::Error {
    let path = path.display();
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the engine's archive: {path}: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt as _;

    use super::*;

    const USER: u32 = 1000;

    /// An archive of a tree after changes: what an engine would say.
    fn archive(entries: &[(&str, EntryType, u64, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for &(path, kind, uid, text) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_uid(uid);
            header.set_mtime(1_000_000);
            header.set_mode(if kind == EntryType::Directory {
                0o755
            } else {
                0o644
            });
            header.set_size(0);
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                archive.append_link(&mut header, path, text).unwrap();
            } else {
                header.set_size(text.len() as u64);
                archive
                    .append_data(&mut header, path, text.as_bytes())
                    .unwrap();
            }
        }
        archive.into_inner().unwrap()
    }

    fn layer(files: &[(&str, &str)]) -> tempfile::TempDir {
        let layer = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = layer.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
            fs::write(&path, text).unwrap();
            let attributes = Attributes {
                mode: 0o644,
                seconds: 1_000_000,
            };
            attributes.put_on(&File::open(&path).unwrap()).unwrap();
        }
        layer
    }

    fn listing(dir: &Path, below: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{below}{}", entry.file_name().into_string().unwrap());
            let metadata = fs::symlink_metadata(entry.path()).unwrap();
            if metadata.file_type().is_char_device() {
                found.push(format!("-{name}"));
            } else if metadata.is_dir() {
                found.push(format!("{name}/"));
                listing(&entry.path(), &format!("{name}/"), found);
            } else if metadata.is_symlink() {
                found.push(format!("{name}@"));
            } else {
                found.push(format!(
                    "{name}={}",
                    fs::read_to_string(entry.path()).unwrap()
                ));
            }
        }
        found.sort();
    }

    #[test]
    fn only_what_changed_is_written() {
        const DIR: EntryType = EntryType::Directory;
        const FILE: EntryType = EntryType::Regular;
        let layer = layer(&[
            ("t/same", "same"),
            ("t/changed", "old!"),
            ("t/gone", "x"),
            ("t/dir/a", "x"),
            ("t/dir/b", "x"),
            ("t/was-dir/c", "x"),
            ("dev/null", "x"),
            ("kept/k", "k"),
        ]);
        let tree = Tree::merge(&[layer.path().to_owned()]).unwrap();
        let user = u64::from(USER);
        let bytes = archive(&[
            (".engine", FILE, 0, "its own"),
            ("t", DIR, user, ""),
            ("t/same", FILE, user, "same"),
            ("t/changed", FILE, user, "new!"),
            ("t/added", FILE, user, "more"),
            ("t/again", EntryType::Link, user, "t/added"),
            ("t/another", EntryType::Link, user, "t/same"),
            ("t/link", EntryType::Symlink, user, "/etc/passwd"),
            ("t/was-dir", FILE, user, "now a file"),
            ("t/mount-point", DIR, 0, ""),
            ("t/.engine", FILE, 0, "its own"),
            ("kept", DIR, user, ""),
            ("kept/k", FILE, user, "k"),
        ]);
        let upper = tempfile::tempdir().unwrap();
        write(&tree, &bytes[..], upper.path()).unwrap();
        let mut found = Vec::new();
        listing(upper.path(), "", &mut found);
        let expected = [
            "-t/dir",
            "-t/gone",
            "t/",
            "t/added=more",
            "t/again=more",
            "t/another=same",
            "t/changed=new!",
            "t/link@",
            "t/was-dir=now a file",
        ];
        assert_eq!(found, expected);
        let mode = fs::metadata(upper.path().join("t")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }

    #[test]
    fn no_archive_leads_out_of_the_directory() {
        let layer = layer(&[("t/a", "a")]);
        let tree = Tree::merge(&[layer.path().to_owned()]).unwrap();
        let outside = tempfile::tempdir().unwrap();
        let user = u64::from(USER);
        let link = outside.path().to_str().unwrap();
        let bytes = archive(&[
            ("t", EntryType::Symlink, user, link),
            ("t/x", EntryType::Regular, user, "x"),
        ]);
        let upper = tempfile::tempdir().unwrap();
        assert!(write(&tree, &bytes[..], upper.path()).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(plain(Path::new("a/../../b")).is_err());
        assert!(write(&tree, &archive(&[])[..], upper.path()).is_err());
    }
}
