use herald_leader_election::{SessionState, View};
use proptest::prelude::*;

use super::*;
use crate::allocator::Assignment;
use crate::desired::{desired, facts};
use crate::fixture::{endpoint, node, not_ready, observed, service_name, terminating, view};
use crate::observed::{Observed, Service, ServiceName, TrafficPolicy};

/// Everything that is seen, to be changed bit by bit.
pub(crate) struct World {
    pub observed: Observed,
    assignments: BTreeMap<ServiceName, Assignment>,
    pub view: View,
    gone: BTreeSet<NodeName>,
    announced: BTreeSet<IpAddr>,
}

impl World {
    /// Three Services with an address each.
    pub fn new() -> Self {
        let mut observed = observed();
        let template = Service::clone(&observed.services[&service_name()]);
        let endpoints = observed.endpoints[&service_name()].clone();
        let mut assignments = BTreeMap::new();
        for n in 0..3 {
            let name = service(n);
            let of_name = Arc::new(Service { name: name.clone(), ..template.clone() });
            observed.services.insert(name.clone(), of_name);
            observed.endpoints.insert(name.clone(), endpoints.clone());
            assignments.insert(name, given("first", n));
        }
        let (gone, announced) = (BTreeSet::new(), BTreeSet::new());
        Self { observed, assignments, view: view(1), gone, announced }
    }

    fn desired(&self, memory: &mut Memory) -> BTreeMap<IpAddr, Arc<Vip>> {
        let seen = Seen {
            me: &node(1),
            observed: &self.observed,
            assignments: &self.assignments,
            view: &self.view,
            facts: &facts(&self.view),
            gone: &self.gone,
            announced: &self.announced,
        };
        desired(&seen, memory)
    }

    pub fn edit(&mut self, what: u8, n: u8, is_on: bool) {
        let name = service(n % 3);
        let at = usize::from(n % 3);
        let service = Arc::make_mut(self.observed.services.get_mut(&name).unwrap());
        match what {
            0 => {
                let some = [endpoint(1), not_ready(2), terminating(3), endpoint(3)];
                let some = some.into_iter().skip(at).collect();
                self.observed.endpoints.insert(name, some);
            }
            1 => drop(self.observed.endpoints.remove(&name)),
            2 => {
                service.external_traffic_policy =
                    if is_on { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
            }
            3 => service.external_ips = vec![[192, 168, 1, n].into()],
            4 => drop(self.assignments.remove(&name)),
            // The address may be another's too: then it is shared.
            5 => drop(self.assignments.insert(name, given("first", n % 4))),
            6 => drop(self.assignments.insert(name, given("unknown", n % 4))),
            7 => self.observed.nodes.values_mut().nth(at).unwrap().cordoned = is_on,
            8 => self.observed.nodes.values_mut().nth(at).unwrap().weight = is_on.then_some(0),
            9 => {
                let labels = is_on.then(|| ("a".to_owned(), "b".to_owned()));
                self.observed.pools.values_mut().for_each(|pool| {
                    pool.labels = labels.clone().into_iter().collect();
                });
            }
            10 => self.observed.advertisements.values_mut().for_each(|ad| {
                ad.interfaces = is_on.then(|| "eth9".to_owned()).into_iter().collect();
                ad.external_ips = is_on;
            }),
            11 => self.observed.pools_incomplete = is_on,
            12 => self.observed.advertisements_incomplete = is_on,
            13 => {
                let session = self.view.sessions.values_mut().nth(at).unwrap();
                session.draining = is_on;
                session.state = if is_on { SessionState::Open } else { SessionState::Revoked };
            }
            14 => drop(self.view.drained.insert(node(n % 3 + 1))),
            15 => drop(self.gone.insert(node(n % 3 + 1))),
            16 => self.announced.extend((0..4).filter(|_| is_on).map(address)),
            _ => self.observed.nodes.values_mut().nth(at).unwrap().addresses.push(address(n % 4)),
        }
    }
}

fn service(n: u8) -> ServiceName {
    ServiceName::new("default", format!("s{n}"))
}

fn address(n: u8) -> IpAddr {
    [192, 168, 1, 240 + n].into()
}

fn given(pool: &str, n: u8) -> Assignment {
    Assignment { pool: pool.into(), addresses: vec![address(n)] }
}

#[test]
fn what_nothing_changed_for_is_taken_over_and_the_rest_is_judged_anew() {
    let (mut world, mut memory) = (World::new(), Memory::default());
    let mut before = world.desired(&mut memory);
    let mut kept = |world: &World| {
        let now = world.desired(&mut memory);
        let kept =
            now.iter().filter(|(vip, it)| before.get(*vip).is_some_and(|b| Arc::ptr_eq(it, b)));
        let kept = kept.count();
        before = now;
        kept
    };
    assert_eq!(kept(&world), 3);
    world.edit(1, 0, false);
    assert_eq!(kept(&world), 2, "one lost its endpoints");
    world.observed.pools.values_mut().for_each(|pool| pool.status = 1.into());
    assert_eq!(kept(&world), 3, "a pool's status makes no VIP");
    world.edit(7, 0, true);
    assert_eq!(kept(&world), 0, "a node was cordoned");
    // It shares what was judged with the one before, which is alike and was taken over.
    world.edit(0, 2, false);
    let now = world.desired(&mut memory);
    let [a, b] = [1, 2].map(|n| &now[&address(n)].ineligible);
    assert!(Arc::ptr_eq(a, b));
}

proptest! {
    #[test]
    fn what_is_remembered_changes_nothing(
        edits in prop::collection::vec((0..18_u8, 0..12_u8, any::<bool>()), 1..40),
    ) {
        let (mut world, mut memory) = (World::new(), Memory::default());
        for (what, n, is_on) in edits {
            world.edit(what, n, is_on);
            prop_assert_eq!(world.desired(&mut memory), world.desired(&mut Memory::default()));
        }
    }
}
