//! kill_phases.
