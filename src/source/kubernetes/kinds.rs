//! Which kinds are installed (edge): MetalLB's and Cilium's are watched while their definitions
//! exist, in the version that the API server serves and that Herald prefers.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, GroupVersionKind, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};

use super::{Watches, tell};
use crate::source::gather::Message;
use crate::source::object::Kind;
use crate::trouble::Troubles;

/// How soon it is asked again whether a definition has come into effect.
const AGAIN: Duration = Duration::from_millis(500);

const CUSTOM: [Kind; 4] =
    [Kind::IpAddressPool, Kind::L2Advertisement, Kind::CiliumPool, Kind::CiliumPolicy];

/// Starts and stops watches as definitions come and go. Ends, with a name, when one of them ends,
/// which none should.
pub async fn follow(mut watches: Watches) -> String {
    // Names are enough: the schemas of a cluster's definitions are many megabytes.
    let definitions: Api<PartialObjectMeta<CustomResourceDefinition>> =
        Api::all(watches.client.clone());
    let events = watcher(definitions, watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut installed = BTreeSet::new();
    let mut listing = None;
    let mut troubles = Troubles::default();
    loop {
        let is_waiting = listing.is_none() && installed.iter().any(|it| !watches.is_watched(*it));
        tokio::select! {
            event = events.next() => match event
                .inspect(|event| tell(&mut troubles, "customresourcedefinitions", event))
            {
                None => return "CustomResourceDefinitions".to_owned(),
                Some(Ok(Event::Init)) => listing = Some(BTreeSet::new()),
                Some(Ok(Event::InitApply(it))) => {
                    listing.get_or_insert_default().extend(kind(&it.name_any()));
                }
                Some(Ok(Event::InitDone)) => installed = listing.take().unwrap_or_default(),
                Some(Ok(Event::Apply(it))) => installed.extend(kind(&it.name_any())),
                Some(Ok(Event::Delete(it))) => {
                    if let Some(kind) = kind(&it.name_any()) {
                        installed.remove(&kind);
                    }
                }
                Some(Err(_)) => continue,
            },
            Some(ended) = watches.all.join_next() => match ended {
                Ok(scope) => return scope.kind.plural().to_owned(),
                Err(error) if error.is_cancelled() => continue,
                Err(error) => return error.to_string(),
            },
            () = tokio::time::sleep(AGAIN), if is_waiting => {}
        }
        if listing.is_none() {
            adapt(&mut watches, &installed).await;
        }
    }
}

async fn adapt(watches: &mut Watches, installed: &BTreeSet<Kind>) {
    let mut all_known = true;
    for kind in CUSTOM {
        match (installed.contains(&kind), watches.is_watched(kind)) {
            (true, false) => match served(watches, kind).await {
                Some(resource) => {
                    tracing::info!(
                        kind = kind.name(),
                        api_version = resource.api_version,
                        "watching"
                    );
                    watches.start(kind, resource).await;
                }
                None => all_known = false,
            },
            (false, true) => {
                tracing::info!(kind = kind.name(), "not installed any more");
                watches.stop(kind).await;
            }
            _ => {}
        }
    }
    if all_known {
        let _ = watches.messages.send(Message::KindsKnown).await;
    }
}

/// The resource in the preferred version of those that the API server serves by now. The versions
/// of a definition come into effect one after the other: what the first look finds says that the
/// definition is in effect, and only the second one which versions it has.
async fn served(watches: &Watches, kind: Kind) -> Option<ApiResource> {
    preferred(watches, kind).await?;
    preferred(watches, kind).await
}

async fn preferred(watches: &Watches, kind: Kind) -> Option<ApiResource> {
    for api_version in kind.api_versions() {
        let Ok(list) = watches.client.list_api_group_resources(api_version).await else { continue };
        if list.resources.iter().any(|resource| resource.name == kind.plural()) {
            return Some(resource(kind, api_version));
        }
    }
    None
}

/// A kind of Kubernetes' own.
pub fn built_in(kind: Kind) -> ApiResource {
    resource(kind, kind.api_versions()[0])
}

fn resource(kind: Kind, api_version: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk(group, version, kind.name()),
        kind.plural(),
    )
}

/// The kind that a definition of this name defines.
fn kind(definition: &str) -> Option<Kind> {
    CUSTOM.into_iter().find(|kind| {
        let group = kind.api_versions()[0].split_once('/').map_or("", |(group, _)| group);
        definition.split_once('.') == Some((kind.plural(), group))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_definitions_by_name() {
        assert_eq!(kind("ipaddresspools.metallb.io"), Some(Kind::IpAddressPool));
        assert_eq!(kind("ciliuml2announcementpolicies.cilium.io"), Some(Kind::CiliumPolicy));
        assert_eq!(kind("services.example.com"), None);
        assert_eq!(kind("ipaddresspools.example.com"), None);
    }
}
