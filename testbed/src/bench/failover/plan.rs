//! What is measured in which order, and how long it will take (pure).

use std::fmt;
use std::time::Duration;

use super::What;
use super::event::{Event, Profile};
use super::measure::{BEFORE, REST};
use super::product::Name;

/// A row to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub product: Name,
    pub event: Event,
    pub profile: Profile,
    pub vips: u16,
}

/// What is measured without a restart of anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Rows of one product, with the same beat and number of VIPs.
    Rows { product: Name, profile: Profile, vips: u16, events: Vec<Event> },
    /// The new Service and the idle speaker.
    Steady,
}

/// How many VIPs a cut is measured with besides one, where no number is asked for.
pub const MANY: u16 = 100;

/// keepalived first: Herald's programs stay in the kernel when its speakers have gone. Leases last:
/// nothing else shares the machine with a control plane.
pub fn stages(what: &What) -> Vec<Stage> {
    let mut stages = Vec::new();
    for product in Name::ALL.into_iter().filter(|product| what.products.contains(product)) {
        for profile in what.profiles.iter().copied().filter(|profile| product.beats(*profile)) {
            let has = |event: &Event| product.has(*event);
            let events: Vec<Event> = what.events.iter().copied().filter(has).collect();
            let is_cut = events.contains(&Event::Cut);
            stages.push(Stage::Rows { product, profile, vips: what.vips.unwrap_or(1), events });
            if what.vips.is_none() && is_cut {
                let events = vec![Event::Cut];
                stages.push(Stage::Rows { product, profile, vips: MANY, events });
            }
        }
        if product == Name::Herald && !what.no_steady {
            stages.push(Stage::Steady);
        }
    }
    stages
}

impl Stage {
    /// The rows.
    pub fn parts(&self) -> Vec<Part> {
        let Self::Rows { product, profile, vips, events } = self else { return Vec::new() };
        let (product, profile, vips) = (*product, *profile, *vips);
        events.iter().map(|event| Part { product, event: *event, profile, vips }).collect()
    }

    /// How long the stage takes besides its rows.
    pub fn overhead(&self, runs: u16) -> Duration {
        Duration::from_secs(match self {
            Self::Steady => 90 + 5 * u64::from(runs),
            // Kubernetes is started.
            Self::Rows { product: Name::HeraldLease, vips: ..MANY, .. } => 100,
            Self::Rows { .. } => 15,
        })
    }

    /// How long the stage takes.
    pub fn planned(&self, runs: u16, settle: Duration) -> Duration {
        let rows: Duration = self.parts().iter().map(|part| part.planned(runs, settle)).sum();
        rows + self.overhead(runs)
    }
}

impl Part {
    /// How long so many runs take.
    pub fn planned(&self, runs: u16, settle: Duration) -> Duration {
        let lasts = match self.event {
            Event::Return => 2 * self.product.lasts(),
            _ => self.product.lasts(),
        };
        let run = READY + BEFORE + lasts;
        let between = match self.product.recovers_from(self.event) {
            true => REST.min(settle),
            false => settle,
        };
        run * u32::from(runs) + between * u32::from(runs.saturating_sub(1)) + settle
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { product, event, profile, vips } = self;
        let plural = if *vips == 1 { "" } else { "s" };
        write!(f, "{product} {profile} {event}, {vips} VIP{plural}")
    }
}

/// What is left, at the speed so far.
pub fn left(planned: Duration, planned_of_done: Duration, took: Duration) -> Duration {
    let left = planned.saturating_sub(planned_of_done);
    match planned_of_done.is_zero() {
        true => left,
        false => left.mul_f64(took.as_secs_f64() / planned_of_done.as_secs_f64()),
    }
}

/// Until all is as it should be before a run, and for the last answers.
const READY: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    fn what(products: &[Name], profiles: &[Profile], events: &[Event], vips: Option<u16>) -> What {
        What {
            runs: 5,
            vips,
            events: events.into(),
            products: products.into(),
            profiles: profiles.into(),
            settle: 30,
            no_steady: false,
            kubernetes: None,
            manifests: None,
        }
    }

    fn told(what: &What) -> Vec<String> {
        let of = |stage: &Stage| match stage {
            Stage::Steady => vec!["steady".to_owned()],
            Stage::Rows { .. } => stage.parts().iter().map(Part::to_string).collect(),
        };
        stages(what).iter().flat_map(of).collect()
    }

    #[test]
    fn a_cut_is_measured_with_one_and_with_many_vips() {
        let events = [Event::Move, Event::Cut];
        let products = [Name::HeraldLease, Name::Herald, Name::Keepalived];
        assert_eq!(
            told(&what(&products, &[Profile::Default], &events, None)),
            [
                "keepalived default cut, 1 VIP",
                "keepalived default cut, 100 VIPs",
                "herald default move, 1 VIP",
                "herald default cut, 1 VIP",
                "herald default cut, 100 VIPs",
                "steady",
                "herald-lease default move, 1 VIP",
                "herald-lease default cut, 1 VIP",
                "herald-lease default cut, 100 VIPs",
            ]
        );
    }

    #[test]
    fn a_number_of_vips_is_the_only_one() {
        let events = [Event::Cut, Event::Kill];
        let what = what(&[Name::HeraldLease], &Profile::ALL, &events, Some(7));
        assert_eq!(
            told(&what),
            ["herald-lease default cut, 7 VIPs", "herald-lease default kill, 7 VIPs"]
        );
    }

    /// What `--help` says.
    #[test]
    fn everything_takes_about_as_long_as_promised() {
        let minutes = |products: &[Name]| {
            let what = what(products, &Profile::ALL, &Event::ALL, None);
            let settle = Duration::from_secs(what.settle.into());
            let all: Duration =
                stages(&what).iter().map(|stage| stage.planned(what.runs, settle)).sum();
            all.as_secs() / 60
        };
        assert!((75..=85).contains(&minutes(&Name::ALL)));
        assert!((28..=32).contains(&minutes(&[Name::Herald])));
        let seconds = |product| {
            let part = Part { product, event: Event::Cut, profile: Profile::Default, vips: 1 };
            let [one, two] = [1, 2].map(|runs| part.planned(runs, Duration::from_secs(30)));
            (two - one).as_secs()
        };
        assert_eq!([Name::Herald, Name::HeraldLease].map(seconds), [9, 14]);
    }

    #[test]
    fn what_is_left_goes_by_the_speed_so_far() {
        let [all, done, took] = [100, 25, 50].map(Duration::from_secs);
        assert_eq!(left(all, Duration::ZERO, Duration::ZERO), all);
        assert_eq!(left(all, done, took), Duration::from_secs(150));
    }
}
