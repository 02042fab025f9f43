//! One connection between two speakers, sealed with the shared key, or in plain text without one.
//!
//! Sealed, it is the Noise Protocol Framework (revision 34) with the pattern `NNpsk0`, over
//! X25519, ChaCha20-Poly1305 and BLAKE2s. NN, because speakers have no keys of their own, only the
//! one they share; psk0, because the *first* message is then authenticated by it (section 9.2: the
//! key is mixed in before anything, and so is the ephemeral key), so that a stranger is refused
//! for the price of a hash and one decryption, before any answer or elliptic curve. Ephemeral keys
//! give forward secrecy. A replayed first message gets an answer that its sender cannot use;
//! therefore nothing may be taken from a caller before its first sealed message has been opened.
//! Within a connection the nonce counts messages (section 5.1), so nothing can be replayed, left
//! out or exchanged.
//!
//! On the wire a sealed message is a 16-bit length and that many bytes (Noise's largest is 65535,
//! section 3). A frame is one or more of them, each starting with a byte that says whether more
//! follow. Memory grows only with what has been authenticated. Plain frames have a 32-bit length.

use std::io;

use snow::{Builder, HandshakeState, TransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::model::{MAX_NODE_NAME, NodeName};
use crate::raft::frame::{MAX_CLUSTER_NAME, MAX_FRAME};
use crate::raft::key::Key;
use crate::raft::sanity::Refusal;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// Both sides must mean the same protocol; mixed into the handshake (section 3, prologue).
const PROLOGUE: &[u8] = b"herald peers 1";
/// Largest message of Noise, section 3.
const MAX_SEALED: usize = 65_535;
/// Authentication tag, section 4.2.
const TAG: usize = 16;
/// Data in one sealed message: without the tag and the byte that says whether more follow.
const MAX_PART: usize = MAX_SEALED - TAG - 1;
/// First message of the handshake: an ephemeral public key and the tag of an empty payload.
const FIRST: usize = 32 + TAG;
/// Second message: the same, with the answering node's name.
const MAX_SECOND: usize = FIRST + MAX_NODE_NAME;
/// Largest first frame, a `Hello`: a tag and two names with their lengths.
pub(super) const MAX_HELLO: usize = 1 + 4 + MAX_CLUSTER_NAME + 4 + MAX_NODE_NAME;

const LAST: u8 = 0;
const MORE: u8 = 1;

/// Why nothing more is read from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The other side closed it, or the network did.
    Ended,
    /// It said something that is refused.
    Refused(Refusal),
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Ended
    }
}

fn refused(reason: Refusal) -> Broken {
    Broken::Refused(reason)
}

/// How frames are put on a connection.
pub(super) enum Channel {
    /// As they are.
    Plain,
    /// Encrypted and authenticated.
    Sealed(Box<TransportState>),
}

impl Channel {
    /// The caller's side. Ends up at a node that holds the key and says it is `expected`.
    pub(super) async fn call<S>(
        stream: &mut S,
        key: Option<&Key>,
        expected: &NodeName,
    ) -> Result<Self, Broken>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(key) = key else { return Ok(Self::Plain) };
        let mut handshake = begin(key, Builder::build_initiator)?;
        let mut sent = [0; FIRST];
        let length =
            handshake.write_message(&[], &mut sent).map_err(|_| refused(Refusal::Malformed))?;
        write_sealed(stream, &sent[..length]).await?;
        let mut answer = [0; MAX_SECOND];
        let answer = read_sealed(stream, &mut answer).await?;
        let mut name = [0; MAX_SECOND];
        let length =
            handshake.read_message(answer, &mut name).map_err(|_| refused(Refusal::WrongKey))?;
        if &name[..length] != expected.as_str().as_bytes() {
            return Err(refused(Refusal::WrongPeer));
        }
        sealed(handshake)
    }

    /// The called side. The caller is authenticated once its first frame has been received.
    pub(super) async fn answer<S>(
        stream: &mut S,
        key: Option<&Key>,
        me: &NodeName,
    ) -> Result<Self, Broken>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(key) = key else { return Ok(Self::Plain) };
        let mut first = [0; FIRST];
        let first = read_sealed(stream, &mut first).await?;
        if first.len() != FIRST {
            return Err(refused(Refusal::Malformed));
        }
        let mut handshake = begin(key, Builder::build_responder)?;
        handshake.read_message(first, &mut [0; FIRST]).map_err(|_| refused(Refusal::WrongKey))?;
        let mut answer = [0; MAX_SECOND];
        let length = handshake
            .write_message(me.as_str().as_bytes(), &mut answer)
            .map_err(|_| refused(Refusal::Malformed))?;
        write_sealed(stream, &answer[..length]).await?;
        sealed(handshake)
    }

    /// Puts one frame on the connection.
    pub(super) async fn send(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        frame: &[u8],
    ) -> Result<(), Broken> {
        let bytes = match self {
            Self::Plain => {
                let length = u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes();
                [&length, frame].concat()
            }
            Self::Sealed(state) => seal(state, frame)?,
        };
        Ok(to.write_all(&bytes).await?)
    }

    /// Takes one frame of at most `most` bytes off the connection.
    pub(super) async fn receive(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> Result<Vec<u8>, Broken> {
        match self {
            Self::Plain => {
                let length = usize::try_from(from.read_u32().await?).unwrap_or(usize::MAX);
                if length > most.min(MAX_FRAME) {
                    return Err(refused(Refusal::Oversized));
                }
                let mut frame = vec![0; length];
                from.read_exact(&mut frame).await?;
                Ok(frame)
            }
            Self::Sealed(state) => receive_sealed(state, from, most).await,
        }
    }
}

