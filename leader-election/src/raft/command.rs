//! The commands of the replicated state machine: what a log entry says.
//!
//! A command describes a wish with the exact state it presumes; whether it takes effect is decided
//! where it is applied ([`super::machine`]), the same on every node. Duplicates and stale copies
//! are harmless by construction. Renewals are never commands: the steady state writes nothing.

use std::sync::Arc;

use super::codec::{CodecError, Reader, Writer};
use crate::model::{ClaimKey, Guard, MAX_FACTS, MAX_RECORD_KEY, MAX_RECORD_VALUE, NodeName};

/// What becomes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It takes part without a vote.
    Learn,
    /// It votes.
    Vote,
    /// It votes no more, and goes on taking part.
    Demote,
    /// It takes no part any more; its id is never used again.
    Remove,
}

impl Change {
    const ALL: [Self; 4] = [Self::Learn, Self::Vote, Self::Demote, Self::Remove];
}

/// First byte of a [`Command::Member`].
const MEMBER: u8 = 14;

/// Whether these are the bytes of a [`Command::Member`], which the raft library must count.
pub(crate) fn changes_members(bytes: &[u8]) -> bool {
    bytes.first() == Some(&MEMBER)
}

/// One wish, as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// First command of every raft leader: names the only node that may have granted anything
    /// since.
    Lead {
        /// The leader.
        node: NodeName,
    },
    /// Opens the session of a node; claims of its older open session move along.
    OpenSession {
        /// Whose session.
        node: NodeName,
        /// Must be higher than that of any earlier session of the node.
        epoch: u64,
        /// What the node publishes.
        facts: Arc<[u8]>,
    },
    /// Ends the session of a node that was silent for a ttl. Only leaders say so.
    Revoke {
        /// Whose session.
        node: NodeName,
        /// Which one.
        epoch: u64,
    },
    /// Ends a session in peace.
    CloseSession {
        /// Whose session.
        node: NodeName,
        /// Which one.
        epoch: u64,
    },
    /// Releases all claims of a node, and gives it nothing as long as this session lasts.
    Drain {
        /// Whose session.
        node: NodeName,
        /// Which one.
        epoch: u64,
    },
    /// Publishes other facts with a session.
    SetFacts {
        /// Whose session.
        node: NodeName,
        /// Which one.
        epoch: u64,
        /// What the node publishes from now on.
        facts: Arc<[u8]>,
    },
    /// Gives a key without a living holder to a session. Only leaders say so.
    Claim {
        /// What is claimed.
        key: ClaimKey,
        /// The session's node.
        node: NodeName,
        /// The session's epoch.
        epoch: u64,
        /// The claim's new term: one more than its present one.
        term: u64,
    },
    /// Gives a claim up.
    Release {
        /// What is released.
        key: ClaimKey,
        /// The session's node.
        node: NodeName,
        /// The session's epoch.
        epoch: u64,
        /// The term in which it was held.
        term: u64,
    },
    /// Gives a claim up and names who has it next, in one step: the key is nobody's at no time. If
    /// that session is gone by then, the claim is released. Only leaders say so, for the holder.
    HandOver {
        /// What is handed over.
        key: ClaimKey,
        /// The present holder's node.
        node: NodeName,
        /// The present holder's epoch.
        epoch: u64,
        /// The term in which it holds the key; the next holder's is one more.
        term: u64,
        /// The next holder's node.
        to: NodeName,
        /// The next holder's epoch.
        to_epoch: u64,
    },
    /// Asks the holder of a claim to hand it over to another node.
    Move {
        /// What is to move.
        key: ClaimKey,
        /// Where to.
        to: NodeName,
        /// The term of the claim when this was asked.
        term: u64,
        /// The node that passes the wish on.
        by: NodeName,
    },
    /// Withdraws a [`Command::Move`]. Only leaders say so.
    CancelMove {
        /// What was to move.
        key: ClaimKey,
        /// The term of the claim when it was asked.
        term: u64,
    },
    /// Says that a node should hold nothing, or may again; outlasts its sessions.
    SetDrained {
        /// The node.
        node: NodeName,
        /// Whether it should hold nothing.
        drained: bool,
        /// The node that passes the wish on.
        by: NodeName,
    },
    /// Changes who takes part in raft. Only leaders say so; at most one voter comes or goes with
    /// each.
    Member {
        /// Raft id of a node with its state directory; a lost directory means another id.
        id: u64,
        /// The node.
        node: NodeName,
        /// What becomes of it.
        change: Change,
    },
    /// Writes or removes a record, as long as the writer holds the guard's claim.
    Put {
        /// The record's name.
        name: String,
        /// Its new value; `None` removes it.
        value: Option<Vec<u8>>,
        /// What the writer must hold.
        guard: Guard,
        /// The writer's node.
        node: NodeName,
        /// The writer's epoch.
        epoch: u64,
    },
}

