//! What was aimed at, beside what was measured (pure).

use super::rows::{Program, Row, number};

/// One aim and whether it was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What it is about.
    pub what: &'static str,
    /// What was measured, with its unit.
    pub measured: String,
    /// What was aimed at.
    pub aim: String,
    /// Whether it was met.
    pub is_met: bool,
}

/// An aim.
enum Aim {
    /// `case`'s value for Herald, at most this.
    Most(&'static str, f64, &'static str),
    /// Herald's value over the rival's in the same case, at least this.
    Times(&'static str, Program, f64),
    /// The greatest of some of Herald's values over the least, at most this.
    Flat(&'static [&'static str], f64),
    /// The same of what Herald costs next to XDP_TX in the same turns: the cases are minutes apart,
    /// and the machine is not the same to both.
    FlatToXdpTx(&'static [&'static str], f64),
    /// Herald's value in the first case over that in the second, at most this.
    Over(&'static str, &'static str, f64),
}

use Aim::{Flat, FlatToXdpTx, Most, Over, Times};

const AIMS: &[(&str, Aim)] = &[
    ("holder, TCP over IPv4, 4k flows", Most("holder_tcp4_hit_4k", 55.0, "ns")),
    ("holder, TCP over IPv4, 64k flows", Most("holder_tcp4_hit_64k", 55.0, "ns")),
    ("holder, TCP over IPv4, 512k flows", Most("holder_tcp4_hit_512k", 55.0, "ns")),
    (
        "holder, flat from 4k to 512k flows",
        Flat(&["holder_tcp4_hit_4k", "holder_tcp4_hit_64k", "holder_tcp4_hit_512k"], 1.2),
    ),
    ("holder, TCP over IPv6, 64k flows", Most("holder_tcp6_hit_64k", 65.0, "ns")),
    ("holder, 5 % dirty slots, 64k flows", Most("holder_tcp4_dirty5_64k", 60.0, "ns")),
    ("a packet for no VIP", Most("holder_novip", 30.0, "ns")),
    ("under a SYN flood of 1M sources", Over("holder_syn_1m", "holder_syn_1m_quiet", 1.05)),
    ("what the flood leaves in the maps", Most("holder_syn_1m_entries", 0.0, "entries")),
    ("pod's node, DNAT, 64k flows", Most("node_dnat_tcp4_64k", 250.0, "ns")),
    ("pod's node, reply, 64k flows", Most("egress_restore_tcp4_64k", 250.0, "ns")),
    ("live, holder, to nft", Times("live_holder", Program::Nft, 4.5)),
    ("live, both hops, to nft", Times("live_both_hops", Program::Nft, 2.0)),
    ("live, new flows, 1k services, to nft", Times("live_new_flows_1k", Program::Nft, 5.0)),
    (
        "live, new flows, 1k services, to iptables",
        Times("live_new_flows_1k", Program::Iptables, 15.0),
    ),
    (
        "live, flat from 1 to 10k svc, to XDP_TX",
        FlatToXdpTx(&["live_new_flows_1", "live_new_flows_1k", "live_new_flows_10k"], 1.05),
    ),
    ("TCP connections, 1 service, to nft", Times("live_tcp_connections", Program::Nft, 1.15)),
    ("endpoint change, apply only, p99, 1k svc", Most("endpoint_change_p99_1k", 5.0, "ms")),
    ("endpoint change, apply only, p99, 10k svc", Most("endpoint_change_p99_10k", 10.0, "ms")),
    ("endpoint change, decided, p99, 1k svc", Most("endpoint_change_decided_p99_1k", 5.0, "ms")),
    ("endpoint change, decided, p99, 10k svc", Most("endpoint_change_decided_p99_10k", 10.0, "ms")),
    ("cold load, apply only, 10k svc, 3 endp.", Most("cold_load_10k", 1000.0, "ms")),
    ("map memory, 100 services", Most("map_memory_100", 40.0, "MB")),
    ("map memory, 10k services", Most("map_memory_10k", 400.0, "MB")),
];

