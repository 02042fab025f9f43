//! What comes of several runs, what was aimed at, and the table (pure).

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::event::{Event, Profile};
use super::measure::Sample;
use super::plan::Part;
use super::product::Name;
use crate::bench::report;

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
    /// Of the runs in which other nodes claimed all VIPs; none if there is no such run.
    pub all_claimed_ms: Option<Spread>,
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
    pub value: f64,
    pub at_most: f64,
    pub met: bool,
}

impl Row {
    /// What comes of the runs.
    pub fn of(part: &Part, samples: &[Sample]) -> Self {
        let Part { product, event, profile, vips } = *part;
        let spread = |of: fn(&Sample) -> Duration| Spread::of(samples.iter().map(of));
        let claimed: Vec<Duration> = samples.iter().filter_map(|sample| sample.claimed).collect();
        let mut row = Self {
            product,
            event,
            profile,
            vips,
            runs: samples.len(),
            outage_ms: spread(|sample| sample.outage),
            lost_probes_max: samples.iter().map(|sample| sample.lost).max().unwrap_or_default(),
            unanswered_arp_ms: spread(|sample| sample.unanswered),
            all_claimed_ms: (!claimed.is_empty()).then(|| Spread::of(claimed.into_iter())),
            double_answers: samples.iter().map(|sample| sample.double_answers).sum(),
            arp_requests: samples.iter().map(|sample| sample.requests).sum(),
            out_of_turn: samples.iter().map(|sample| sample.out_of_turn).sum(),
            aims: Vec::new(),
        };
        if product.is_ours() {
            row.aims = row.aims();
        }
        row
    }

    fn aims(&self) -> Vec<Aim> {
        let ttl = milliseconds(self.product.ttl(self.profile));
        let mut aims = Vec::new();
        let mut aim = |what, value, most| aims.push(Aim::of(what, value, most));
        if self.event == Event::Cut {
            // Many VIPs may take 100 ms more than one; Leases have a bound for any number.
            let many = if self.vips > 1 { MORE_FOR_MANY } else { 0.0 };
            let (median, max) = match (self.product, self.profile) {
                (Name::HeraldLease, _) => (ttl + 1000.0, ttl + 1000.0),
                (_, Profile::Default) => (700.0 + many, 1000.0 + many),
                (_, Profile::Fast) => (300.0 + many, 500.0 + many),
            };
            aim("outage median, ms", self.outage_ms.median, median);
            aim("outage max, ms", self.outage_ms.max, max);
            // The bound is for every VIP, not only for the one that is probed.
            if self.product == Name::HeraldLease
                && self.vips > 1
                && let Some(claimed) = self.all_claimed_ms
            {
                aim("all VIPs claimed, max, ms", claimed.max, max);
            }
        }
        if self.event.spares_traffic() {
            aim("lost probes", self.lost_probes_max as f64, 0.0);
        }
        aim("double answers", self.double_answers as f64, 0.0);
        aim("frames out of turn", self.out_of_turn as f64, 0.0);
        match self.event {
            Event::Kill | Event::Stop => {
                aim("unanswered max, ms", self.unanswered_arp_ms.max, ttl + 100.0);
            }
            Event::Restart => aim("unanswered max, ms", self.unanswered_arp_ms.max, 0.0),
            _ => {}
        }
        aims
    }

    /// As the lines of the aims begin.
    fn name(&self) -> String {
        let Self { product, profile, event, vips, .. } = self;
        let many = if *vips > 1 { format!(", {vips} VIPs") } else { String::new() };
        format!("{product} {profile} {event}{many}")
    }

    fn is_cut_of(&self, product: Name, profile: Profile) -> bool {
        (self.event, self.product, self.profile) == (Event::Cut, product, profile)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "median {} ms, {} ms without an answer",
            self.outage_ms.median, self.unanswered_arp_ms.median
        )?;
        if let Some(claimed) = self.all_claimed_ms {
            write!(f, ", all claimed after {} ms", claimed.median)?;
        }
        write!(
            f,
            "; {} of {} questions answered twice, {} frames out of turn",
            self.double_answers, self.arp_requests, self.out_of_turn
        )
    }
}

