use std::sync::Arc;

use herald_ebpf::{Protocol as Carried, ServicePort};
use herald_leader_election::{Eligible, SessionState};
use proptest::prelude::*;

use super::*;
use crate::desired::World;
use crate::fixture::{
    VIP, assigned, claimed, links, mac, node, observed, served, service_name, view, vip_key,
};

fn decision(view: &View, me: u8, leaving: bool) -> Decision {
    decide_with(&observed(), view, me, Carrier::Xdp, leaving)
}

fn decide_with(
    observed: &Observed,
    view: &View,
    me: u8,
    carrier: Carrier,
    leaving: bool,
) -> Decision {
    let standings = BTreeMap::from([(IpAddr::from(VIP), Standing::Clear)]);
    decide_standing(observed, view, me, carrier, leaving, &standings)
}

fn decide_standing(
    observed: &Observed,
    view: &View,
    me: u8,
    carrier: Carrier,
    leaving: bool,
    standings: &BTreeMap<IpAddr, Standing>,
) -> Decision {
    let interfaces = BTreeMap::from([("eth0".to_owned(), carrier)]);
    let (me, links) = (node(me), links(me));
    decide(&Knowledge { leaving, ..knowledge(&me, observed, view, &links, &interfaces, standings) })
}

/// Without anything remembered.
fn decide(known: &Knowledge<'_>) -> Decision {
    super::decide(known, &mut Memory::default())
}

fn knowledge<'a>(
    me: &'a NodeName,
    observed: &'a Observed,
    view: &'a View,
    links: &'a Links,
    interfaces: &'a BTreeMap<String, Carrier>,
    standings: &'a BTreeMap<IpAddr, Standing>,
) -> Knowledge<'a> {
    static NOBODY: BTreeMap<IpAddr, Presence> = BTreeMap::new();
    static ALLOCATOR: allocator::Config =
        allocator::Config { class: None, classless: allocator::Classless::Served };
    Knowledge {
        me,
        observed,
        view,
        links,
        interfaces,
        standings,
        presences: &NOBODY,
        allocator: &ALLOCATOR,
        database: Database::Records,
        is_reported: true,
        leaving: false,
    }
}

#[test]
fn only_the_allocator_writes_assignments() {
    assert_eq!(decision(&view(1), 1, false).puts, BTreeMap::new());
    let view = claimed(view(1), ClaimKey::Allocator, 1);
    let decided = decision(&view, 1, false);
    let guard = Guard { key: ClaimKey::Allocator, term: 1 };
    let puts: Vec<_> = decided.puts.iter().map(|(key, put)| (&key[..], put.guard)).collect();
    assert_eq!(puts, [("assignment/default/echo", guard)]);
    assert_eq!(decision(&assigned(view), 1, false).puts, BTreeMap::new(), "already written");
}

#[test]
fn wants_every_assigned_vip_held_by_an_eligible_node() {
    let all: Eligible = (1..=3).map(node).collect();
    let wanted = decision(&assigned(view(1)), 1, false).wanted.claims;
    assert_eq!(wanted, BTreeMap::from([(ClaimKey::Allocator, all.clone()), (vip_key(), all)]));
}

#[test]
fn speaks_only_for_the_vip_it_holds() {
    let view = claimed(assigned(view(1)), vip_key(), 1);
    let ours = decision(&view, 1, false);
    assert_eq!(ours.picture.vips, BTreeSet::from([(IpAddr::from(VIP), 2)]));
    assert_eq!(ours.announced.vips.len(), 1);
    let theirs = decision(&View { me: node(2), ..view }, 2, false);
    assert_eq!((theirs.picture.vips.len(), theirs.announced.vips.len()), (0, 0));
    assert_eq!(theirs.picture.services.len(), 2, "but it delivers to its own pods");
}

#[test]
fn probes_for_a_vip_nobody_ever_announced_and_is_silent_meanwhile() {
    let view = claimed(assigned(view(1)), vip_key(), 1);
    for standings in [BTreeMap::new(), BTreeMap::from([(VIP.into(), Standing::Probing)])] {
        let decided = decide_standing(&observed(), &view, 1, Carrier::Xdp, false, &standings);
        assert!(decided.neighbourhood.probed.contains_key(&IpAddr::from(VIP)));
        assert_eq!((decided.picture.vips.len(), decided.announced.vips.len()), (0, 0));
        assert_eq!(decided.puts, BTreeMap::new());
        assert_eq!(decided.releases, BTreeSet::new());
    }
    let peers = decision(&view, 1, false).neighbourhood.peers;
    assert_eq!(peers, BTreeSet::from([MacAddr(mac(2)), MacAddr(mac(3))]));
}

