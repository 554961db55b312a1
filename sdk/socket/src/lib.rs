//! The UDP socket under QUIC, for quinn on tokio. quinn's own one asks the kernel to tell when the socket can be read *and* when
//! it can be written, and the kernel says the latter each time a datagram has left the send buffer: an idle thread is woken for
//! every datagram that was sent, finds nothing to do, and competes with whoever the datagram was for. This one asks about
//! reading only, and about writing just while the send buffer is full. Nothing here knows what is in a datagram.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncTimer, AsyncUdpSocket, TokioRuntime, UdpPoller};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// tokio for quinn, with sockets that do not wake anybody for having sent. For [`quinn::Endpoint::new`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Runtime;

impl quinn::Runtime for Runtime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        socket.set_nonblocking(true)?;
        Ok(Arc::new(Socket {
            state: UdpSocketState::new((&socket).into())?,
            io: register(socket, Interest::READABLE)?,
        }))
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

#[derive(Debug)]
struct Socket {
    io: AsyncFd<UdpSocket>,
    state: UdpSocketState,
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritePoller {
            socket: self,
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.state.send(self.io.get_ref().into(), transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            let received = ready.try_io(|io| self.state.recv(io.get_ref().into(), buffers, meta));
            if let Ok(received) = received {
                return Poll::Ready(received);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

fn register(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: a `UdpSocket` owns its descriptor, always answers the same one, and closes it when it is dropped, which is with
    // the `AsyncFd` that owns it from here on.
    let registered = unsafe { AsyncFd::register_with_interest(socket, interest) };
    Ok(registered?)
}

/// Waits for room in the send buffer, for one task.
struct WritePoller {
    socket: Arc<Socket>,
    // A second handle of the socket, registered for writing while somebody waits.
    waiting: Option<AsyncFd<UdpSocket>>,
}

impl UdpPoller for WritePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let waiting = match self.waiting.take() {
            Some(waiting) => waiting,
            None => {
                let handle = self.socket.io.get_ref().try_clone()?;
                register(handle, Interest::WRITABLE)?
            }
        };
        // A new registration tells at once when there is room already, so none is missed between the failed send and now.
        let polled = waiting.poll_write_ready(cx).map_ok(drop);
        if polled.is_pending() {
            self.waiting = Some(waiting);
        }
        polled
    }
}

impl fmt::Debug for WritePoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritePoller")
            .field("is_waiting", &self.waiting.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::ErrorKind;

    use quinn::Runtime as _;

    use super::*;

    fn pair() -> (Arc<dyn AsyncUdpSocket>, Arc<dyn AsyncUdpSocket>) {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            Runtime.wrap_udp_socket(socket).expect("a socket")
        };
        (socket(), socket())
    }

    fn transmit(to: SocketAddr, contents: &[u8]) -> Transmit<'_> {
        Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size: None,
            src_ip: None,
        }
    }

    async fn receive(socket: &Arc<dyn AsyncUdpSocket>) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        let mut meta = [RecvMeta::default()];
        let received =
            poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
        assert_eq!(received.await.expect("received"), 1);
        buffer.truncate(meta[0].len);
        buffer
    }

    #[tokio::test]
    async fn what_is_sent_arrives() {
        let (one, two) = pair();
        let to = two.local_addr().expect("bound");
        let received = tokio::spawn(async move { receive(&two).await });
        one.try_send(&transmit(to, b"hello")).expect("sent");
        assert_eq!(received.await.expect("no panic"), b"hello");
    }

    #[tokio::test]
    async fn who_found_no_room_is_told_when_there_is() {
        let (one, two) = pair();
        let to = two.local_addr().expect("bound");
        let mut poller = one.clone().create_io_poller();
        for _ in 0..3 {
            poll_fn(|cx| poller.as_mut().poll_writable(cx))
                .await
                .expect("room");
            match one.try_send(&transmit(to, b"x")) {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        assert_eq!(receive(&two).await, b"x");
    }
}
