//! Bytes to values and back, with every length bounded.
//!
//! Integers are big-endian, strings and byte strings carry a 32-bit length. A reader must never
//! panic, never allocate more than its input is long, and never accept bytes left over. The
//! protobuf parser that raft brings along never sees a byte from the network or the disk. Used by
//! [`super::command`], [`super::frame`], [`super::machine`] and [`super::wal`].

use std::net::IpAddr;

use thiserror::Error;

use crate::model::{ClaimKey, MAX_NODE_NAME, NodeName};

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The input ends in the middle of a value.
    #[error("ends within a value")]
    Truncated,
    /// The input goes on after its last value.
    #[error("goes on after its last value")]
    Trailing,
    /// A length or count above what is allowed there.
    #[error("longer than allowed")]
    TooLong,
    /// A tag that names nothing.
    #[error("unknown tag")]
    BadTag,
    /// Text that is not UTF-8, or a name that is empty.
    #[error("not a valid name or text")]
    BadText,
    /// A value that cannot be.
    #[error("impossible value")]
    Impossible,
}

/// Appends values to a byte string.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn flag(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A count or length. Whatever is written is bounded far below 2^32, so it always fits.
    pub(crate) fn count(&mut self, value: usize) -> &mut Self {
        self.u32(u32::try_from(value).unwrap_or(u32::MAX))
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.count(value.len());
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn text(&mut self, value: &str) -> &mut Self {
        self.bytes(value.as_bytes())
    }

    pub(crate) fn node(&mut self, value: &NodeName) -> &mut Self {
        self.text(value.as_str())
    }

    pub(crate) fn key(&mut self, value: &ClaimKey) -> &mut Self {
        match value {
            ClaimKey::Allocator => self.u8(0),
            ClaimKey::Vip(IpAddr::V4(ip)) => {
                self.u8(4);
                self.0.extend_from_slice(&ip.octets());
                self
            }
            ClaimKey::Vip(IpAddr::V6(ip)) => {
                self.u8(6);
                self.0.extend_from_slice(&ip.octets());
                self
            }
        }
    }
}

/// Takes values off the front of a byte string.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Ends reading.
    ///
    /// # Errors
    /// If anything is left.
    pub(crate) fn finish(self) -> Result<(), CodecError> {
        if self.0.is_empty() { Ok(()) } else { Err(CodecError::Trailing) }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(CodecError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(CodecError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn flag(&mut self) -> Result<bool, CodecError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::BadTag),
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A count of things, at most `most`. Callers grow their collections as they read, so a lying
    /// count costs nothing.
    pub(crate) fn count(&mut self, most: usize) -> Result<usize, CodecError> {
        let count = usize::try_from(self.u32()?).map_err(|_| CodecError::TooLong)?;
        if count > most { Err(CodecError::TooLong) } else { Ok(count) }
    }

    pub(crate) fn bytes(&mut self, most: usize) -> Result<&'a [u8], CodecError> {
        let count = self.count(most)?;
        self.take(count)
    }

    pub(crate) fn text(&mut self, most: usize) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.bytes(most)?).map_err(|_| CodecError::BadText)
    }

    pub(crate) fn node(&mut self) -> Result<NodeName, CodecError> {
        let name = self.text(MAX_NODE_NAME)?;
        if name.is_empty() { Err(CodecError::BadText) } else { Ok(NodeName::from(name)) }
    }

    pub(crate) fn key(&mut self) -> Result<ClaimKey, CodecError> {
        match self.u8()? {
            0 => Ok(ClaimKey::Allocator),
            4 => Ok(ClaimKey::Vip(IpAddr::from(self.array::<4>()?))),
            6 => Ok(ClaimKey::Vip(IpAddr::from(self.array::<16>()?))),
            _ => Err(CodecError::BadTag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_was_written() {
        let key = ClaimKey::Vip("fd00::1".parse().unwrap());
        let mut writer = Writer::default();
        writer.u8(7).flag(true).u32(8).u64(9).text("ab").key(&key).node(&NodeName::from("n"));
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8(), Ok(7));
        assert_eq!(reader.flag(), Ok(true));
        assert_eq!(reader.u32(), Ok(8));
        assert_eq!(reader.u64(), Ok(9));
        assert_eq!(reader.text(2), Ok("ab"));
        assert_eq!(reader.key(), Ok(key));
        assert_eq!(reader.node(), Ok(NodeName::from("n")));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_length_beyond_the_bound_or_the_input_is_refused() {
        assert_eq!(Reader::new(&[0, 0, 0, 3, 1, 2, 3]).bytes(2), Err(CodecError::TooLong));
        assert_eq!(Reader::new(&[0, 0, 0, 3, 1, 2]).bytes(3), Err(CodecError::Truncated));
    }

    #[test]
    fn an_empty_name_is_refused() {
        assert_eq!(Reader::new(&[0, 0, 0, 0]).node(), Err(CodecError::BadText));
    }
}
