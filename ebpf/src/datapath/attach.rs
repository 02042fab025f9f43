//! Attaching the programs to an interface by pinned links: an earlier process's link is given the
//! new program, without a packet in between; otherwise a new link is made.

use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{LinkOrder, ProgramError, TcAttachType};

use super::{Datapath, EGRESS, Mode, XDP};
use crate::{Error, pins};

impl Datapath {
    pub(super) fn attach_xdp(&mut self, interface: &str, mode: Mode) -> Result<(), Error> {
        let failed = |source: ProgramError| Error::Attach {
            name: XDP,
            interface: interface.into(),
            source: Box::new(source),
        };
        let pin = pins::link(&self.pins, &format!("xdp-{}", mode.label()), interface);
        let program = self.programs.xdp()?;
        if let Some(link) = adopt(&pin).and_then(|link| XdpLink::try_from(link).ok()) {
            // A link whose interface is gone refuses (ENOLINK): then a new one is made.
            if let Ok(id) = program.attach_to_link(link) {
                // The pin keeps the link; ours may go.
                return program.take_link(id).map(drop).map_err(failed);
            }
        }
        unpin(&pin);
        let flags = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let id = program.attach(interface, flags).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        persist(FdLink::try_from(link), pin)
    }

    pub(super) fn attach_egress(&mut self, interface: &str) -> Result<(), Error> {
        let failed = |source: ProgramError| Error::Attach {
            name: EGRESS,
            interface: interface.into(),
            source: Box::new(source),
        };
        let pin = pins::link(&self.pins, "egress", interface);
        let program = self.programs.egress()?;
        if let Some(link) = adopt(&pin).and_then(|link| link.try_into().ok())
            && let Ok(id) = program.attach_to_link(link)
        {
            return program.take_link(id).map(drop).map_err(failed);
        }
        unpin(&pin);
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id =
            program.attach_with_options(interface, TcAttachType::Egress, order).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        persist(FdLink::try_from(link), pin)
    }
}

fn adopt(pin: &Path) -> Option<FdLink> {
    PinnedLink::from_pin(pin).ok().map(FdLink::from)
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
