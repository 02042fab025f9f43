//! Who has one address, and who of them keeps another Service from having it too.
//!
//! Thousands of Services may share one address. Whether one more may is asked of one Service of
//! each class (`share::Class`) and of the listeners in use, never of every holder.

use std::collections::{BTreeMap, BTreeSet};

use super::share::{self, Class};
use super::space::{Holder, KINDS, Obstacle};
use crate::observed::{Listener, PoolKind, Service, ServiceName};

/// The holders of an address.
#[derive(Default)]
pub(super) struct Held<'a> {
    holders: BTreeMap<&'a ServiceName, Holder<'a>>,
    /// Only where there are several: most addresses have one.
    index: Option<Box<Index<'a>>>,
}

#[derive(Default)]
struct Index<'a> {
    hidden: BTreeSet<&'a ServiceName>,
    /// By the rules of either kind.
    classes: [BTreeMap<Class<'a>, BTreeSet<&'a ServiceName>>; 2],
    listeners: BTreeMap<Listener, BTreeSet<&'a ServiceName>>,
}

impl<'a> Held<'a> {
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    pub fn add(&mut self, holder: Holder<'a>) {
        if let Some(before) = self.holders.insert(holder.name(), holder)
            && let Some(index) = &mut self.index
        {
            index.remove(before);
        }
        match &mut self.index {
            Some(index) => index.add(holder),
            None if self.holders.len() > 1 => {
                let mut index = Box::<Index<'_>>::default();
                self.holders.values().for_each(|holder| index.add(*holder));
                self.index = Some(index);
            }
            None => {}
        }
    }

    pub fn remove(&mut self, name: &ServiceName) -> Option<Holder<'a>> {
        let holder = self.holders.remove(name)?;
        if let Some(index) = &mut self.index {
            index.remove(holder);
        }
        Some(holder)
    }

    /// Who else keeps the Service from having the address.
    pub fn obstacle(&self, service: &Service, kind: PoolKind) -> Option<Obstacle<'a>> {
        let names = match &self.index {
            None => self.holders.keys().next().copied(),
            Some(index) => index.suspect(service, kind, &self.holders),
        };
        let holder = self.holders.get(names.filter(|name| **name != service.name)?)?;
        match *holder {
            Holder::Known(other) => {
                let why = share::obstacle(kind, service, other)?;
                let both = share::key(kind, service).is_some() && share::key(kind, other).is_some();
                Some(Obstacle { holder: &other.name, why: both.then_some(why) })
            }
            Holder::Hidden(name) => Some(Obstacle { holder: name, why: None }),
        }
    }

    /// Whether another holder keeps the address for itself alone, listens where the Service does or
    /// is on other nodes, or the Service wants it for itself alone.
    pub fn clashes(&self, service: &Service, kind: PoolKind) -> bool {
        let mut others = self.holders.values().filter(|holder| *holder.name() != service.name);
        if share::key(kind, service).is_none() {
            return others.next().is_some();
        }
        match &self.index {
            Some(index) => index.clashes(service, kind, &self.holders),
            None => others.any(|holder| match holder {
                Holder::Known(other) => {
                    share::key(kind, other).is_none()
                        || share::are_apart(kind, service, other)
                        || !service.ports_differ(other)
                }
                Holder::Hidden(_) => true,
            }),
        }
    }

    /// The Services that hold it, as far as they are known.
    pub fn known(&self) -> impl Iterator<Item = &'a Service> {
        self.holders.values().filter_map(|holder| match *holder {
            Holder::Known(service) => Some(service),
            Holder::Hidden(_) => None,
        })
    }

    /// Whether another Service than this one listens there.
    pub fn is_in_use(&self, listener: Listener, name: &ServiceName) -> bool {
        let is_other = |other: &ServiceName| other != name;
        match &self.index {
            Some(index) => {
                let users = index.listeners.get(&listener);
                users.is_some_and(|users| users.iter().any(|user| is_other(user)))
            }
            None => self.holders.values().any(|holder| match holder {
                Holder::Known(other) => is_other(&other.name) && other.listens_at(listener),
                Holder::Hidden(_) => false,
            }),
        }
    }
}

impl<'a> Index<'a> {
    fn add(&mut self, holder: Holder<'a>) {
        let service = match holder {
            Holder::Known(service) => service,
            Holder::Hidden(name) => {
                self.hidden.insert(name);
                return;
            }
        };
        for (classes, kind) in self.classes.iter_mut().zip(KINDS) {
            classes.entry(Class::of(kind, service)).or_default().insert(&service.name);
        }
        for listener in service.listeners() {
            self.listeners.entry(listener).or_default().insert(&service.name);
        }
    }

    fn remove(&mut self, holder: Holder<'a>) {
        let service = match holder {
            Holder::Known(service) => service,
            Holder::Hidden(name) => {
                self.hidden.remove(name);
                return;
            }
        };
        for (classes, kind) in self.classes.iter_mut().zip(KINDS) {
            let class = Class::of(kind, service);
            if let Some(names) = classes.get_mut(&class) {
                names.remove(&service.name);
                if names.is_empty() {
                    classes.remove(&class);
                }
            }
        }
        for listener in service.listeners() {
            if let Some(names) = self.listeners.get_mut(&listener) {
                names.remove(&service.name);
            }
        }
    }

    fn clashes(
        &self,
        service: &Service,
        kind: PoolKind,
        holders: &BTreeMap<&'a ServiceName, Holder<'a>>,
    ) -> bool {
        let other = |names: &BTreeSet<&'a ServiceName>| {
            names.iter().copied().find(|name| **name != service.name)
        };
        let at = KINDS.iter().position(|known| *known == kind).unwrap_or_default();
        let alone = self.classes[at].get(&Class::Alone).and_then(other);
        let is_apart = |name: &ServiceName| match holders.get(name) {
            Some(Holder::Known(one)) => share::are_apart(kind, service, one),
            _ => false,
        };
        let is_listening = |listener| self.listeners.get(&listener).and_then(other).is_some();
        other(&self.hidden).or(alone).is_some()
            || self.classes[at].values().filter_map(other).any(is_apart)
            || service.listeners().any(is_listening)
    }

    /// One who keeps the Service from having the address, if anybody does. (If somebody is named
    /// who does not, nobody does.)
    fn suspect(
        &self,
        service: &Service,
        kind: PoolKind,
        holders: &BTreeMap<&'a ServiceName, Holder<'a>>,
    ) -> Option<&'a ServiceName> {
        let other = |names: &BTreeSet<&'a ServiceName>| {
            names.iter().copied().find(|name| **name != service.name)
        };
        if let Some(hidden) = other(&self.hidden) {
            return Some(hidden);
        }
        let at = KINDS.iter().position(|known| *known == kind).unwrap_or_default();
        let mut of_classes = self.classes[at].values().filter_map(other);
        let is_incompatible = |name: &&ServiceName| match holders.get(*name) {
            Some(Holder::Known(one)) => share::obstacle(kind, service, one).is_some(),
            _ => false,
        };
        let incompatible = of_classes.find(is_incompatible);
        incompatible
            .or_else(|| service.listeners().find_map(|it| self.listeners.get(&it).and_then(other)))
    }
}