impl Aim {
    /// Judges a value.
    pub fn of(what: impl Into<String>, value: f64, at_most: f64) -> Self {
        Self { what: what.into(), value, at_most, met: value <= at_most }
    }

    /// For the table.
    pub fn line(&self, of: &str) -> report::Row {
        report::Row::aimed(format!("{of}: {}", self.what), self.value, self.at_most)
    }
}

/// The aims that need another row of the same run of the benchmark: a cut with the fast beat is
/// over no later than the rival's, and many VIPs take little longer than one.
pub fn compare(rows: &mut [Row]) {
    let all = rows.to_vec();
    let cut = |product, profile, vips| {
        all.iter().find(|row| row.is_cut_of(product, profile) && row.vips == vips)
    };
    for row in rows.iter_mut().filter(|row| row.is_cut_of(Name::Herald, row.profile)) {
        let mut aim = |what, value, most| row.aims.push(Aim::of(what, value, most));
        let outage = row.outage_ms;
        if row.profile == Profile::Fast
            && let Some(rival) = cut(Name::Keepalived, row.profile, row.vips)
        {
            aim("outage median against keepalived's, ms", outage.median, rival.outage_ms.median);
            aim("outage max against keepalived's, ms", outage.max, rival.outage_ms.max);
        }
        if row.vips > 1
            && let Some(one) = cut(Name::Herald, row.profile, 1)
        {
            let most = one.outage_ms.median + MORE_FOR_MANY;
            aim("outage median against one VIP's + 100, ms", outage.median, most);
            if let (Some(of_many), Some(of_one)) = (row.all_claimed_ms, one.all_claimed_ms) {
                let most = of_one.median + MORE_FOR_MANY;
                aim("all VIPs claimed, median against one VIP's + 100, ms", of_many.median, most);
            }
        }
    }
}

/// Milliseconds that a cut may take longer with many VIPs than with one.
const MORE_FOR_MANY: f64 = 100.0;

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
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
        // Half of a sum may have more digits than it shows.
        let median = (median * 100.0).round() / 100.0;
        Self { median, max: all.last().copied().unwrap_or_default() }
    }
}

/// The rows for people, and below what became of each aim.
pub fn table(rows: &[Row]) -> String {
    let mut text = line(&HEAD.map(str::to_owned));
    for row in rows {
        let met = row.aims.iter().filter(|aim| aim.met).count();
        let verdict = match row.aims.len() {
            0 => String::new(),
            all if all == met => "ok".to_owned(),
            all => format!("{} of {all} MISSED", all - met),
        };
        let claimed = |of: fn(Spread) -> f64| {
            row.all_claimed_ms.map_or("-".to_owned(), |spread| of(spread).to_string())
        };
        text += &line(&[
            row.product.to_string(),
            row.profile.to_string(),
            row.event.to_string(),
            row.vips.to_string(),
            row.runs.to_string(),
            row.outage_ms.median.to_string(),
            row.outage_ms.max.to_string(),
            row.lost_probes_max.to_string(),
            row.unanswered_arp_ms.median.to_string(),
            row.unanswered_arp_ms.max.to_string(),
            claimed(|spread| spread.median),
            claimed(|spread| spread.max),
            format!("{}/{}", row.double_answers, row.arp_requests),
            row.out_of_turn.to_string(),
            verdict,
        ]);
    }
    text.push_str(LEGEND);
    let aims = rows.iter().flat_map(|row| row.aims.iter().map(|aim| aim.line(&row.name())));
    let aims: Vec<report::Row> = aims.collect();
    if !aims.is_empty() {
        let _ = write!(text, "\nAIMS\n{}", report::table(&aims));
    }
    text
}

const HEAD: [&str; 15] = [
    "PRODUCT", "PROFILE", "EVENT", "VIPS", "RUNS", "OUTAGE", "MAX", "LOST", "UNANSW.", "MAX",
    "CLAIMED", "MAX", "DOUBLE", "OUT OF T", "AIMS",
];

