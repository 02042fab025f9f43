//! `herald check --against-cluster`: which Services would get another address?
//!
//! Reads the cluster with the caller's own kubeconfig and writes nothing. The answer comes from the
//! allocator itself, fed with the cluster as it is and as it would be.

use std::time::Duration;

use anyhow::Context;

use crate::allocator::{self, Change, Config};
use crate::observed::Observed;
use crate::problem::Problem;
use crate::source::{kubernetes, overlay::overlay};

/// How long a cluster may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// What applying the manifests would change for Services that have addresses now, and what is
/// wrong with doing so.
pub fn compare(
    cluster: &Observed,
    manifests: &Observed,
    config: &Config,
) -> (Vec<Change>, Vec<Problem>) {
    let current = allocator::reported(cluster, config);
    let (after, problems) = overlay(cluster, manifests);
    let plan = allocator::allocate(&after, &current, config);
    let renumbers = |change: &Change| {
        let after = change.to.as_ref().map(|to| &to.addresses);
        change.from.as_ref().is_some_and(|from| Some(&from.addresses) != after)
    };
    (plan.changes.into_iter().filter(renumbers).collect(), problems)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fixture;
    use crate::observed::{AddressRange, Pool};

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
        let (changes, problems) = compare(&cluster(), manifests, &Config::default());
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
    fn an_edit_that_would_be_refused_renumbers_nobody_and_is_told() {
        assert_eq!(changes(&pool("second", 240, 250)), (vec![], 1));
    }
}
