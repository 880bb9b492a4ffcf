//! The Python package registry: which files a project has, and fetching one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use backon::{BlockingRetryable, ExponentialBuilder};
use serde::Deserialize;
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::SourceError;
use super::sdist::copy_capped;
use crate::error::At;

/// Prints what pip is configured for, as JSON: the address of its index and,
/// where set, a certificate.
const ASK_PIP: &str = include_str!("ask_pip.py");

/// The simple index as JSON (PEP 691), or else as HTML (PEP 503).
const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";

/// Largest page of an index, bytes.
const MAX_PAGE: u64 = 256 << 20;

/// A package registry, and a cache for what comes from it.
#[derive(Debug, Clone)]
pub struct Registry {
    index: String,
    cache: PathBuf,
    agent: Agent,
}

/// A file of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub name: String,
    pub url: String,
    pub sha256: Option<String>,
    /// When it was uploaded, RFC 3339; only JSON pages say.
    pub uploaded: Option<String>,
    /// Whether it was withdrawn.
    pub yanked: bool,
}

impl Registry {
    /// A registry by the URL of its simple index. With `certificate`, a PEM
    /// file, only that is trusted; otherwise what the system trusts
    /// (`SSL_CERT_FILE` is heeded).
    ///
    /// # Errors
    /// If the certificate cannot be read.
    pub fn new(
        index: &str,
        certificate: Option<&Path>,
        cache: impl Into<PathBuf>,
    ) -> Result<Self, SourceError> {
        let roots = match certificate {
            Some(path) => RootCerts::from(read_certificates(path)?),
            None => RootCerts::PlatformVerifier,
        };
        let agent = Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .http_status_as_error(true)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .user_agent(concat!("swegym/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self {
            index: index.trim_end_matches('/').to_owned(),
            cache: cache.into(),
            agent,
        })
    }

    /// The registry that uv and pip are configured for: `UV_DEFAULT_INDEX`,
    /// `UV_INDEX_URL`, `PIP_INDEX_URL`, or what pip itself says of its
    /// configuration and default; certificates from `PIP_CERT` or `cert` there.
    ///
    /// # Errors
    /// As [`Registry::new`], or if no variable names an index and there is no
    /// pip to ask.
    pub fn from_env(cache: impl Into<PathBuf>) -> Result<Self, SourceError> {
        let settings = Settings::read(
            &|name| std::env::var(name).ok().filter(|v| !v.is_empty()),
            &ask_pip,
        )?;
        Self::new(&settings.index, settings.certificate.as_deref(), cache)
    }

    /// The index URL, without name and password.
    pub fn index(&self) -> String {
        without_password(&self.index)
    }

    /// The folder of what was downloaded.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Files of a project, by its normalised name.
    pub(crate) fn links(&self, project: &str) -> Result<Vec<Link>, SourceError> {
        let url = format!("{}/{project}/", self.index);
        let (page, is_json) = self.retry(&url, || {
            let mut response = self.agent.get(&url).header("Accept", ACCEPT).call()?;
            let is_json = response
                .body()
                .mime_type()
                .is_some_and(|t| t.ends_with("json"));
            let page = response
                .body_mut()
                .with_config()
                .limit(MAX_PAGE)
                .read_to_vec()?;
            Ok((page, is_json))
        })?;
        let text = String::from_utf8_lossy(&page);
        let links = if is_json {
            from_json(&text)
        } else {
            from_html(&text)
        };
        let links = links.map_err(|reason| SourceError::BadAnswer {
            url: url.clone(),
            reason,
        })?;
        Ok(links
            .into_iter()
            .map(|link| Link {
                url: join(&url, &link.url),
                ..link
            })
            .collect())
    }

    /// Downloads into a file.
    pub(crate) fn get_file(&self, url: &str, dest: &Path, limit: u64) -> Result<(), SourceError> {
        let over = self.retry(url, || {
            let response = self.agent.get(url).call()?;
            let mut body = response
                .into_body()
                .into_with_config()
                .limit(u64::MAX)
                .reader();
            let mut file = File::create(dest)?;
            Ok(copy_capped(&mut body, &mut file, limit)?.1)
        })?;
        if over {
            return Err(SourceError::TooLarge {
                path: dest.to_owned(),
                limit: format!("{limit} bytes"),
            });
        }
        Ok(())
    }

    /// Tries again after passing faults.
    fn retry<T>(
        &self,
        url: &str,
        call: impl FnMut() -> Result<T, ureq::Error>,
    ) -> Result<T, SourceError> {
        let wait = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(300))
            .with_max_times(4)
            .with_jitter();
        call.retry(wait).when(is_passing).call().map_err(|e| {
            let url = without_password(url);
            match e {
                ureq::Error::StatusCode(status) => SourceError::Refused { url, status },
                e => SourceError::Unreachable {
                    url,
                    reason: e.to_string(),
                },
            }
        })
    }
}

