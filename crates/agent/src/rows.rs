//! Training rows.