fn begin<'a>(
    key: &'a Key,
    build: impl FnOnce(Builder<'a>) -> Result<HandshakeState, snow::Error>,
) -> Result<HandshakeState, Broken> {
    // None of these depends on what the other side says; a test goes through all of them.
    let made = PATTERN.parse().and_then(|pattern| {
        build(Builder::new(pattern).prologue(PROLOGUE)?.psk(0, key.as_bytes())?)
    });
    made.map_err(|_| refused(Refusal::Malformed))
}

fn sealed(handshake: HandshakeState) -> Result<Channel, Broken> {
    let state = handshake.into_transport_mode().map_err(|_| refused(Refusal::Malformed))?;
    Ok(Channel::Sealed(Box::new(state)))
}

fn seal(state: &mut TransportState, frame: &[u8]) -> Result<Vec<u8>, Broken> {
    let parts = frame.len().div_ceil(MAX_PART).max(1);
    let mut bytes = Vec::with_capacity(frame.len() + parts * (2 + TAG + 1));
    let mut part = Vec::with_capacity(frame.len().min(MAX_PART) + 1);
    for number in 0..parts {
        let start = number * MAX_PART;
        let data = &frame[start..frame.len().min(start + MAX_PART)];
        part.clear();
        part.push(if number + 1 == parts { LAST } else { MORE });
        part.extend_from_slice(data);
        let length = part.len() + TAG;
        bytes.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        let at = bytes.len();
        bytes.resize(at + length, 0);
        // Fails only once 2^64 messages have been sent.
        state.write_message(&part, &mut bytes[at..]).map_err(|_| Broken::Ended)?;
    }
    Ok(bytes)
}

async fn receive_sealed(
    state: &mut TransportState,
    from: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> Result<Vec<u8>, Broken> {
    let limit = (most + 1 + TAG).min(MAX_SEALED);
    let (mut whole, mut sealed, mut part) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let length = usize::from(from.read_u16().await?);
        if length > limit {
            return Err(refused(Refusal::Oversized));
        }
        // At most 64 KiB, and no more than a `Hello` from a caller not yet authenticated.
        sealed.resize(length, 0);
        part.resize(length, 0);
        from.read_exact(&mut sealed).await?;
        let opened =
            state.read_message(&sealed, &mut part).map_err(|_| refused(Refusal::Unauthentic))?;
        let Some((&mark, data)) = part[..opened].split_first() else {
            return Err(refused(Refusal::Malformed));
        };
        if whole.len() + data.len() > most {
            return Err(refused(Refusal::Oversized));
        }
        whole.extend_from_slice(data);
        match mark {
            LAST => return Ok(whole),
            MORE if !data.is_empty() => {}
            _ => return Err(refused(Refusal::Malformed)),
        }
    }
}

async fn write_sealed(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> Result<(), Broken> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
    Ok(to.write_all(&[&length, message].concat()).await?)
}

