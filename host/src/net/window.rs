//! How much a connection may have sent that the broker has not read yet. Little at first: whoever has a certificate, but no
//! right to anything, must not fill memory with data that no stream is there to read, or that lacks its first byte. It grows with
//! what its streams are granted, so it never stops a client that keeps to its credit.

use std::sync::{Arc, Mutex, PoisonError};

use quinn::{Connection, VarInt};

/// A hello, and a first message for each of hundreds of streams.
pub(super) const FIRST_WINDOW_BYTES: usize = 64 * 1024;

/// The window of one connection.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    connection: Connection,
    bytes: Mutex<usize>,
}

/// What was added to the window. Taken away again when dropped; QUIC does that as the client uses up what it was promised.
#[derive(Debug)]
pub(super) struct Widened {
    window: Arc<ReceiveWindow>,
    bytes: usize,
}

impl ReceiveWindow {
    /// That of a connection that was accepted with [`FIRST_WINDOW_BYTES`].
    pub(super) fn new(connection: Connection) -> Arc<Self> {
        Arc::new(Self {
            connection,
            bytes: Mutex::new(FIRST_WINDOW_BYTES),
        })
    }

    /// Lets the client have this many bytes more under way.
    pub(super) fn widen(self: &Arc<Self>, bytes: usize) -> Widened {
        self.change(|before| before.saturating_add(bytes));
        Widened {
            window: self.clone(),
            bytes,
        }
    }

    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *bytes = change(*bytes);
        self.connection.set_receive_window(var_int(*bytes));
    }
}

impl Drop for Widened {
    fn drop(&mut self) {
        self.window
            .change(|before| before.saturating_sub(self.bytes));
    }
}

/// The largest number that QUIC can say stands for all above it.
pub(super) fn var_int(bytes: usize) -> VarInt {
    u64::try_from(bytes)
        .ok()
        .and_then(|bytes| VarInt::from_u64(bytes).ok())
        .unwrap_or(VarInt::MAX)
}
