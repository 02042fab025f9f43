//! What happens to a speaker's process while Leases decide: it hangs, it is killed and started
//! anew, its node is drained. What all of this looks like at the bridge ports is judged by who
//! calls it.

use std::net::IpAddr;

use super::*;

/// Twice a ttl: whoever believes its old clock then would speak.
const FROZEN: Duration = Duration::from_secs(10);
/// Answers before and after what a probe watches.
const ANSWERS: u64 = 300;

/// The holder's process stands still for 10 s, and comes back to find another one in its place.
pub fn a_holder_that_hangs_takes_nothing_back(
    cluster: &mut Cluster,
    vip: IpAddr,
) -> anyhow::Result<()> {
    let old = cluster.announced(2, LIMIT * 3)?.remove(&vip).unwrap();
    let witness = nodes().find(|node| *node != old).unwrap();
    cluster.speakers.on(&old)?.signal(libc::SIGSTOP)?;
    let stopped = clock::now();
    let new = cluster.wait("another node announces the VIP", LIMIT, |cluster| {
        let holder = cluster.status(&witness)?.vip(vip).and_then(|vip| vip.holder.clone());
        let Some(new) = holder.filter(|holder| *holder != old) else { return Ok(None) };
        let speaks = cluster.status(&new)?.vip(vip).is_some_and(|vip| vip.announcing);
        Ok(speaks.then_some(new))
    })?;
    println!("{old} hangs: {new} announces after {:?}", stopped.elapsed());
    clock::pause(FROZEN.saturating_sub(stopped.elapsed()));
    assert_eq!(who_has(&cluster.lab, vip)?, [host(&new).unwrap().mac()]);
    cluster.speakers.on(&old)?.signal(libc::SIGCONT)?;
    assert_eq!(cluster.announced(2, LIMIT * 3)?.remove(&vip).unwrap(), new, "{old} took it back");
    assert_eq!(who_has(&cluster.lab, vip)?, [host(&new).unwrap().mac()]);
    request(cluster, vip).map(drop)
}

/// Killed and started anew, as when a container crashes: the kernel forwards on.
pub fn a_killed_holder_starts_anew_without_loss(
    cluster: &mut Cluster,
    vip: IpAddr,
) -> anyhow::Result<()> {
    let old = cluster.announced(2, LIMIT * 3)?.remove(&vip).unwrap();
    without_loss(cluster, |cluster| {
        cluster.speakers.on(&old)?.kill()?;
        cluster.speakers.start(&[], &cluster.lab, &cluster.plane)?;
        let holder = cluster.announced(2, LIMIT * 3)?.remove(&vip).unwrap();
        println!("{old} killed and started anew: {holder} holds");
        Ok(())
    })
}

/// `herald drain` and `undrain`, asked on another node.
pub fn a_drained_holder_hands_over_without_loss(
    cluster: &mut Cluster,
    vip: IpAddr,
) -> anyhow::Result<()> {
    let old = cluster.announced(2, LIMIT * 3)?.remove(&vip).unwrap();
    let witness = nodes().find(|node| *node != old).unwrap();
    without_loss(cluster, |cluster| {
        let said = cluster.speakers.command(&witness, &["drain", &old])?;
        assert!(said.ends_with(&format!("{old} holds nothing\n")), "{said}");
        let holders = cluster.announced(2, LIMIT * 3)?;
        assert!(holders.values().all(|holder| *holder != old), "{old} is drained: {holders:?}");
        Ok(())
    })?;
    let table = cluster.speakers.status_text(&witness)?;
    assert!(table.contains(&format!("VIPs for {old}")), "{table}");
    let said = cluster.speakers.command(&witness, &["undrain", &old])?;
    println!("{said}");
    Ok(())
}

/// Probes a flow to each VIP while something happens; nothing may be lost.
fn without_loss(
    cluster: &mut Cluster,
    happens: impl FnOnce(&mut Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let client = cluster.lab.netns("c1")?.clone();
    let vips = cluster.announced(2, LIMIT * 3)?.into_keys();
    let probes: Vec<(IpAddr, Probe)> = vips
        .zip(41_000..)
        .map(|(vip, port)| Ok((vip, Probe::start(&client, service(vip, Transport::Udp), port)?)))
        .collect::<anyhow::Result<_>>()?;
    let answered = |more: u64| {
        let wanted: Vec<u64> = probes.iter().map(|(_, probe)| probe.last_answer() + more).collect();
        clock::await_for("the probes are answered", LIMIT, || {
            let mut all = probes.iter().zip(&wanted);
            Ok(all.all(|((_, probe), wanted)| probe.last_answer() >= *wanted).then_some(()))
        })
    };
    answered(ANSWERS)?;
    happens(cluster)?;
    answered(ANSWERS)?;
    for (vip, probe) in probes {
        let outcome = probe.finish()?;
        assert_eq!(outcome.lost(), 0, "of {} to {vip}", outcome.sent());
    }
    Ok(())
}
