//! Sandboxes: native namespaces and podman/docker.

#[cfg(all(feature = "bench", target_os = "linux"))]
pub mod bench;
mod capture;
#[cfg(all(feature = "conformance", target_os = "linux"))]
pub mod conformance;
#[cfg(unix)]
mod container;
#[cfg(target_os = "linux")]
mod native;

#[cfg(unix)]
pub use container::{ContainerBackend, Unsupported};
#[cfg(target_os = "linux")]
pub use native::{Check, NativeBackend, NativeBuilder, Probe, child_main, probe};

mod host_base;
#[cfg(unix)]
mod shell;

pub use host_base::{HostBase, host_base};
