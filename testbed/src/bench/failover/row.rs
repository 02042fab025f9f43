//! What comes of several runs, what was aimed at, and the table (pure).

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::event::{Event, Profile};
use super::measure::Sample;
use super::product::Name;

/// One event of one product with one beat. The field names are fixed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub product: Name,
    pub event: Event,
    pub profile: Profile,
    pub vips: u16,
    pub runs: usize,
    pub outage_ms: Spread,
    pub lost_probes_max: usize,
    pub unanswered_arp_ms: Spread,
    pub double_answers: usize,
    pub arp_requests: usize,
    pub out_of_turn: usize,
    /// None for the rival.
    pub aims: Vec<Aim>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub max: f64,
}

/// What was aimed at, and whether it was met.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Aim {
    pub what: String,
    pub met: bool,
}

impl Row {
    /// What comes of the runs.
    pub fn of(
        product: Name,
        event: Event,
        profile: Profile,
        vips: u16,
        samples: &[Sample],
    ) -> Self {
        let spread = |of: fn(&Sample) -> Duration| Spread::of(samples.iter().map(of));
        let mut row = Self {
            product,
            event,
            profile,
            vips,
            runs: samples.len(),
            outage_ms: spread(|sample| sample.outage),
            lost_probes_max: samples.iter().map(|sample| sample.lost).max().unwrap_or_default(),
            unanswered_arp_ms: spread(|sample| sample.unanswered),
            double_answers: samples.iter().map(|sample| sample.double_answers).sum(),
            arp_requests: samples.iter().map(|sample| sample.requests).sum(),
            out_of_turn: samples.iter().map(|sample| sample.out_of_turn).sum(),
            aims: Vec::new(),
        };
        if product == Name::Herald {
            row.aims = row.aims();
        }
        row
    }

    fn aims(&self) -> Vec<Aim> {
        let mut aims = Vec::new();
        let mut aim = |what: &str, value: f64, most: f64| {
            aims.push(Aim { what: format!("{what} <= {most}"), met: value <= most });
        };
        if self.event == Event::Cut {
            // Many VIPs may take 100 ms more than one.
            let many = if self.vips > 1 { 100.0 } else { 0.0 };
            let (median, max) = match self.profile {
                Profile::Default => (700.0, 1000.0),
                Profile::Fast => (300.0, 500.0),
            };
            aim("outage median", self.outage_ms.median, median + many);
            aim("outage max", self.outage_ms.max, max + many);
        }
        if self.event.spares_traffic() {
            aim("lost", self.lost_probes_max as f64, 0.0);
        }
        aim("double answers", self.double_answers as f64, 0.0);
        aim("out of turn", self.out_of_turn as f64, 0.0);
        let ttl = self.profile.ttl().as_secs_f64() * 1000.0;
        match self.event {
            Event::Kill | Event::Stop => {
                aim("unanswered max", self.unanswered_arp_ms.max, ttl + 100.0);
            }
            // One question of those that come each 5 ms may be missed by a busy asker.
            Event::Restart => aim("unanswered max", self.unanswered_arp_ms.max, 5.0),
            _ => {}
        }
        aims
    }
}

/// The aim that needs the rival's row: a cut with the fast beat is over no later than there.
pub fn compare(rows: &mut [Row]) {
    let rival = rows.iter().find(|row| {
        row.product == Name::Keepalived && row.event == Event::Cut && row.profile == Profile::Fast
    });
    let Some(most) = rival.map(|row| row.outage_ms.median) else { return };
    for row in rows.iter_mut().filter(|row| {
        row.product == Name::Herald && row.event == Event::Cut && row.profile == Profile::Fast
    }) {
        let what = format!("outage median <= keepalived's {most}");
        row.aims.push(Aim { what, met: row.outage_ms.median <= most });
    }
}