/// Whether another try may help.
fn is_passing(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::StatusCode(status) => *status == 429 || *status >= 500,
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::ConnectionFailed
        | ureq::Error::HostNotFound
        | ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

fn read_certificates(path: &Path) -> Result<Vec<ureq::tls::Certificate<'static>>, SourceError> {
    let pem = fs::read(path).at("read certificates from", path)?;
    Ok(parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect())
}

/// Where to look, and whom to trust.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    index: String,
    certificate: Option<PathBuf>,
}

impl Settings {
    fn read(
        env: &dyn Fn(&str) -> Option<String>,
        pip: &dyn Fn() -> Result<Pip, SourceError>,
    ) -> Result<Self, SourceError> {
        let index = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"]
            .iter()
            .find_map(|name| env(name));
        let certificate = env("PIP_CERT");
        let (index, certificate) = match index {
            Some(index) => (index, certificate),
            None => {
                let pip = pip()?;
                (pip.index, certificate.or(pip.certificate))
            }
        };
        Ok(Self {
            index,
            certificate: certificate.map(PathBuf::from),
        })
    }
}

/// What pip says of itself.
#[derive(Debug, Clone, Deserialize)]
struct Pip {
    index: String,
    certificate: Option<String>,
}

/// Asks the pip of the first Python on `PATH` that has one, once a process.
fn ask_pip() -> Result<Pip, SourceError> {
    static ANSWER: OnceLock<Result<Pip, String>> = OnceLock::new();
    let answer = ANSWER.get_or_init(|| {
        let mut said = String::new();
        for python in ["python3", "python"] {
            let output = Command::new(python)
                .args(["-c", ASK_PIP])
                .stdin(Stdio::null())
                .output();
            match output {
                Ok(o) if o.status.success() => {
                    return serde_json::from_slice(&o.stdout).map_err(|e| format!("{python}: {e}"));
                }
                Ok(o) => {
                    let text = String::from_utf8_lossy(&o.stderr);
                    said = format!("{python}: {}", text.lines().last().unwrap_or("no answer"));
                }
                Err(e) if said.is_empty() => said = format!("{python}: {e}"),
                Err(_) => {}
            }
        }
        Err(said)
    });
    answer.clone().map_err(SourceError::NoRegistry)
}

fn from_json(text: &str) -> Result<Vec<Link>, String> {
    #[derive(Deserialize)]
    struct Page {
        files: Vec<File>,
    }
    #[derive(Deserialize)]
    struct File {
        filename: String,
        url: String,
        #[serde(default)]
        hashes: BTreeMap<String, String>,
        #[serde(default, rename = "upload-time")]
        uploaded: Option<String>,
        /// `false`, or the reason.
        #[serde(default)]
        yanked: serde_json::Value,
    }
    let page: Page = serde_json::from_str(text).map_err(|e| format!("not a simple index: {e}"))?;
    Ok(page
        .files
        .into_iter()
        .map(|mut file| Link {
            name: file.filename,
            url: file.url,
            sha256: file.hashes.remove("sha256"),
            uploaded: file.uploaded,
            yanked: !matches!(
                file.yanked,
                serde_json::Value::Null | serde_json::Value::Bool(false)
            ),
        })
        .collect())
}

fn from_html(text: &str) -> Result<Vec<Link>, String> {
    let page = tl::parse(text, tl::ParserOptions::default())
        .map_err(|e| format!("not a simple index: {e}"))?;
    let anchors = page.query_selector("a[href]").into_iter().flatten();
    Ok(anchors
        .filter_map(|handle| {
            let tag = handle.get(page.parser())?.as_tag()?;
            let href = tag.attributes().get("href")??.as_utf8_str();
            let (url, fragment) = href.split_once('#').unwrap_or((&href, ""));
            Some(Link {
                name: tag.inner_text(page.parser()).trim().to_owned(),
                url: url.to_owned(),
                sha256: fragment.strip_prefix("sha256=").map(str::to_owned),
                uploaded: None,
                yanked: tag.attributes().contains("data-yanked"),
            })
        })
        .collect())
}

/// Resolves a link on a page.
fn join(page: &str, link: &str) -> String {
    if link.contains("://") {
        return link.to_owned();
    }
    let (scheme, rest) = page.split_once("://").unwrap_or(("https", page));
    if let Some(link) = link.strip_prefix("//") {
        return format!("{scheme}://{link}");
    }
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut parts: Vec<&str> = if link.starts_with('/') {
        Vec::new()
    } else {
        path.split('/').collect()
    };
    parts.pop();
    for part in link.trim_start_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("{scheme}://{host}/{}", parts.join("/"))
}

fn without_password(url: &str) -> String {
    match url
        .split_once("://")
        .map(|(scheme, rest)| (scheme, rest, rest.split_once('@')))
    {
        Some((scheme, _, Some((user, host)))) if !user.contains('/') => {
            format!("{scheme}://{host}")
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests;
