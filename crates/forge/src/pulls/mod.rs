//! Tasks from the history of a repository: pull requests that resolve issues
//! (SWE-bench's rules), or commits alone.
//!
//! [`read_pulls`] and [`IssueIndex`] read dumps of GitHub's API,
//! [`candidate`] and [`candidate_of_commit`] judge one change each,
//! [`version_of`] tells the version of the codebase it was made against.
//! Nothing here runs a process or asks the network. See docs/design/mining.md.

mod commit;
mod diff;
mod dump;
mod issues;
mod references;
mod rules;
mod version;

pub use commit::{Commit, candidate_of_commit};
pub use diff::{FileDiff, Side, SplitRule, side_of, split_diff};
pub use dump::{Comment, DumpError, Issue, Pull, PullCommit, read_pulls};
pub use issues::IssueIndex;
pub use references::resolved_issues;
pub use rules::{Candidate, Mined, Reason, candidate};
pub use version::{short_version, version_of};