/// Reads one message of the handshake into `room`, which bounds it.
async fn read_sealed<'a>(
    from: &mut (impl AsyncRead + Unpin),
    room: &'a mut [u8],
) -> Result<&'a [u8], Broken> {
    let length = usize::from(from.read_u16().await?);
    let room = room.get_mut(..length).ok_or(refused(Refusal::Oversized))?;
    from.read_exact(room).await?;
    Ok(room)
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_bytes([byte; 32])
    }

    async fn meet(
        caller: u8,
        called: u8,
        expected: &str,
    ) -> (Result<Channel, Broken>, Result<Channel, Broken>) {
        let (mut near, mut far) = duplex(4096);
        let (caller, called) = (key(caller), key(called));
        let (expected, me) = (NodeName::from(expected), NodeName::from("b"));
        let answering = async {
            let answered = Channel::answer(&mut far, Some(&called), &me).await;
            drop(far);
            answered
        };
        tokio::join!(Channel::call(&mut near, Some(&caller), &expected), answering)
    }

    async fn pair() -> (Channel, Channel) {
        let (caller, called) = meet(1, 1, "b").await;
        (caller.ok().unwrap(), called.ok().unwrap())
    }

    fn wire() -> (DuplexStream, DuplexStream) {
        duplex(4 * MAX_FRAME)
    }

    #[tokio::test]
    async fn frames_of_any_size_arrive_whole() {
        let (mut caller, mut called) = pair().await;
        let (mut near, mut far) = wire();
        for size in [0, 1, MAX_PART, MAX_PART + 1, 3 * MAX_PART, MAX_FRAME] {
            let frame: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
            caller.send(&mut near, &frame).await.unwrap();
            assert_eq!(called.receive(&mut far, MAX_FRAME).await, Ok(frame));
        }
    }

    #[tokio::test]
    async fn another_key_is_refused_by_the_first_message() {
        let (caller, called) = meet(1, 2, "b").await;
        assert_eq!(called.err(), Some(refused(Refusal::WrongKey)));
        assert_eq!(caller.err(), Some(Broken::Ended));
    }

    #[tokio::test]
    async fn a_caller_that_reached_another_node_says_nothing() {
        let (caller, _) = meet(1, 1, "c").await;
        assert_eq!(caller.err(), Some(refused(Refusal::WrongPeer)));
    }

    #[tokio::test]
    async fn nothing_can_be_replayed_changed_or_left_out() {
        for tamper in 0..3 {
            let (mut caller, mut called) = pair().await;
            let Channel::Sealed(state) = &mut caller else { unreachable!() };
            let one = seal(state, b"one").unwrap();
            let two = seal(state, b"two").unwrap();
            let mut changed = two.clone();
            *changed.last_mut().unwrap() ^= 1;
            let said = [[&one[..], &one[..]], [&one, &changed], [&two, &one]][tamper].concat();
            let (mut near, mut far) = wire();
            near.write_all(&said).await.unwrap();
            if tamper < 2 {
                assert_eq!(called.receive(&mut far, MAX_FRAME).await, Ok(b"one".to_vec()));
            }
            let read = called.receive(&mut far, MAX_FRAME).await;
            assert_eq!(read, Err(refused(Refusal::Unauthentic)));
        }
    }

    #[tokio::test]
    async fn more_than_allowed_is_refused_by_its_length() {
        let (mut caller, mut called) = pair().await;
        let (mut near, mut far) = wire();
        caller.send(&mut near, &[0; MAX_HELLO + 1]).await.unwrap();
        let read = called.receive(&mut far, MAX_HELLO).await;
        assert_eq!(read, Err(refused(Refusal::Oversized)));
        let (mut near, mut far) = wire();
        near.write_u32(u32::MAX).await.unwrap();
        let read = Channel::Plain.receive(&mut far, MAX_FRAME).await;
        assert_eq!(read, Err(refused(Refusal::Oversized)));
    }

    #[tokio::test]
    async fn a_frame_of_too_many_parts_is_refused() {
        let (mut caller, mut called) = pair().await;
        let (mut near, mut far) = wire();
        caller.send(&mut near, &vec![0; MAX_FRAME + 1]).await.unwrap();
        let read = called.receive(&mut far, MAX_FRAME).await;
        assert_eq!(read, Err(refused(Refusal::Oversized)));
    }

    #[tokio::test]
    async fn a_recorded_first_message_leads_nowhere() {
        let (mut near, mut far) = duplex(4096);
        let mut recorded = [0; FIRST];
        let key = key(1);
        let mut handshake = begin(&key, Builder::build_initiator).unwrap();
        handshake.write_message(&[], &mut recorded).unwrap();
        write_sealed(&mut near, &recorded).await.unwrap();
        // The called node answers, as it must; what it hears next is no frame of this handshake.
        let mut called = Channel::answer(&mut far, Some(&key), &"b".into()).await.unwrap();
        write_sealed(&mut near, &[0; 40]).await.unwrap();
        let read = called.receive(&mut far, MAX_HELLO).await;
        assert_eq!(read, Err(refused(Refusal::Unauthentic)));
    }
}
