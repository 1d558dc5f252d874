//! restore.
