//! Attaching the programs to an interface by pinned links: an earlier process's link is given the
//! new program, without a packet in between; otherwise a new link is made.
//!
//! It must never take another's program off an interface. The kernel lets one XDP program and one
//! mode have an interface (net/core/dev.c, `dev_xdp_attach`), so that where there is another, ours
//! stays away, and says whose that is.

use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{LinkOrder, ProgramError, TcAttachType};

use super::{Attached, Datapath, EGRESS, Mode, Wanted, XDP, chain, occupant};
use crate::{Error, link, pins};

/// Why an interface is in generic mode that was so before this process.
const KEPT: &str = "as it was found: to try native would take the program off for a moment";

impl Datapath {
    /// Attaches both programs to an interface, or replaces those an earlier process left there.
    ///
    /// # Errors
    ///
    /// [`Error::Occupied`] if somebody else's program is there; [`Error::Attach`] if no wanted mode
    /// works, because the driver or the MTU does not allow it; [`Error::Pin`].
    pub fn attach(&mut self, interface: &str, wanted: Wanted) -> Result<Attached, Error> {
        let attached = match wanted {
            Wanted::Only(mode) => self.attach_only(interface, mode),
            Wanted::Auto => self.attach_best(interface),
        };
        // Second: where XDP may not be, nothing of ours should be even for a moment.
        let attached =
            attached.and_then(|attached| self.attach_egress(interface).map(|()| attached));
        if attached.is_err() {
            self.detach(interface);
        }
        attached
    }

    /// Tries for a better mode than generic, which takes the program off for a moment: worth it
    /// where something about the interface has changed.
    ///
    /// # Errors
    ///
    /// As [`Datapath::attach`].
    pub fn improve(&mut self, interface: &str) -> Result<Attached, Error> {
        self.release(interface, Mode::Generic);
        self.attach(interface, Wanted::Auto)
    }

    /// Detaches both programs from an interface; nothing happens if they are not attached.
    pub fn detach(&mut self, interface: &str) {
        self.release(interface, Mode::Native);
        self.release(interface, Mode::Generic);
        unpin(&pins::link(&self.pins, "egress", interface));
    }

    fn attach_only(&mut self, interface: &str, mode: Mode) -> Result<Attached, Error> {
        if !self.adopt_xdp(interface, mode)? {
            let other = match mode {
                Mode::Native => Mode::Generic,
                Mode::Generic => Mode::Native,
            };
            self.release(interface, other);
            self.attach_xdp(interface, mode)?;
        }
        Ok(Attached { mode, reason: None })
    }

    fn attach_best(&mut self, interface: &str) -> Result<Attached, Error> {
        if self.adopt_xdp(interface, Mode::Native)? {
            return Ok(Attached { mode: Mode::Native, reason: None });
        }
        if self.adopt_xdp(interface, Mode::Generic)? {
            return Ok(Attached { mode: Mode::Generic, reason: Some(KEPT.to_owned()) });
        }
        let refusal = match self.attach_xdp(interface, Mode::Native) {
            Ok(()) => return Ok(Attached { mode: Mode::Native, reason: None }),
            // No other mode goes beside another program either.
            Err(error @ Error::Occupied { .. }) => return Err(error),
            Err(error) => error,
        };
        match self.attach_xdp(interface, Mode::Generic) {
            Ok(()) => Ok(Attached { mode: Mode::Generic, reason: Some(chain(&refusal)) }),
            Err(_) => Err(refusal),
        }
    }

    /// Puts the program into a link of an earlier process; false if there is none.
    fn adopt_xdp(&mut self, interface: &str, mode: Mode) -> Result<bool, Error> {
        let pin = self.pin(interface, mode);
        let program = self.programs.xdp()?;
        for found in pins::of_all_formats(&pin) {
            let Some(link) = adopt(&found).and_then(|link| XdpLink::try_from(link).ok()) else {
                continue;
            };
            // A link whose interface is gone refuses (ENOLINK), and is of no use any more.
            let Ok(id) = program.attach_to_link(link) else {
                unpin(&found);
                continue;
            };
            let link = program.take_link(id).map_err(failed(XDP, interface))?;
            keep(link, &found, &pin)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Puts the program onto an interface that has none.
    fn attach_xdp(&mut self, interface: &str, mode: Mode) -> Result<(), Error> {
        let pin = self.pin(interface, mode);
        let program = self.programs.xdp()?;
        let flags = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let id =
            program.attach(interface, flags).map_err(|source| match occupant::of(interface) {
                Some(occupant) => Error::Occupied { interface: interface.into(), occupant },
                None => failed(XDP, interface)(source),
            })?;
        let link = program.take_link(id).map_err(failed(XDP, interface))?;
        persist(FdLink::try_from(link), pin)
    }

    fn attach_egress(&mut self, interface: &str) -> Result<(), Error> {
        let failed = failed(EGRESS, interface);
        let pin = pins::link(&self.pins, "egress", interface);
        let program = self.programs.egress()?;
        for found in pins::of_all_formats(&pin) {
            let Some(link) = adopt(&found).and_then(|link| link.try_into().ok()) else { continue };
            let Ok(id) = program.attach_to_link(link) else {
                unpin(&found);
                continue;
            };
            return keep(program.take_link(id).map_err(failed)?, &found, &pin);
        }
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id =
            program.attach_with_options(interface, TcAttachType::Egress, order).map_err(&failed)?;
        let link = program.take_link(id).map_err(failed)?;
        persist(FdLink::try_from(link), pin)
    }

    /// Takes our own program of a mode off an interface, at once, so that another mode can have it.
    fn release(&self, interface: &str, mode: Mode) {
        for pin in pins::of_all_formats(&self.pin(interface, mode)) {
            link::detach(&pin);
            unpin(&pin);
        }
    }

    fn pin(&self, interface: &str, mode: Mode) -> PathBuf {
        pins::link(&self.pins, &format!("xdp-{}", mode.label()), interface)
    }
}

fn failed(name: &'static str, interface: &str) -> impl Fn(ProgramError) -> Error {
    let interface = interface.to_owned();
    move |source| Error::Attach { name, interface: interface.clone(), source: Box::new(source) }
}

fn adopt(pin: &Path) -> Option<FdLink> {
    PinnedLink::from_pin(pin).ok().map(FdLink::from)
}

/// Keeps a link that was found pinned at one place pinned at another.
fn keep<L>(link: L, found: &Path, pin: &Path) -> Result<(), Error>
where
    L: TryInto<FdLink, Error: std::error::Error + Send + Sync + 'static>,
{
    if found == pin {
        // The pin keeps the link; ours may go.
        return Ok(());
    }
    persist(link.try_into(), pin.to_owned())?;
    unpin(found);
    Ok(())
}

/// Removes a pin; with its last reference gone, the link detaches.
pub(super) fn unpin(pin: &Path) {
    if let Err(error) = std::fs::remove_file(pin)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(pin = %pin.display(), %error, "cannot remove a pin");
    }
}

fn persist<E>(link: Result<FdLink, E>, pin: PathBuf) -> Result<(), Error>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let link = link.map_err(|source| Error::Pin { path: pin.clone(), source: Box::new(source) })?;
    link.pin(&pin).map(drop).map_err(|source| Error::Pin { path: pin, source: Box::new(source) })
}
