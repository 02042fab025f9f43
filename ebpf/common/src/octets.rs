//! Headers out of plain octets, for everything that is not the kernel.

use core::ops::Deref;

use crate::headers::Header;
use crate::parse::Octets;

/// A header copied out of octets, in which it may lie unaligned.
pub struct Copied<T>(T);

impl<T> Deref for Copied<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl Octets for [u8] {
    type Seen<'a, T: Header + 'a> = Copied<T>;

    fn read<T: Header>(&self, offset: usize) -> Option<Copied<T>> {
        let octets = self.get(offset..)?.get(..size_of::<T>())?;
        // SAFETY: as many octets as the header has; of a header any bits are valid.
        Some(Copied(unsafe { octets.as_ptr().cast::<T>().read_unaligned() }))
    }
}