#[test]
fn remembers_an_announced_vip_and_takes_it_over_without_a_probe() {
    let mut view = claimed(assigned(view(1)), vip_key(), 1);
    let puts = decision(&view, 1, false).puts;
    let key = records::announced_key(VIP.into());
    let put = Put { value: Some(b"n1".to_vec()), guard: Guard { key: vip_key(), term: 1 } };
    assert_eq!(puts, BTreeMap::from([(key.clone(), put)]));
    view.records.insert(key, b"n1".to_vec());
    let at_once = decide_standing(&observed(), &view, 1, Carrier::Xdp, false, &BTreeMap::new());
    assert_eq!((at_once.picture.vips.len(), at_once.announced.vips.len()), (1, 1));
    assert_eq!(at_once.puts, BTreeMap::new());
}

#[test]
fn keeps_a_vip_that_somebody_else_uses_but_does_not_speak_for_it() {
    let view = claimed(assigned(view(1)), vip_key(), 1);
    let blocked = BTreeMap::from([(VIP.into(), Standing::Blocked)]);
    let decided = decide_standing(&observed(), &view, 1, Carrier::Xdp, false, &blocked);
    assert_eq!((decided.picture.vips.len(), decided.announced.vips.len()), (0, 0));
    assert_eq!(decided.releases, BTreeSet::new());
}

#[test]
fn is_silent_once_leaving() {
    let view = claimed(assigned(view(1)), vip_key(), 1);
    let decided = decision(&view, 1, true);
    assert_eq!((decided.picture.vips.len(), decided.announced.vips.len()), (0, 0));
    assert_eq!(decided.releases, BTreeSet::new(), "the drain gives it away");
}

#[test]
fn gives_back_a_vip_nobody_wants_any_more() {
    let mut observed = observed();
    observed.services.remove(&service_name());
    let view = claimed(assigned(view(1)), vip_key(), 1);
    let decided = decide_with(&observed, &view, 1, Carrier::Xdp, false);
    assert_eq!(decided.releases, BTreeSet::from([vip_key()]));
    assert_eq!(decided.picture.vips.len(), 0);
}

#[test]
fn knows_which_backends_are_here() {
    let picture = decision(&assigned(view(2)), 2, false).picture;
    let vip = IpAddr::from(VIP);
    let web = ServicePort { vip, port: 80, protocol: Carried::Tcp };
    let here: Vec<_> = picture.services[&web].iter().map(|b| (b.node_mac, b.is_local)).collect();
    assert_eq!(here, [(mac(1), false), (mac(2), true), (mac(3), false)]);
    let peers: Vec<_> = picture.peers.keys().copied().collect();
    assert_eq!(peers, [mac(1), mac(3)]);
    assert_eq!(picture.links, BTreeMap::from([(2, mac(2))]));
}

#[test]
fn without_xdp_the_announcer_answers_and_the_kernel_does_not() {
    let view = claimed(assigned(view(1)), vip_key(), 1);
    let decided = decide_with(&observed(), &view, 1, Carrier::Off, false);
    assert_eq!(decided.picture.vips, BTreeSet::new());
    assert_eq!(decided.announced.answering["eth0"], Answering::Userspace);
    assert_eq!(decided.announced.vips.len(), 1);
}

#[test]
fn silences_what_it_is_asked_to_hand_over_and_then_gives_it_away() {
    let held = claimed(claimed(assigned(view(1)), vip_key(), 1), ClaimKey::Allocator, 1);
    let asked = |key| View { handovers: BTreeMap::from([(key, node(2))]), ..held.clone() };
    let decided = decision(&asked(vip_key()), 1, false);
    assert_eq!((decided.picture.vips.len(), decided.announced.vips.len()), (0, 0));
    assert_eq!(decided.releases, BTreeSet::from([vip_key()]));
    assert_eq!(decided.picture.services.len(), 2, "it forwards on");
    assert!(decided.allocates && decided.plan.is_some());

    let decided = decision(&asked(ClaimKey::Allocator), 1, false);
    assert!(!decided.allocates && decided.plan.is_none());
    assert_eq!(decided.releases, BTreeSet::from([ClaimKey::Allocator]));
}

