//! `herald check --against-cluster`: which Services would get another address?
//!
//! Reads the cluster with the caller's own kubeconfig and writes nothing. The answer comes from the
//! allocator itself, fed with the cluster as it is and as it would be.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;

use crate::allocator::{self, Change, Config};
use crate::observed::{CILIUM_PREFIX, Observed, Pool, PoolKind};
use crate::problem::{Level, Problem, Reason};
use crate::source::{Kind, kubernetes, overlay::overlay};

/// How long a cluster may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pool that is to be deleted, as `KIND/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    kind: Kind,
    name: String,
}

impl FromStr for Deletion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "{text:?}: expected {}/NAME or {}/NAME",
                Kind::IpAddressPool.name(),
                Kind::CiliumPool.name()
            )
        };
        let (kind, name) = text.split_once('/').ok_or_else(expected)?;
        // As kubectl takes them: in any case, in the plural, or with the group.
        let given = kind.to_lowercase();
        let given = given.split('.').next().unwrap_or_default();
        let is_meant = |kind: &&Kind| given == kind.plural() || given == kind.name().to_lowercase();
        let mut pools = Kind::ALL.iter().filter(|kind| kind.is_pool());
        let kind = pools.find(is_meant).filter(|_| !name.is_empty()).ok_or_else(expected)?;
        Ok(Self { kind: *kind, name: name.to_owned() })
    }
}

/// The cluster without the pools that are to be deleted.
///
/// # Errors
///
/// The cluster has no such pool.
pub fn without(cluster: &Observed, deletions: &[Deletion]) -> anyhow::Result<Observed> {
    let mut after = cluster.clone();
    for Deletion { kind, name } in deletions {
        let prefix = if *kind == Kind::CiliumPool { CILIUM_PREFIX } else { "" };
        let found = after.pools.remove(&format!("{prefix}{name}"));
        found.with_context(|| format!("the cluster has no {} {name} to delete", kind.name()))?;
    }
    Ok(after)
}

/// The cluster that the kubeconfig names.
///
/// # Errors
///
/// There is no kubeconfig, or the cluster does not answer in time.
pub fn read(pool_namespaces: &[String]) -> anyhow::Result<Observed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let config = kubernetes::Config {
        pool_namespaces: pool_namespaces.to_vec(),
        ..kubernetes::Config::default()
    };
    runtime.block_on(async {
        let client = kube::Client::try_default().await.context("cannot find a cluster")?;
        let watch = tokio::time::timeout(PATIENCE, kubernetes::watch(client, config)).await;
        let (snapshots, _) = watch
            .context("the cluster does not answer, or does not let you list what Herald reads")?
            .context("cannot read the cluster")?;
        let observed = snapshots.borrow().observed.clone();
        Ok(observed)
    })
}

/// Takes pools out of the manifests whose namespace no speaker reads, and says so: applied to the
/// cluster, they would do nothing. Without a namespace, kubectl means `default`.
pub fn leave_out(manifests: &mut Observed, pool_namespaces: &[String]) -> Vec<Problem> {
    let namespace = |pool: &Pool| match pool.namespace.as_str() {
        "" => "default".to_owned(),
        namespace => namespace.to_owned(),
    };
    let counts =
        |pool: &Pool| pool.kind == PoolKind::Cilium || pool_namespaces.contains(&namespace(pool));
    let ignored = manifests.pools.values().filter(|pool| !counts(pool)).map(|pool| Problem {
        level: Level::Warning,
        object: Some(format!("IPAddressPool {}/{}", namespace(pool), pool.name)),
        location: None,
        reason: Reason::UnknownReference,
        message: format!(
            "IPAddressPool {} has no effect: pools count in the namespaces {} \
             (--pool-namespace), and not in {}",
            pool.name,
            pool_namespaces.join(", "),
            namespace(pool),
        ),
    });
    let ignored = ignored.collect();
    manifests.pools.retain(|_, pool| counts(pool));
    ignored
}

