//! failures.
