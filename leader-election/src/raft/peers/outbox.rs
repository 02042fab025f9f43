//! Frames that wait to be sent to one peer: bounded, the oldest dropped first.
//!
//! Raft copes with loss; it must never wait here, and old news is worth less than new.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::raft::frame::MAX_FRAME;

/// Frames that wait for one peer.
const QUEUE: usize = 256;
/// Bytes that wait for one peer.
const QUEUE_SIZE: usize = 4 * MAX_FRAME;

/// Frames that wait to be sent to one peer.
#[derive(Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Arc<[u8]>>,
    size: usize,
}

impl Outbox {
    pub(super) fn push(&self, frame: Arc<[u8]>) {
        let mut queue = self.lock();
        queue.size += frame.len();
        queue.frames.push_back(frame);
        while queue.frames.len() > QUEUE || queue.size > QUEUE_SIZE {
            queue.size -= queue.frames.pop_front().map_or(0, |oldest| oldest.len());
        }
        drop(queue);
        self.filled.notify_one();
    }

    pub(super) async fn pop(&self) -> Arc<[u8]> {
        loop {
            if let Some(frame) = self.try_pop() {
                return frame;
            }
            self.filled.notified().await;
        }
    }

    fn try_pop(&self) -> Option<Arc<[u8]>> {
        let mut queue = self.lock();
        let frame = queue.frames.pop_front()?;
        queue.size -= frame.len();
        Some(frame)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().frames.is_empty()
    }

    pub(super) fn clear(&self) {
        *self.lock() = Queue::default();
    }

    /// The queue is whole whenever the lock is free, also after a panic.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(byte: u8, length: usize) -> Arc<[u8]> {
        vec![byte; length].into()
    }

    #[test]
    fn a_full_queue_drops_its_oldest() {
        let outbox = Outbox::default();
        for n in 0..=u8::MAX {
            outbox.push(frame(n, 1));
        }
        outbox.push(frame(7, 1));
        assert_eq!(outbox.try_pop(), Some(frame(1, 1)));
        for _ in 0..5 {
            outbox.push(frame(9, MAX_FRAME));
        }
        assert!(outbox.lock().size <= QUEUE_SIZE);
        assert_eq!(outbox.try_pop(), Some(frame(9, MAX_FRAME)));
    }
}