#[test]
fn plans_only_what_somebody_is_told_of() {
    let (observed, view) = (observed(), claimed(view(1), ClaimKey::Allocator, 1));
    let (me, links) = (node(1), links(1));
    let interfaces = BTreeMap::from([("eth0".to_owned(), Carrier::Xdp)]);
    let standings = BTreeMap::new();
    for (database, is_reported, is_planned) in [
        (Database::ServiceStatus, true, true),
        (Database::ServiceStatus, false, false),
        (Database::Records, false, true),
    ] {
        let known = knowledge(&me, &observed, &view, &links, &interfaces, &standings);
        let decided = decide(&Knowledge { database, is_reported, ..known });
        assert!(decided.allocates);
        assert_eq!(decided.plan.is_some(), is_planned, "{database:?} {is_reported}");
    }
}

#[test]
fn keeps_the_pods_of_a_node_whose_speaker_alone_is_gone() {
    let mut view = assigned(view(1));
    view.sessions.get_mut(&node(3)).unwrap().state = SessionState::Revoked;
    let address = IpAddr::from([192, 168, 1, 13]);
    let with = |presences: &[(IpAddr, Presence)]| {
        let presences = presences.iter().copied().collect();
        decide(&Knowledge {
            presences: &presences,
            ..knowledge(
                &node(1),
                &observed(),
                &view,
                &links(1),
                &BTreeMap::from([("eth0".to_owned(), Carrier::Xdp)]),
                &BTreeMap::new(),
            )
        })
    };
    let pods = |decided: &Decision| decided.picture.services.values().next().unwrap().len();
    let asked = BTreeMap::from([(address, MacAddr(mac(3)))]);
    for presences in [vec![], vec![(address, Presence::Unknown)], vec![(address, Presence::Here)]] {
        let decided = with(&presences);
        assert_eq!((pods(&decided), &decided.silent), (3, &asked), "{presences:?}");
    }
    let decided = with(&[(address, Presence::Gone)]);
    assert_eq!((pods(&decided), &decided.silent), (2, &asked), "it is asked on");
}

#[test]
fn an_assigned_address_that_is_bound_to_a_node_is_not_its_own() {
    let bound: [IpAddr; 3] = [VIP.into(), [192, 168, 1, 9].into(), "2001:db8::9".parse().unwrap()];
    let assignment = Assignment { pool: "first".into(), addresses: bound.to_vec() };
    let wanted = BTreeMap::from([(service_name(), assignment)]);
    let records = records::difference(&BTreeMap::new(), &wanted);
    let mut view = view(1);
    view.records = records.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    // As kube-proxy in IPVS mode binds them, and before the node's own.
    let mut theirs = links(2);
    let addresses = &mut theirs.by_name.get_mut("eth0").unwrap().addresses;
    addresses.push("2001:db8::12/64".parse().unwrap());
    addresses.splice(0..0, bound.map(Into::into));
    let session = view.sessions.get_mut(&node(2)).unwrap();
    session.facts = Facts::of(&theirs, &served()).encode().into();
    let own = (Some([192, 168, 1, 12].into()), Some("2001:db8::12".parse().unwrap()));
    assert_eq!(decision(&view, 1, false).picture.peers[&mac(2)], own);
    view.sessions.get_mut(&node(2)).unwrap().state = SessionState::Revoked;
    let asked = BTreeMap::from([([192, 168, 1, 12].into(), MacAddr(mac(2)))]);
    assert_eq!(decision(&view, 1, false).silent, asked);
}

#[test]
fn hands_over_from_a_cordoned_node_what_another_can_have() {
    let mut observed = observed();
    let view = claimed(assigned(view(1)), vip_key(), 1);
    for name in ["n1", "n2"] {
        observed.nodes.get_mut(name).unwrap().cordoned = true;
    }
    let decided = decide_with(&observed, &view, 1, Carrier::Xdp, false);
    assert_eq!(decided.releases, BTreeSet::from([vip_key()]));
    assert_eq!(decided.wanted.claims[&vip_key()], [node(3)].into());
    assert_eq!((decided.picture.vips.len(), decided.picture.services.len()), (0, 2), "forwards on");
    observed.nodes.get_mut("n3").unwrap().cordoned = true;
    let decided = decide_with(&observed, &view, 1, Carrier::Xdp, false);
    assert_eq!((decided.releases.len(), decided.announced.vips.len()), (0, 1), "nobody else can");
}

