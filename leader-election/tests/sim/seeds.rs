//! The seeds of a test's runs: `HERALD_SEEDS` sets their number, `HERALD_SEED` the first.

use std::ops::Range;

/// So many unless the environment says otherwise.
pub fn seeds(count: u64) -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|number| number.parse().unwrap());
    let count = number("HERALD_SEEDS").unwrap_or(count);
    let first = number("HERALD_SEED").unwrap_or(0);
    first..first + count
}

/// Runs with each, in two threads.
pub fn each_seed(count: u64, run: impl Fn(u64) + Copy + Send) {
    let threads = 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let mine = seeds(count).filter(move |seed| seed % threads == thread);
            scope.spawn(move || mine.for_each(run));
        }
    });
}
