//! The command line: arguments, progress, tables, JSON. The only place that prints.

/// Runs the program.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