#[test]
fn a_link_that_goes_down_gives_its_vips_back_before_anybody_heard() {
    let view = claimed(assigned(view(1)), vip_key(), 1);
    let mut down = links(1);
    let decided = |links: &Links| {
        decide(&Knowledge {
            me: &node(1),
            observed: &observed(),
            view: &view,
            links,
            interfaces: &BTreeMap::from([("eth0".to_owned(), Carrier::Xdp)]),
            standings: &BTreeMap::from([(IpAddr::from(VIP), Standing::Clear)]),
            presences: &BTreeMap::new(),
            allocator: &allocator::Config::default(),
            database: Database::Records,
            is_reported: true,
            leaving: false,
        })
    };
    assert_eq!(decided(&down).releases, BTreeSet::new());
    down.by_name.get_mut("eth0").unwrap().carrier = false;
    let decided = decided(&down);
    assert_eq!(decided.releases, BTreeSet::from([vip_key()]));
    assert_eq!((decided.picture.vips.len(), decided.announced.vips.len()), (0, 0));
    assert!(decided.facts.interfaces.is_empty(), "and the others hear of it");
}

#[test]
fn the_election_hears_whom_the_advertisements_prefer() {
    let mut observed = observed();
    let everywhere = crate::observed::Selector::default();
    for ad in observed.advertisements.values_mut() {
        let preferred =
            crate::observed::PreferredNodes { weight: 30, selector: everywhere.clone() };
        ad.preferred_nodes = vec![preferred];
    }
    let decided = decide_with(&observed, &assigned(view(1)), 1, Carrier::Xdp, false);
    let preferred: Eligible = (1..=3).map(|n| (node(n), 30)).collect();
    assert_eq!(decided.wanted.claims[&vip_key()], preferred);
}

#[test]
fn an_external_ip_is_claimed_and_announced_and_its_mark_stays() {
    let external: IpAddr = [192, 168, 1, 77].into();
    let key = ClaimKey::Vip(external);
    let mut observed = observed();
    let service = Arc::make_mut(observed.services.get_mut(&service_name()).unwrap());
    service.external_ips = vec![external];
    let policy = crate::observed::Advertisement {
        kind: crate::observed::PoolKind::Cilium,
        external_ips: true,
        ..Default::default()
    };
    observed.advertisements.insert("cilium.io/p".into(), policy);
    let view = claimed(assigned(view(1)), ClaimKey::Allocator, 1);
    let mut view = claimed(view, key, 1);
    view.records.insert(records::announced_key(external), b"n1".to_vec());
    let decided = decide_with(&observed, &view, 1, Carrier::Xdp, false);
    assert!(decided.announced.vips.contains_key(&external));
    assert!(decided.wanted.claims.contains_key(&key));
    assert_eq!(decided.puts, BTreeMap::new(), "its mark is not stale");
    assert_eq!(decided.plan.unwrap().assignments[&service_name()].addresses, [IpAddr::from(VIP)]);
    Arc::make_mut(observed.services.get_mut(&service_name()).unwrap()).external_ips.clear();
    let decided = decide_with(&observed, &view, 1, Carrier::Xdp, false);
    assert_eq!(decided.releases, BTreeSet::from([key]));
    assert_eq!(decided.puts[&records::announced_key(external)].value, None);
}

proptest! {
    #[test]
    fn what_is_remembered_of_the_last_decision_changes_nothing(
        edits in prop::collection::vec((0..18_u8, 0..12_u8, any::<bool>()), 1..40),
    ) {
        let (mut world, mut memory) = (World::new(), Memory::default());
        // What the Services' status reports is assigned to them.
        for (n, service) in world.observed.services.values_mut().enumerate() {
            let service = Arc::make_mut(service);
            let given = IpAddr::from([192, 168, 1, 240 + n as u8]);
            service.reported.addresses = vec![given];
            service.reported.pool = Some("first".into());
            world.view = claimed(world.view, ClaimKey::Vip(given), 1);
        }
        let (me, links, standings) = (node(1), links(1), BTreeMap::new());
        let interfaces = BTreeMap::from([("eth0".to_owned(), Carrier::Xdp)]);
        for (what, n, is_on) in edits {
            world.edit(what, n, is_on);
            let known =
                knowledge(&me, &world.observed, &world.view, &links, &interfaces, &standings);
            let known = Knowledge { database: Database::ServiceStatus, ..known };
            prop_assert_eq!(super::decide(&known, &mut memory), decide(&known));
        }
    }
}
