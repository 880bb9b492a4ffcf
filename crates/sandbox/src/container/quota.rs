//! Whether an engine limits all that a container writes, found out by trying.
//!
//! Storage drivers take the option and do nothing, count the image too, or
//! count no files: so their names only say where a try may be worth it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tar::{Builder, Header};

use super::image::Tree;
use super::process::{self, Running};
use super::{Engine, Image, Kind, LABEL, QUICK, random_name};

/// Size of the image that is tried with, bytes.
const IMAGE: u64 = 4 << 20;
/// What the first container of a try may write, and the image with it.
const LIMIT: u64 = 6 << 20;
/// Fits the first container.
const FITS: u64 = 1 << 20;
/// Fits there too unless the image counts, but no second time.
const MORE: u64 = 4 << 20;

/// Bytes and files that the second container may write.
const SMALL: u64 = 256 << 10;
const FEW: u64 = 64;
/// Files that are too many for it where all their metadata counts, but not
/// where only their names do.
const MANY: u64 = 400;
/// Their names repeat a random one so often: the longer, the fewer files near
/// a limit, each of which takes btrfs long.
const REPEATED: usize = 7;

/// Bytes a file, as in a memory upper of the native backend.
const BYTES_A_FILE: u64 = 4096;
/// Room for what an engine itself puts into a container.
const ENGINES: u64 = 64 << 10;

/// Where the kernel tells of the btrfs file systems here.
const BTRFS: &str = "/sys/fs/btrfs";

/// What `info` says about an engine's storage.
#[derive(Debug, Default)]
pub struct Storage {
    driver: String,
    status: String,
    /// Driver options of podman's configuration.
    options: Vec<String>,
}

impl Storage {
    /// From lines of its driver, its status, and its options.
    pub fn parse(answer: &str) -> Self {
        let mut lines = answer.lines();
        let mut line = || lines.next().unwrap_or_default().trim().to_owned();
        let (driver, status) = (line(), line());
        let options = match serde_json::from_str(&line()) {
            Ok(Value::Object(options)) => options
                .iter()
                .filter_map(|(name, value)| {
                    // A program is told with its version.
                    let value = value.get("Executable").unwrap_or(value).as_str()?;
                    Some(format!("{name}={value}"))
                })
                .collect(),
            _ => Vec::new(),
        };
        Self {
            driver,
            status,
            options,
        }
    }

    /// Whether a driver like it can have quotas.
    fn may_limit(&self) -> bool {
        match self.driver.as_str() {
            "btrfs" | "zfs" => true,
            _ => self.is_overlay() && self.status.contains("\"xfs\""),
        }
    }

    fn is_overlay(&self) -> bool {
        matches!(self.driver.as_str(), "overlay" | "overlay2")
    }
}

/// How all writes of a container are limited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quota {
    /// The image counts as written.
    counts_image: bool,
    /// There is a limit of the number of files too.
    takes_files: bool,
    /// That, or what a file takes up without content counts as written.
    pub files: bool,
    /// What must be said again for the limit to be heard.
    options: Vec<String>,
    /// Quota groups of btrfs that must go on to count right.
    groups: Vec<PathBuf>,
}

impl Quota {
    /// Arguments for a container that may write so many bytes, over an image of
    /// a size.
    pub fn args(&self, bytes: u64, image: impl FnOnce() -> u64) -> Vec<OsString> {
        let files = (bytes / BYTES_A_FILE).max(1024);
        let besides = if self.counts_image {
            image().saturating_add(ENGINES)
        } else {
            0
        };
        self.exact_args(bytes.saturating_add(besides), files)
    }

    /// Fails where the kernel does not keep the limit any more.
    pub fn check(&self) -> io::Result<()> {
        match self.groups.iter().find(|g| is(g, "inconsistent", "1")) {
            None => Ok(()),
            Some(groups) => Err(io::Error::other(format!(
                "{} have become inconsistent and limit nothing; `btrfs quota rescan` repairs them",
                groups.display()
            ))),
        }
    }

