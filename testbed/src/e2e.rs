//! The frame of an end-to-end test: private namespaces around it, the speakers' logs if it fails.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::sandbox;
use crate::scenario::Scenario;

/// Runs a test in a lab of its own. Nothing of it is left when the test's process ends.
///
/// # Errors
///
/// What the test returns. The logs are printed then, and after a panic.
pub fn in_lab(test: impl FnOnce(&mut Scenario) -> anyhow::Result<()>) -> anyhow::Result<()> {
    sandbox::enter()?;
    let mut scenario = Scenario::build()?;
    // Nothing is used after a panic but the logs.
    let result = catch_unwind(AssertUnwindSafe(|| test(&mut scenario)));
    if !matches!(result, Ok(Ok(()))) {
        eprintln!("{}", scenario.logs());
    }
    result.unwrap_or_else(|panic| resume_unwind(panic))
}
