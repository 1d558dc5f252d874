//! lock_safety.