/// What applying the manifests would change for Services that have addresses now, and what is
/// wrong with doing so. `rest` is what is left of the cluster then.
pub fn compare(
    cluster: &Observed,
    rest: &Observed,
    manifests: &Observed,
    config: &Config,
) -> (Vec<Change>, Vec<Problem>) {
    let before = allocator::reported(cluster, config);
    let (after, problems) = overlay(rest, manifests);
    // A speaker has nothing but the statuses and the pools as they are by then.
    let current = allocator::reported(&after, config);
    let plan = allocator::allocate(&after, &current, config);
    let renumbers = |change: &Change| {
        let after = change.to.as_ref().map(|to| &to.addresses);
        change.from.as_ref().is_some_and(|from| Some(&from.addresses) != after)
    };
    let mut changes: Vec<_> = plan.changes.into_iter().filter(renumbers).collect();
    for change in &mut changes {
        change.from = before.get(&change.service).cloned().or(change.from.take());
    }
    (changes, problems)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fixture;
    use crate::observed::AddressRange;

    fn cluster() -> Observed {
        let mut cluster = fixture::observed();
        let service = Arc::make_mut(cluster.services.get_mut(&fixture::service_name()).unwrap());
        service.reported.addresses = vec![fixture::VIP.into()];
        cluster
    }

    fn pool(name: &str, first: u8, last: u8) -> Observed {
        let ip = |low| [192, 168, 1, low].into();
        let ranges = AddressRange::new(ip(first), ip(last)).into_iter().collect();
        let pool = Pool { name: name.into(), ranges, auto_assign: true, ..Pool::default() };
        Observed { pools: [(name.to_owned(), pool)].into(), ..Observed::default() }
    }

    fn changes(manifests: &Observed) -> (Vec<String>, usize) {
        let cluster = cluster();
        let (changes, problems) = compare(&cluster, &cluster, manifests, &Config::default());
        (changes.iter().map(ToString::to_string).collect(), problems.len())
    }

    #[test]
    fn an_edit_that_still_contains_the_address_renumbers_nobody() {
        assert_eq!(changes(&pool("first", 230, 245)), (vec![], 0));
        assert_eq!(changes(&pool("second", 10, 20)), (vec![], 0));
    }

    #[test]
    fn says_who_is_renumbered_and_why() {
        let expected = "default/echo: 192.168.1.240 from pool first became 192.168.1.241 from pool \
                        first, because no pool holds the address any more";
        assert_eq!(changes(&pool("first", 241, 250)), (vec![expected.to_owned()], 0));
    }

    #[test]
    fn says_who_is_renumbered_when_a_pool_is_deleted() {
        let mut cluster = cluster();
        let second = pool("cilium.io/second", 10, 20).pools.remove("cilium.io/second").unwrap();
        let second = Pool { kind: PoolKind::Cilium, ..second };
        cluster.pools.insert(second.name.clone(), second);
        let nothing = Observed::default();
        let deleted = |text: &str, manifests: &Observed| {
            let rest = without(&cluster, &[text.parse().unwrap()])?;
            let (changes, _) = compare(&cluster, &rest, manifests, &Config::default());
            anyhow::Ok(changes.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let moved = "default/echo: 192.168.1.240 from pool first became 192.168.1.10 from pool \
                     cilium.io/second, because no pool holds the address any more";
        assert_eq!(deleted("ipaddresspools.metallb.io/first", &nothing).unwrap(), [moved]);
        let renamed = pool("renamed", 230, 245);
        assert_eq!(deleted("IPAddressPool/first", &renamed).unwrap(), [""; 0]);
        let second = deleted("ciliumloadbalancerippool/second", &nothing);
        assert_eq!(second.unwrap(), [""; 0]);
        let missing = deleted("IPAddressPool/second", &nothing).unwrap_err().to_string();
        assert_eq!(missing, "the cluster has no IPAddressPool second to delete");
        for bad in ["first", "Service/first", "IPAddressPool/"] {
            assert!(bad.parse::<Deletion>().is_err(), "{bad}");
        }
    }

    /// What a speaker has after the edit are the statuses, which name no pool of Cilium's.
    #[test]
    fn a_pool_of_metallbs_laid_over_a_live_one_of_ciliums_renumbers_nobody() {
        let mut cluster = cluster();
        let mut first = cluster.pools.remove("first").unwrap();
        (first.kind, first.name) = (PoolKind::Cilium, "cilium.io/first".into());
        cluster.pools.insert(first.name.clone(), first);
        let name = fixture::service_name();
        let service = Arc::make_mut(cluster.services.get_mut(&name).unwrap());
        service.reported.addresses.push([192, 168, 1, 249].into());
        service.reported.assigned = Some(service.reported.addresses.clone());
        service.requested = service.reported.addresses.clone();
        let (changes, problems) =
            compare(&cluster, &cluster, &pool("over", 240, 240), &Config::default());
        let reasons: Vec<_> = problems.iter().map(|problem| problem.reason.label()).collect();
        assert_eq!((changes, reasons), (vec![], vec!["pool_overlap"]));
    }

    #[test]
    fn a_pool_that_no_speaker_reads_is_told_and_changes_nothing() {
        let namespaces = ["metallb-system".to_owned(), "herald-system".to_owned()];
        let moved = pool("first", 10, 20);
        for (namespace, kind, is_read) in [
            ("metallb-system", PoolKind::MetalLb, true),
            ("herald-system", PoolKind::MetalLb, true),
            ("default", PoolKind::MetalLb, false),
            ("", PoolKind::MetalLb, false),
            ("", PoolKind::Cilium, true),
        ] {
            let mut manifests = moved.clone();
            let pool = manifests.pools.get_mut("first").unwrap();
            (pool.namespace, pool.kind) = (namespace.to_owned(), kind);
            let told = leave_out(&mut manifests, &namespaces);
            assert_eq!(told.is_empty(), is_read, "{namespace:?} {kind:?}: {told:?}");
            assert_eq!(changes(&manifests).0.is_empty(), !is_read, "{namespace:?} {kind:?}");
        }
    }

    #[test]
    fn an_edit_that_would_be_refused_renumbers_nobody_and_is_told() {
        assert_eq!(changes(&pool("second", 240, 250)), (vec![], 1));
    }
}
