//! The receive window of a connection: how many bytes a client may have under way that the broker has not read. Little at first:
//! whoever has a certificate, but no right to anything, must not fill memory with data that no stream is there to read, or that
//! lacks its first byte. It grows with what the connection's streams are granted, so it never stops a client that keeps to its
//! credit. How a transport holds its peer to it is the transport's business.

use std::sync::Mutex;

use tidegate_wire::stream::Connection;

use crate::locks::lock;

/// A hello, and a first message for each of hundreds of streams.
pub(in crate::net) const FIRST_WINDOW_BYTES: usize = 64 * 1024;

/// The window of one connection.
#[derive(Debug)]
pub(in crate::net) struct ReceiveWindow<C> {
    connection: C,
    bytes: Mutex<usize>,
}

/// What was added to the window. Taken away again when dropped; that takes effect as the client uses up what it was promised.
#[derive(Debug)]
pub(super) struct Widened<'a, C: Connection> {
    window: &'a ReceiveWindow<C>,
    bytes: usize,
}

impl<C: Connection> ReceiveWindow<C> {
    /// That of a connection that was accepted with [`FIRST_WINDOW_BYTES`].
    pub(in crate::net) fn new(connection: C) -> Self {
        Self {
            connection,
            bytes: Mutex::new(FIRST_WINDOW_BYTES),
        }
    }

    /// The connection that it is of.
    pub(super) fn connection(&self) -> &C {
        &self.connection
    }

    /// Lets the client have this many bytes more under way.
    pub(super) fn widen(&self, bytes: usize) -> Widened<'_, C> {
        self.change(|before| before.saturating_add(bytes));
        Widened {
            window: self,
            bytes,
        }
    }

    /// Has the other end answer, if only that it was heard: it is promised a byte more, which is taken from what it is promised next.
    pub(in crate::net) fn nudge(&self) {
        drop(self.widen(1));
    }

    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut bytes = lock(&self.bytes);
        *bytes = change(*bytes);
        self.connection.set_receive_window(*bytes);
    }
}

impl<C: Connection> Drop for Widened<'_, C> {
    fn drop(&mut self) {
        self.window
            .change(|before| before.saturating_sub(self.bytes));
    }
}
