//! An API server in memory.

use std::collections::BTreeMap;

use herald_leader_election::lease::{Answer, Object, ObjectKey, Version, Write};

/// Like the API server as far as this protocol goes.
#[derive(Default)]
pub struct FakeApiServer {
    pub objects: BTreeMap<ObjectKey, (Object, Version)>,
    pub writes: u64,
    pub down: bool,
}

impl FakeApiServer {
    pub fn write(&mut self, write: &Write) -> Answer {
        if self.down {
            return Answer::Unknown;
        }
        let present = self.objects.get(&write.key).map(|(_, version)| version);
        if present != write.expected.as_ref() {
            return Answer::Conflict;
        }
        self.writes += 1;
        let version = Version(self.writes.to_string().into());
        self.objects.insert(write.key.clone(), (write.object.clone(), version.clone()));
        Answer::Written(version)
    }
}
