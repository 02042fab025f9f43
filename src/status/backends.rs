//! The backends of a VIP in one cell of the table (pure).

use std::collections::BTreeSet;

use super::list;

/// How many of how many backends are used, and how they are weighed if not alike.
pub(super) fn used(backends: &serde_json::Value) -> String {
    let used = || list(backends).filter(|backend| backend["used"] == true);
    let weights: BTreeSet<u64> = used().filter_map(|it| it["weight"].as_u64()).collect();
    let weighed = match (weights.first(), weights.last()) {
        (Some(least), Some(most)) if least != most => format!(" (weights {least}-{most})"),
        _ => String::new(),
    };
    format!("{}/{}{weighed}", used().count(), list(backends).count())
}

#[cfg(test)]
mod tests {
    use super::used;

    #[test]
    fn shows_how_backends_are_weighed_unless_they_weigh_the_same() {
        let backends = |weights: &[(u32, bool)]| {
            let backend =
                |(weight, used): &(u32, bool)| serde_json::json!({"weight": weight, "used": used});
            serde_json::Value::Array(weights.iter().map(backend).collect())
        };
        assert_eq!(used(&backends(&[(1, true), (1, true)])), "2/2");
        assert_eq!(used(&backends(&[(3, true), (1, true), (0, false)])), "2/3 (weights 1-3)");
        assert_eq!(used(&backends(&[(3, true), (0, false)])), "1/2");
    }
}
