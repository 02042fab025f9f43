//! Objects of our own, made when they are missing and kept equal to what is wanted.
//!
//! Where MetalLB's own definitions are installed, the API server drops fields that only Herald's
//! have. Such fields are kept in an annotation, so that nobody has to do without them.

use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Map, Value, json};

use super::super::write::Target;
use super::{api, object};

/// Fields of the status that the installed definition lacks, as JSON.
const MORE_STATUS: &str = "herald.io/more-status";

/// Makes the status of an object equal to this.
pub(super) async fn write(
    client: Client,
    target: &Target,
    labels: Value,
    status: Value,
) -> Result<(), kube::Error> {
    let api = api(client, target);
    // Nearly always it is new: one that is not announced any more is deleted.
    let object = object(json!({
        "apiVersion": target.api_version, "kind": target.kind,
        "metadata": {"name": target.name, "labels": labels}, "spec": {},
    }))?;
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(answer)) if answer.code == 409 => {}
        result => drop(result?),
    }
    let stored = write_status(&api, target, &status).await?;
    let annotations = stored.metadata.annotations.unwrap_or_default();
    let kept = annotations.get(MORE_STATUS);
    let dropped = dropped(&status, &stored.data["status"]);
    if kept != dropped.as_ref() {
        let patch = json!({"metadata": {"annotations": {MORE_STATUS: dropped}}});
        api.patch(&target.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    Ok(())
}

async fn write_status(
    api: &Api<DynamicObject>,
    target: &Target,
    status: &Value,
) -> Result<DynamicObject, kube::Error> {
    let patch = Patch::Merge(json!({"status": status}));
    api.patch_status(&target.name, &PatchParams::default(), &patch).await
}

/// The fields that were sent and are not there.
fn dropped(sent: &Value, stored: &Value) -> Option<String> {
    let is_dropped = |name: &str, value: &Value| !value.is_null() && stored.get(name).is_none();
    let fields = sent.as_object()?.iter().filter(|(name, value)| is_dropped(name, value));
    let fields: Map<_, _> = fields.map(|(name, value)| (name.clone(), value.clone())).collect();
    (!fields.is_empty()).then(|| Value::Object(fields).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_the_installed_definition_lacks() {
        let sent = json!({"node": "n1", "errorSummary": "", "addresses": [{"ip": "192.0.2.1"}]});
        let stored = json!({"node": "n1", "errorSummary": ""});
        let kept = r#"{"addresses":[{"ip":"192.0.2.1"}]}"#.to_owned();
        assert_eq!(dropped(&sent, &stored), Some(kept));
        assert_eq!(dropped(&sent, &sent), None);
        assert_eq!(dropped(&json!({"node": null}), &json!({})), None, "it was to be removed");
    }
}
