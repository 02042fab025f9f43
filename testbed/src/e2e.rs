//! The frame of an end-to-end test: private namespaces around it, the speakers' logs if it fails.

use crate::sandbox;
use crate::scenario::Scenario;

/// Runs a test in a lab of its own. Nothing of it is left when the test's process ends.
///
/// # Errors
///
/// What the test returns, after the logs were printed.
pub fn in_lab(test: impl FnOnce(&mut Scenario) -> anyhow::Result<()>) -> anyhow::Result<()> {
    sandbox::enter()?;
    let mut scenario = Scenario::build()?;
    let result = test(&mut scenario);
    if result.is_err() {
        eprintln!("{}", scenario.logs());
    }
    result
}
