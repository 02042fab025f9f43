//! Two speakers that both believe to be the allocator.

use herald_testbed::clock;
use herald_testbed::cluster::assignments::Assignments;
use herald_testbed::cluster::whole::Cluster;

use super::{LIMIT, lease};

/// The allocator is frozen while it writes, another finishes its work, then the first one wakes up
/// with what it was about to write.
pub(super) fn another_takes_over_from_a_frozen_allocator(
    cluster: &mut Cluster,
    assignments: &Assignments,
    all: usize,
) -> anyhow::Result<()> {
    let first = cluster.wait("somebody may allocate", LIMIT, |cluster| Ok(allocator(cluster)))?;
    let epoch = |cluster: &Cluster| {
        let status = cluster.status(&first).ok()?;
        status.open_session(&first).map(|session| session.epoch)
    };
    let old = epoch(cluster);
    let before = cluster.wait("the first addresses are written", LIMIT, |_| {
        Ok(Some(assignments.given()?).filter(|given| *given > 0))
    })?;
    cluster.speakers.on(&first)?.signal(libc::SIGSTOP)?;
    let frozen = clock::now();
    let next = cluster.wait("another one is the allocator", LIMIT, |cluster| {
        Ok(allocator(cluster).filter(|next| *next != first))
    })?;
    let taken = frozen.elapsed();
    cluster.wait("all Services have addresses", LIMIT * 3, |_| {
        Ok((assignments.given()? == all).then_some(()))
    })?;
    println!(
        "{first} was frozen with {before} of {all} addresses written; {next} took over after \
         {taken:?} and had finished after {:?}",
        frozen.elapsed()
    );
    cluster.speakers.on(&first)?.signal(libc::SIGCONT)?;
    cluster.wait("it has a session again", LIMIT, |cluster| {
        Ok(epoch(cluster).filter(|new| Some(*new) > old).map(drop))
    })
}

/// Which node may allocate.
fn allocator(cluster: &Cluster) -> Option<String> {
    lease(cluster, "allocator").ok()?["spec"]["holderIdentity"].as_str().map(str::to_owned)
}