fn line(cells: &[String; 15]) -> String {
    let [product, profile, event, numbers @ .., verdict] = cells;
    let mut text = format!("{product:12} {profile:8} {event:11}");
    for (number, width) in numbers.iter().zip([4, 4, 8, 8, 5, 8, 8, 8, 8, 12, 8]) {
        let _ = write!(text, " {number:>width$}");
    }
    format!("{text}  {verdict}").trim_end().to_owned() + "\n"
}

/// What the columns mean, the same for every product.
const LEGEND: &str = "\
OUTAGE: longest time without an answered datagram, ms, median and max of the runs; LOST: datagrams.
UNANSW.: longest time in which a newcomer's ARP questions stayed without answer, ms, median and max.
CLAIMED: time from the event until other nodes had claimed all VIPs, ms, median and max; - if they
did not, because the VIPs stayed.
DOUBLE: of all ARP questions asked for the first VIP, each 5 ms, from the first event until the time
to settle after the last one's end is over, those that two MACs answered.
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
            claimed: Some(outage),
            double_answers: twice,
            requests: 10,
            out_of_turn: 2 * twice,
        }
    }

    fn cut(product: Name, profile: Profile, vips: u16, outage: u64) -> Row {
        let part = Part { product, event: Event::Cut, profile, vips };
        Row::of(&part, &[sample(outage, 0)])
    }

    fn judged(row: &Row) -> Vec<(&str, f64, bool)> {
        row.aims.iter().map(|aim| (aim.what.as_str(), aim.at_most, aim.met)).collect()
    }

    #[test]
    fn a_row_sums_up_its_runs_and_judges_them() {
        let samples = [sample(500, 0), sample(1100, 1), sample(600, 0), sample(650, 0)];
        let (product, event, profile) = (Name::Herald, Event::Cut, Profile::Default);
        let row = Row::of(&Part { product, event, profile, vips: 1 }, &samples);
        assert_eq!(row.outage_ms, Spread { median: 625.0, max: 1100.0 });
        assert_eq!((row.double_answers, row.arp_requests, row.out_of_turn), (1, 40, 2));
        assert_eq!(
            judged(&row),
            [
                ("outage median, ms", 700.0, true),
                ("outage max, ms", 1000.0, false),
                ("double answers", 0.0, false),
                ("frames out of turn", 0.0, false)
            ]
        );
        let table = table(&[row]);
        assert!(table.contains(" 1/40        2  3 of 4 MISSED\n"), "{table}");
        assert!(
            table.contains("outage max, ms         1100.00  MISSED, at most 1000\n"),
            "{table}"
        );
        assert!(table.contains("outage median, ms       625.00  ok, at most 700\n"), "{table}");
    }

    #[test]
    fn leases_have_a_second_more_than_their_ttl() {
        let rows = [5900, 6001].map(|it| cut(Name::HeraldLease, Profile::Default, 1, it));
        let most = 6000.0;
        assert_eq!(judged(&rows[0])[1], ("outage max, ms", most, true));
        assert_eq!(judged(&rows[1])[..2].iter().filter(|aim| !aim.2).count(), 2);
    }

    #[test]
    fn the_rival_has_no_aims_but_sets_some() {
        let of = |product, outage| cut(product, Profile::Fast, 1, outage);
        let mut rows = [of(Name::Keepalived, 170), of(Name::Herald, 180)];
        compare(&mut rows);
        assert_eq!(rows[0].aims, []);
        assert_eq!(
            judged(&rows[1])[4..],
            [
                ("outage median against keepalived's, ms", 170.0, false),
                ("outage max against keepalived's, ms", 170.0, false)
            ]
        );
    }

    #[test]
    fn many_vips_are_judged_by_one() {
        let of = |vips, outage| cut(Name::Herald, Profile::Default, vips, outage);
        let mut rows = [of(1, 500), of(100, 601)];
        compare(&mut rows);
        assert_eq!(judged(&rows[0]).len(), 4);
        assert_eq!(
            judged(&rows[1])[4..],
            [
                ("outage median against one VIP's + 100, ms", 600.0, false),
                ("all VIPs claimed, median against one VIP's + 100, ms", 600.0, false)
            ]
        );
    }
}