/// Every aim for which there are rows.
pub fn judge(rows: &[Row]) -> Vec<Judged> {
    let row = |case: &str, program: Program| {
        rows.iter().find(|row| row.case == case && row.program == program)
    };
    let value = |case: &str, program: Program| row(case, program).map(|row| row.value);
    let own = |case: &str| value(case, Program::Herald);
    let ratio = |case: &str| row(case, Program::Herald)?.ratio_to_xdp_tx;
    let at_most = |value: f64, bound: f64| (number(value), format!("<= {bound}"), value <= bound);
    let one = |(what, aim): &(&'static str, Aim)| {
        let (measured, aim, is_met) = match aim {
            Most(case, bound, unit) => {
                let (measured, aim, is_met) = at_most(own(case)?, *bound);
                (format!("{measured} {unit}"), format!("{aim} {unit}"), is_met)
            }
            Times(case, rival, bound) => {
                let times = own(case)? / value(case, *rival)?;
                (format!("{} x", number(times)), format!(">= {bound} x"), times >= *bound)
            }
            Flat(cases, bound) => at_most(spread(cases, own)?, *bound),
            FlatToXdpTx(cases, bound) => at_most(spread(cases, ratio)?, *bound),
            Over(case, of, bound) => at_most(own(case)? / own(of)?, *bound),
        };
        Some(Judged { what, measured, aim, is_met })
    };
    AIMS.iter().filter_map(one).collect()
}

/// The greatest value over the least, if every case has one.
fn spread(cases: &[&str], value: impl Fn(&str) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = cases.iter().map(|case| value(case)).collect::<Option<_>>()?;
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    Some(most / least)
}

/// The aims, as people read them.
pub fn table(judged: &[Judged]) -> String {
    let line = |aim: &Judged| {
        let verdict = if aim.is_met { "ok" } else { "missed" };
        format!("{:<42} {:>12}  aim {:<12} {verdict}\n", aim.what, aim.measured, aim.aim)
    };
    judged.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::datapath::rows::{NS, PER_SECOND};

    fn judged(rows: &[Row]) -> Vec<(&'static str, bool)> {
        judge(rows).iter().map(|aim| (aim.what, aim.is_met)).collect()
    }

    #[test]
    fn an_aim_is_judged_by_the_median() {
        let row = |ns| Row::of("holder_novip", Program::Herald, NS, vec![1.0, ns, 99.0]);
        assert_eq!(judged(&[row(30.0)]), [("a packet for no VIP", true)]);
        assert_eq!(judged(&[row(30.1)]), [("a packet for no VIP", false)]);
    }

    #[test]
    fn a_rival_is_judged_in_the_same_case_only() {
        let row = |case, program, rate| Row::of(case, program, PER_SECOND, vec![rate]);
        let own = row("live_holder", Program::Herald, 9.0);
        assert_eq!(judged(&[own.clone(), row("live_both_hops", Program::Nft, 2.0)]), []);
        let rival = |rate| row("live_holder", Program::Nft, rate);
        assert_eq!(judged(&[own.clone(), rival(2.0)]), [("live, holder, to nft", true)]);
        assert_eq!(judged(&[own, rival(2.1)]), [("live, holder, to nft", false)]);
    }

    #[test]
    fn flatness_needs_all_of_its_cases() {
        let row = |case, ns| Row::of(case, Program::Herald, NS, vec![ns]);
        let names = ["holder_tcp4_hit_4k", "holder_tcp4_hit_64k", "holder_tcp4_hit_512k"];
        let rows: Vec<Row> =
            names.into_iter().zip([40.0, 45.0, 49.0]).map(|(c, n)| row(c, n)).collect();
        assert_eq!(judged(&rows)[3], ("holder, flat from 4k to 512k flows", false));
        assert_eq!(judged(&rows[..2]).len(), 2);
    }

    #[test]
    fn a_machine_that_grows_slower_from_case_to_case_is_not_heralds_doing() {
        let row = |(case, rate, ratio)| {
            let ratio_to_xdp_tx = Some(ratio);
            Row { ratio_to_xdp_tx, ..Row::of(case, Program::Herald, PER_SECOND, vec![rate]) }
        };
        let flat = |last: f64| {
            let names = ["live_new_flows_1", "live_new_flows_1k", "live_new_flows_10k"];
            let of = names.into_iter().zip([9e6, 6e6, 3e6]).zip([1.3, 1.3, last]);
            judged(&of.map(|((name, rate), ratio)| row((name, rate, ratio))).collect::<Vec<_>>())
        };
        assert_eq!(flat(1.31), [("live, flat from 1 to 10k svc, to XDP_TX", true)]);
        assert_eq!(flat(1.39), [("live, flat from 1 to 10k svc, to XDP_TX", false)]);
    }
}
