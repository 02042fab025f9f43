//! The maps `SERVICES` and `SERVICES4` as one: the latter has the IPv4 VIPs under a short key.

use aya::maps::{HashMap, MapData};
use herald_ebpf_common::{ServiceKey, ServiceKey4, ServiceTable};

use super::{entries, failed, remove};
use crate::Error;

const V6: &str = "SERVICES";
const V4: &str = "SERVICES4";

pub(super) struct Services {
    v6: HashMap<MapData, ServiceKey, ServiceTable>,
    v4: HashMap<MapData, ServiceKey4, ServiceTable>,
}

impl Services {
    pub(super) const fn new(
        v6: HashMap<MapData, ServiceKey, ServiceTable>,
        v4: HashMap<MapData, ServiceKey4, ServiceTable>,
    ) -> Self {
        Self { v6, v4 }
    }

    pub(super) fn entries(&self) -> Result<Vec<(ServiceKey, ServiceTable)>, Error> {
        let mut all = entries(V6, &self.v6)?;
        all.extend(entries(V4, &self.v4)?.into_iter().map(|(key, table)| (key.long(), table)));
        Ok(all)
    }

    pub(super) fn insert(&mut self, key: &ServiceKey, table: &ServiceTable) -> Result<(), Error> {
        match key.short() {
            Some(short) => self.v4.insert(short, table, 0).map_err(failed("write", V4)),
            None => self.v6.insert(key, table, 0).map_err(failed("write", V6)),
        }
    }

    pub(super) fn remove(&mut self, key: &ServiceKey) -> Result<(), Error> {
        match key.short() {
            Some(short) => remove(V4, &mut self.v4, &short),
            None => remove(V6, &mut self.v6, key),
        }
    }
}