    fn exact_args(&self, bytes: u64, files: u64) -> Vec<OsString> {
        let mut options = self.options.clone();
        options.push(format!("size={bytes}"));
        if self.takes_files {
            options.push(format!("inodes={files}"));
        }
        let args = options.iter().map(|o| format!("--storage-opt={o}").into());
        args.collect()
    }
}

/// Whether a file of quota groups says this.
fn is(groups: &Path, name: &str, value: &str) -> bool {
    std::fs::read_to_string(groups.join(name)).is_ok_and(|text| text.trim() == value)
}

/// The quota groups of all btrfs file systems here, if all have some that count
/// right; which one is the engine's cannot be told.
///
/// An engine would turn them on by itself, but containers made during the first
/// count are counted wrong, and when these are deleted the kernel gives up
/// counting, thus limiting.
fn groups() -> Option<Vec<PathBuf>> {
    let entries = std::fs::read_dir(BTRFS).ok()?;
    let systems = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let systems = systems.filter(|path| path.join("devices").is_dir());
    let groups: Vec<PathBuf> = systems.map(|path| path.join("qgroups")).collect();
    let right = |g: &PathBuf| is(g, "enabled", "1") && is(g, "inconsistent", "0");
    (!groups.is_empty() && groups.iter().all(right)).then_some(groups)
}

/// How an engine limits all writes, if it does.
pub fn find(engine: &Engine, storage: &Storage) -> Option<Quota> {
    if !storage.may_limit() {
        return None;
    }
    let groups = match storage.driver.as_str() {
        "btrfs" => groups()?,
        _ => Vec::new(),
    };
    // Whatever goes wrong: such an engine is used without.
    let quota = attempt(engine, storage).unwrap_or_default()?;
    Some(Quota { groups, ..quota })
}

fn attempt(engine: &Engine, storage: &Storage) -> io::Result<Option<Quota>> {
    let layer = tempfile::tempdir()?;
    std::fs::write(layer.path().join("image"), noise(IMAGE)?)?;
    let name = format!("localhost/swegym/quota:{}", random_name()?);
    engine.import(&Tree::merge(&[layer.path().to_owned()])?, &name)?;
    let image = Image {
        engine: engine.reference(),
        reference: name,
        temporary: true,
        volumes: std::sync::Mutex::default(),
        _below: None,
    };
    let mut quota = Quota::default();
    if engine.kind == Kind::Podman {
        // An option makes podman forget those of its configuration.
        quota.options.clone_from(&storage.options);
        quota.takes_files = true;
    }
    let Some(container) = start(engine, &image, &mut quota, LIMIT)? else {
        return Ok(None);
    };
    if !container.takes(1, FITS)? {
        return Ok(None);
    }
    quota.counts_image = !container.takes(1, MORE)?;
    if !quota.counts_image && container.takes(1, MORE)? {
        return Ok(None);
    }
    drop(container);
    if storage.is_overlay() && !quota.takes_files {
        // XFS sets so much aside for each new file that a small limit refuses
        // what a large one takes.
        return Ok(Some(quota));
    }
    // What has a limit of its own must not run into that of bytes.
    let limit = if quota.takes_files { LIMIT } else { SMALL };
    let limit = limit + if quota.counts_image { IMAGE } else { 0 };
    let Some(container) = start(engine, &image, &mut quota, limit)? else {
        return Ok(None);
    };
    quota.files = container.takes(FEW / 2, 0)? && !container.takes(MANY, 0)?;
    Ok(Some(quota))
}

