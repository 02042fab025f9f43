//! One measured value and how it is written down (pure). The field names are fixed.

use serde::Serialize;

/// Whose value it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// The programs of this project.
    Herald,
    /// A program that does nothing but send back.
    XdpTx,
    /// nftables with rules like kube-proxy's.
    Nft,
    /// iptables with rules like kube-proxy's.
    Iptables,
}

impl Program {
    /// As in the JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Herald => "herald",
            Self::XdpTx => "xdp_tx",
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub case: String,
    /// Of what.
    pub program: Program,
    /// Nanoseconds a packet, the median: net of the harness for programs run on packets of their
    /// own, all there is on the way for live ones. None where a packet is not the unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_per_packet: Option<f64>,
    /// The median in `unit`.
    pub value: f64,
    /// The least sample, in `unit`.
    pub min: f64,
    /// The greatest sample.
    pub max: f64,
    /// Of what `value`, `min` and `max` are numbers.
    pub unit: &'static str,
    /// With the harness on both sides: this program's cost to XDP_TX's, turn by turn, so that a
    /// machine that grows slower from one case to the next does not show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_xdp_tx: Option<f64>,
    /// The share of sent packets that did not arrive, of live ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<f64>,
    /// How many samples.
    pub samples: usize,
}

/// Nanoseconds.
pub const NS: &str = "ns";
/// Packets in a second.
pub const PER_SECOND: &str = "1/s";
/// Milliseconds.
pub const MS: &str = "ms";
/// Millions of octets.
pub const MB: &str = "MB";
/// Entries of maps.
pub const ENTRIES: &str = "entries";

impl Row {
    /// A row of samples, of which there is at least one.
    pub fn of(case: &str, program: Program, unit: &'static str, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |index: usize| samples.get(index).copied().unwrap_or(f64::NAN);
        let value = at(samples.len() / 2);
        Self {
            case: case.to_owned(),
            program,
            ns_per_packet: match unit {
                NS => Some(value),
                PER_SECOND => Some(1e9 / value),
                _ => None,
            },
            value,
            min: at(0),
            max: at(samples.len().saturating_sub(1)),
            unit,
            ratio_to_xdp_tx: (program == Program::XdpTx).then_some(1.0),
            lost: None,
            samples: samples.len(),
        }
    }
}

/// The middle one of some values, of which there is at least one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// All rows, as people read them.
pub fn table(rows: &[Row]) -> String {
    rows.iter().map(|row| line(row) + "\n").collect()
}

/// One row of it.
pub fn line(row: &Row) -> String {
    let ratio = row.ratio_to_xdp_tx.map_or(String::new(), |ratio| format!("  {ratio:.2} x XDP_TX"));
    let lost = row.lost.map_or(String::new(), |lost| format!("  {:.1} % lost", lost * 100.0));
    format!(
        "{:<34} {:<8} {:>12} {:<4} {:>12} ..{:>12}{ratio}{lost}",
        row.case,
        row.program.label(),
        number(row.value),
        row.unit,
        number(row.min),
        number(row.max),
    )
}

/// Three digits that mean something.
pub fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_middle_and_both_ends_of_its_samples() {
        let row = Row::of("holder", Program::Herald, NS, vec![30.0, 10.0, 20.0]);
        assert_eq!((row.value, row.min, row.max), (20.0, 10.0, 30.0));
        assert_eq!((row.ns_per_packet, row.samples), (Some(20.0), 3));
        let rate = Row::of("live", Program::Nft, PER_SECOND, vec![1e6]);
        assert_eq!(rate.ns_per_packet, Some(1000.0));
        assert_eq!(Row::of("load", Program::Herald, MS, vec![1.0]).ns_per_packet, None);
    }

    #[test]
    fn json_has_the_promised_fields() {
        let row = Row::of("holder_novip", Program::XdpTx, NS, vec![1.5]);
        let json = serde_json::to_value(&row).unwrap();
        for field in ["case", "program", "ns_per_packet", "min", "max"] {
            assert!(json.get(field).is_some(), "{field} in {json}");
        }
        assert_eq!((&json["program"], &json["ratio_to_xdp_tx"]), (&"xdp_tx".into(), &1.0.into()));
    }
}
