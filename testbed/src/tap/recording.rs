//! What goes through one port while a thread of its own listens (edge).

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::{Direction, PacketSocket};
use crate::clock;
use crate::stop::{Flag, Stop};

/// What was sent before a recording is stopped is in its queue after this.
const ON_THEIR_WAY: Duration = Duration::from_millis(20);

/// A running recording of frames, each taken into a `T`.
#[derive(Debug)]
pub(crate) struct Recording<T> {
    stop: Stop,
    thread: JoinHandle<io::Result<(T, u32)>>,
}

impl<T: Default + Send + 'static> Recording<T> {
    /// Starts to listen; the frames are cut.
    pub(crate) fn start(
        socket: PacketSocket,
        take: impl FnMut(&mut T, &[u8], Direction) + Send + 'static,
    ) -> Self {
        let stop = Stop::default();
        let flag = stop.flag();
        let thread = std::thread::spawn(move || listen(&socket, take, &flag));
        Self { stop, thread }
    }

    /// Stops and returns what was taken, and how many frames the kernel had to drop because they
    /// were read too slowly.
    ///
    /// # Errors
    ///
    /// If the socket failed.
    pub(crate) fn finish(self) -> anyhow::Result<(T, u32)> {
        clock::pause(ON_THEIR_WAY);
        drop(self.stop);
        let ended = self.thread.join().map_err(|_| anyhow!("the listener crashed"))?;
        ended.context("cannot listen on")
    }
}

fn listen<T: Default>(
    socket: &PacketSocket,
    mut take: impl FnMut(&mut T, &[u8], Direction),
    stop: &Flag,
) -> io::Result<(T, u32)> {
    let (mut taken, mut buffer) = (T::default(), [0; 512]);
    loop {
        let is_stopped = stop.is_set();
        match socket.receive_for(&mut buffer, is_stopped)? {
            Some((frame, true)) => take(&mut taken, frame, Direction::ToHost),
            Some((frame, false)) => take(&mut taken, frame, Direction::FromHost),
            None if is_stopped => break,
            None => {}
        }
    }
    Ok((taken, socket.missed()?))
}