/// A container that is never started, if the engine takes the limits: of files
/// too, or else without.
fn start<'a>(
    engine: &'a Engine,
    image: &Image,
    quota: &mut Quota,
    bytes: u64,
) -> io::Result<Option<Container<'a>>> {
    let name = format!("swegym-quota-{}", random_name()?);
    let container = Container { engine, name };
    loop {
        let mut args: Vec<OsString> = ["create", "--pull=never", "--network=none"]
            .map(OsString::from)
            .to_vec();
        args.push(format!("--name={}", container.name).into());
        args.push(format!("--label={LABEL}={}", std::process::id()).into());
        args.extend(quota.exact_args(bytes, FEW));
        args.extend([&image.reference, "/true"].map(OsString::from));
        if engine.reference().run(args, QUICK)?.success() {
            return Ok(Some(container));
        }
        if !std::mem::take(&mut quota.takes_files) {
            return Ok(None);
        }
    }
}

struct Container<'a> {
    engine: &'a Engine,
    name: String,
}

impl Container<'_> {
    /// Whether it takes so many more files of a size.
    fn takes(&self, files: u64, size: u64) -> io::Result<bool> {
        let mut archive = Builder::new(Vec::new());
        // No two of a container have the same name.
        let prefix = random_name()?.repeat(REPEATED);
        let content = noise(size)?;
        for file in 0..files {
            let mut header = Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(size);
            archive.append_data(&mut header, format!("{prefix}-{file}"), &content[..])?;
        }
        let archive = archive.into_inner()?;
        let target = format!("{}:/", self.name);
        let copy = process::command(&self.engine.program, ["cp", "-", &target]);
        let mut running = Running::start(copy, true)?;
        running.write(&archive);
        running.close_stdin();
        Ok(process::finish(running, QUICK, 1 << 16)?.success())
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // `remove_leftovers` removes what this cannot.
        let _ = self.engine.remove_container(&self.name);
    }
}

/// Bytes that no file system makes smaller.
fn noise(size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open("/dev/urandom")?
        .take(size)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_storage_is_worth_a_try() {
        let tried = |answer| Storage::parse(answer).may_limit();
        assert!(tried(
            "overlay\n{\"Backing Filesystem\":\"xfs\",\"Supports d_type\":\"true\"}\n{}\n"
        ));
        assert!(tried("overlay2\n[[\"Backing Filesystem\",\"xfs\"]]\n"));
        assert!(tried("btrfs\n[[\"Library Version\",\"102\"]]\n"));
        assert!(!tried("overlay2\n[[\"Backing Filesystem\",\"extfs\"]]\n"));
        assert!(!tried("vfs\n{}\n{}\n"));
        assert!(!tried(""));
    }

    #[test]
    fn podman_is_told_its_own_options_again() {
        let options = Storage::parse(
            "overlay\n{}\n{\"overlay.mount_program\":{\"Executable\":\"/bin/fuse\",\"Package\":\"x\"},\
             \"overlay.mountopt\":\"nodev,metacopy=on\"}\n",
        )
        .options;
        assert_eq!(
            options,
            [
                "overlay.mount_program=/bin/fuse",
                "overlay.mountopt=nodev,metacopy=on"
            ]
        );
    }

    #[test]
    fn groups_that_count_no_more_are_noticed() {
        let groups = tempfile::tempdir().unwrap();
        let quota = Quota {
            groups: vec![groups.path().to_owned()],
            ..Quota::default()
        };
        let inconsistent = groups.path().join("inconsistent");
        std::fs::write(&inconsistent, "0\n").unwrap();
        assert!(quota.check().is_ok());
        std::fs::write(&inconsistent, "1\n").unwrap();
        assert!(quota.check().is_err());
    }

    #[test]
    fn limits_are_said_as_the_engine_counts() {
        let mut quota = Quota {
            takes_files: true,
            ..Quota::default()
        };
        assert_eq!(
            quota.args(8 << 20, || unreachable!("it does not count")),
            ["--storage-opt=size=8388608", "--storage-opt=inodes=2048"]
        );
        quota = Quota {
            counts_image: true,
            ..Quota::default()
        };
        assert_eq!(
            quota.args(1 << 20, || 1 << 20),
            [format!("--storage-opt=size={}", (2 << 20) + ENGINES).as_str()]
        );
    }
}