impl Spread {
    /// Of times, in milliseconds with one digit.
    pub fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut all: Vec<f64> =
            times.map(|time| (time.as_secs_f64() * 10_000.0).round() / 10.0).collect();
        all.sort_by(f64::total_cmp);
        let at = |index: usize| all.get(index).copied().unwrap_or_default();
        let middle = all.len() / 2;
        let median = match all.len() % 2 {
            0 if middle > 0 => (at(middle - 1) + at(middle)) / 2.0,
            _ => at(middle),
        };
        Self { median, max: all.last().copied().unwrap_or_default() }
    }
}

/// The rows for people, with what became of each aim.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:10} {:8} {:11} {:>4} {:>8} {:>8} {:>5} {:>8} {:>8} {:>12} {:>8}  AIMS\n",
        "PRODUCT",
        "PROFILE",
        "EVENT",
        "RUNS",
        "OUTAGE",
        "MAX",
        "LOST",
        "UNANSW.",
        "MAX",
        "DOUBLE",
        "OUT OF T"
    );
    for row in rows {
        let missed: Vec<&str> =
            row.aims.iter().filter(|aim| !aim.met).map(|aim| aim.what.as_str()).collect();
        let verdict = match (row.aims.is_empty(), missed.is_empty()) {
            (true, _) => String::new(),
            (false, true) => "ok".to_owned(),
            (false, false) => format!("MISSED: {}", missed.join("; ")),
        };
        let _ = writeln!(
            text,
            "{:10} {:8} {:11} {:>4} {:>8} {:>8} {:>5} {:>8} {:>8} {:>12} {:>8}  {verdict}",
            row.product.to_string(),
            row.profile.to_string(),
            row.event.to_string(),
            row.runs,
            row.outage_ms.median,
            row.outage_ms.max,
            row.lost_probes_max,
            row.unanswered_arp_ms.median,
            row.unanswered_arp_ms.max,
            format!("{}/{}", row.double_answers, row.arp_requests),
            row.out_of_turn,
        );
    }
    text.push_str(LEGEND);
    text
}

/// What the columns mean, the same for every product.
const LEGEND: &str = "\
OUTAGE: longest time without an answered datagram, ms, median and max of the runs; LOST: datagrams.
UNANSW.: longest time in which a newcomer's ARP questions stayed without answer, ms, median and max.
DOUBLE: of all ARP questions asked for the first VIP, each 5 ms, from the event until the time to
settle after its end is over, those that two MACs answered.
OUT OF T: frames heard at any port of the bridge in that time that claim a VIP for a node after
another node had begun to claim it; the order is the holder, then the first other node, then the last.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(outage: u64, twice: usize) -> Sample {
        let outage = Duration::from_millis(outage);
        Sample {
            outage,
            lost: 3,
            unanswered: outage,
            double_answers: twice,
            requests: 10,
            out_of_turn: 2 * twice,
        }
    }

    #[test]
    fn a_row_sums_up_its_runs_and_judges_them() {
        let samples = [sample(500, 0), sample(1100, 1), sample(600, 0), sample(650, 0)];
        let row = Row::of(Name::Herald, Event::Cut, Profile::Default, 1, &samples);
        assert_eq!(row.outage_ms, Spread { median: 625.0, max: 1100.0 });
        assert_eq!((row.double_answers, row.arp_requests, row.out_of_turn), (1, 40, 2));
        let met: Vec<(&str, bool)> =
            row.aims.iter().map(|aim| (aim.what.as_str(), aim.met)).collect();
        assert_eq!(
            met,
            [
                ("outage median <= 700", true),
                ("outage max <= 1000", false),
                ("double answers <= 0", false),
                ("out of turn <= 0", false)
            ]
        );
        assert!(
            table(&[row])
                .contains("MISSED: outage max <= 1000; double answers <= 0; out of turn <= 0")
        );
    }

    #[test]
    fn the_rival_has_no_aims_but_sets_one() {
        let of =
            |product, outage| Row::of(product, Event::Cut, Profile::Fast, 1, &[sample(outage, 0)]);
        let mut rows = [of(Name::Keepalived, 170), of(Name::Herald, 180)];
        compare(&mut rows);
        assert_eq!(rows[0].aims, []);
        let last = rows[1].aims.last().unwrap();
        assert_eq!((last.what.as_str(), last.met), ("outage median <= keepalived's 170", false));
    }
}
