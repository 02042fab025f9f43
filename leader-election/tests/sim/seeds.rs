//! The seeds of a test's runs: `HERALD_SEEDS` sets their number, `HERALD_SEED` the first.

use std::ops::Range;

/// These, unless the environment says otherwise.
pub fn seeds(own: Range<u64>) -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|number| number.parse().unwrap());
    let count = number("HERALD_SEEDS").unwrap_or(own.end - own.start);
    let first = number("HERALD_SEED").unwrap_or(own.start);
    first..first + count
}

/// Runs with each, in two threads.
pub fn each_seed(own: Range<u64>, run: impl Fn(u64) + Copy + Send) {
    let threads = 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let mine = seeds(own.clone()).filter(move |seed| seed % threads == thread);
            scope.spawn(move || {
                for seed in mine {
                    let _told = TellsSeed(seed);
                    run(seed);
                }
            });
        }
    });
}

/// Says which run it was, whoever panics in it: a core does not know its seed.
pub struct TellsSeed(pub u64);

impl Drop for TellsSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("this was seed {seed}: again with HERALD_SEED={seed} HERALD_SEEDS=1");
        }
    }
}
