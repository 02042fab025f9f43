//! Every "no" of a report that the election says: who is silent, and who takes nothing.

use serde_json::Value;

use super::{list, text};

/// What is not so, the reason, and the same in words.
pub(super) fn noes(report: &Value) -> Vec<Vec<String>> {
    let election = &report["election"];
    let mut noes = Vec::new();
    let waits = &election["waits"];
    if !waits.is_null() {
        let what = format!("speaking on {}", text(&report["node"]));
        noes.push(vec![what, text(&waits["reason"]), text(&waits["message"])]);
    }
    for node in list(&election["drained"]).map(text) {
        let message = format!("holds and takes nothing until `herald undrain {node}`");
        noes.push(vec![format!("VIPs for {node}"), "drained".into(), message]);
    }
    noes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_drained_nodes_and_who_waits_and_is_silent_otherwise() {
        let well = json!({"node": "n1", "election": {"waits": null, "drained": []}});
        assert_eq!(noes(&well), [[""; 0]; 0]);
        let said = noes(&json!({"node": "n1", "election": {
            "waits": {"reason": "other_back_end", "message": "speakers on n2 elect otherwise"},
            "drained": ["n2", "n3"],
        }}));
        let undrain = |node| format!("holds and takes nothing until `herald undrain {node}`");
        assert_eq!(
            said,
            [
                ["speaking on n1", "other_back_end", "speakers on n2 elect otherwise"],
                ["VIPs for n2", "drained", &undrain("n2")],
                ["VIPs for n3", "drained", &undrain("n3")],
            ]
        );
    }
}