impl Command {
    /// The node that may ask for this, if it is one that others than the leader ask for.
    pub(crate) fn proposer(&self) -> Option<&NodeName> {
        match self {
            Self::Lead { .. }
            | Self::Revoke { .. }
            | Self::Claim { .. }
            | Self::HandOver { .. }
            | Self::CancelMove { .. }
            | Self::Member { .. } => None,
            Self::Move { by, .. } | Self::SetDrained { by, .. } => Some(by),
            Self::OpenSession { node, .. }
            | Self::CloseSession { node, .. }
            | Self::Drain { node, .. }
            | Self::SetFacts { node, .. }
            | Self::Release { node, .. }
            | Self::Put { node, .. } => Some(node),
        }
    }

    /// The command as bytes of a log entry.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.write(&mut writer);
        writer.into_bytes()
    }

    /// The command in the bytes of a log entry.
    ///
    /// # Errors
    /// If the bytes are not exactly one command within bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let command = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(command)
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        match self {
            Self::Lead { node } => {
                to.u8(1).node(node);
            }
            Self::OpenSession { node, epoch, facts } => {
                to.u8(2).node(node).u64(*epoch).bytes(facts);
            }
            Self::Revoke { node, epoch } => {
                to.u8(3).node(node).u64(*epoch);
            }
            Self::CloseSession { node, epoch } => {
                to.u8(4).node(node).u64(*epoch);
            }
            Self::Drain { node, epoch } => {
                to.u8(5).node(node).u64(*epoch);
            }
            Self::SetFacts { node, epoch, facts } => {
                to.u8(6).node(node).u64(*epoch).bytes(facts);
            }
            Self::Claim { key, node, epoch, term } => {
                to.u8(7).key(key).node(node).u64(*epoch).u64(*term);
            }
            Self::Release { key, node, epoch, term } => {
                to.u8(8).key(key).node(node).u64(*epoch).u64(*term);
            }
            Self::Put { name, value, guard, node, epoch } => {
                to.u8(9).text(name).flag(value.is_some()).bytes(value.as_deref().unwrap_or(&[]));
                to.key(&guard.key).u64(guard.term).node(node).u64(*epoch);
            }
            Self::HandOver { key, node, epoch, term, to: next, to_epoch } => {
                to.u8(10).key(key).node(node).u64(*epoch).u64(*term).node(next).u64(*to_epoch);
            }
            Self::Move { key, to: next, term, by } => {
                to.u8(11).key(key).node(next).u64(*term).node(by);
            }
            Self::CancelMove { key, term } => {
                to.u8(12).key(key).u64(*term);
            }
            Self::SetDrained { node, drained, by } => {
                to.u8(13).node(node).flag(*drained).node(by);
            }
            Self::Member { id, node, change } => {
                let tag = Change::ALL.iter().position(|known| known == change);
                to.u8(MEMBER).u64(*id).node(node).count(tag.unwrap_or(Change::ALL.len()));
            }
        }
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(match from.u8()? {
            1 => Self::Lead { node: from.node()? },
            2 => Self::OpenSession {
                node: from.node()?,
                epoch: from.u64()?,
                facts: Arc::from(from.bytes(MAX_FACTS)?),
            },
            3 => Self::Revoke { node: from.node()?, epoch: from.u64()? },
            4 => Self::CloseSession { node: from.node()?, epoch: from.u64()? },
            5 => Self::Drain { node: from.node()?, epoch: from.u64()? },
            6 => Self::SetFacts {
                node: from.node()?,
                epoch: from.u64()?,
                facts: Arc::from(from.bytes(MAX_FACTS)?),
            },
            7 => Self::Claim {
                key: from.key()?,
                node: from.node()?,
                epoch: from.u64()?,
                term: from.u64()?,
            },
            8 => Self::Release {
                key: from.key()?,
                node: from.node()?,
                epoch: from.u64()?,
                term: from.u64()?,
            },
            9 => Self::read_put(from)?,
            10 => Self::HandOver {
                key: from.key()?,
                node: from.node()?,
                epoch: from.u64()?,
                term: from.u64()?,
                to: from.node()?,
                to_epoch: from.u64()?,
            },
            11 => Self::Move {
                key: from.key()?,
                to: from.node()?,
                term: from.u64()?,
                by: from.node()?,
            },
            12 => Self::CancelMove { key: from.key()?, term: from.u64()? },
            13 => Self::SetDrained { node: from.node()?, drained: from.flag()?, by: from.node()? },
            MEMBER => Self::Member {
                id: from.u64()?,
                node: from.node()?,
                change: *Change::ALL
                    .get(from.count(Change::ALL.len())?)
                    .ok_or(CodecError::BadTag)?,
            },
            _ => return Err(CodecError::BadTag),
        })
    }

    fn read_put(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let name = from.text(MAX_RECORD_KEY)?.to_owned();
        let present = from.flag()?;
        let bytes = from.bytes(MAX_RECORD_VALUE)?;
        if !present && !bytes.is_empty() {
            return Err(CodecError::Impossible);
        }
        Ok(Self::Put {
            name,
            value: present.then(|| bytes.to_vec()),
            guard: Guard { key: from.key()?, term: from.u64()? },
            node: from.node()?,
            epoch: from.u64()?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_key() -> impl Strategy<Value = ClaimKey> {
        prop_oneof![
            Just(ClaimKey::Allocator),
            any::<[u8; 4]>().prop_map(|ip| ClaimKey::Vip(ip.into())),
            any::<[u8; 16]>().prop_map(|ip| ClaimKey::Vip(ip.into())),
        ]
    }

    pub(crate) fn any_node() -> impl Strategy<Value = NodeName> {
        "[a-z][a-z0-9.-]{0,20}".prop_map(NodeName::from)
    }

    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..100)
    }

    pub(crate) fn any_command() -> impl Strategy<Value = Command> {
        let facts = || any_bytes().prop_map(Arc::from);
        let session = || (any_node(), any::<u64>());
        let claim = || (any_key(), any_node(), any::<u64>(), any::<u64>());
        prop_oneof![
            any_node().prop_map(|node| Command::Lead { node }),
            (session(), facts()).prop_map(|((node, epoch), facts)| Command::OpenSession {
                node,
                epoch,
                facts
            }),
            session().prop_map(|(node, epoch)| Command::Revoke { node, epoch }),
            session().prop_map(|(node, epoch)| Command::CloseSession { node, epoch }),
            session().prop_map(|(node, epoch)| Command::Drain { node, epoch }),
            (session(), facts()).prop_map(|((node, epoch), facts)| Command::SetFacts {
                node,
                epoch,
                facts
            }),
            claim().prop_map(|(key, node, epoch, term)| Command::Claim { key, node, epoch, term }),
            claim().prop_map(|(key, node, epoch, term)| Command::Release {
                key,
                node,
                epoch,
                term
            }),
            (claim(), any_node(), any::<u64>()).prop_map(
                |((key, node, epoch, term), to, to_epoch)| Command::HandOver {
                    key,
                    node,
                    epoch,
                    term,
                    to,
                    to_epoch
                }
            ),
            (claim(), any_node()).prop_map(|((key, to, _, term), by)| Command::Move {
                key,
                to,
                term,
                by
            }),
            (any_key(), any::<u64>()).prop_map(|(key, term)| Command::CancelMove { key, term }),
            (any_node(), any::<bool>(), any_node())
                .prop_map(|(node, drained, by)| Command::SetDrained { node, drained, by }),
            (any::<u64>(), any_node(), prop::sample::select(Change::ALL.to_vec()))
                .prop_map(|(id, node, change)| Command::Member { id, node, change }),
            ("[ -~]{0,40}", prop::option::of(any_bytes()), claim()).prop_map(
                |(name, value, (key, node, epoch, term))| {
                    Command::Put { name, value, guard: Guard { key, term }, node, epoch }
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(command in any_command()) {
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }

        #[test]
        fn a_part_of_a_command_is_none(command in any_command(), cut in any::<prop::sample::Index>()) {
            let bytes = command.encode();
            prop_assert!(Command::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }
}
