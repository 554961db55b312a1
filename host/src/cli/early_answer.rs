//! A connection on which the answer is still read after sending has failed: who refuses a request early may close before all of
//! it is there, and its answer says more than the broken connection. Lies below TLS, which would send again before it reads.

use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, RustlsConnector, TcpConnector, Transport,
};

/// What opens connections of this kind, plain and TLS. Proxies are not for it.
pub(super) fn connector() -> impl Connector {
    TcpConnector::default()
        .chain(HearOut)
        .chain(RustlsConnector::default())
}

#[derive(Debug)]
struct HearOut;

impl<In: Transport> Connector<In> for HearOut {
    type Out = Hearing<In>;

    fn connect(
        &self,
        _details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| Hearing {
            inner,
            cannot_send: None,
        }))
    }
}

#[derive(Debug)]
struct Hearing<T> {
    inner: T,
    // From then on nothing is sent, and what is received is all there is.
    cannot_send: Option<Error>,
}

impl<T: Transport> Transport for Hearing<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.cannot_send.is_some() {
            return Ok(());
        }
        match self.inner.transmit_output(amount, timeout) {
            Err(error @ Error::Io(_)) => {
                self.cannot_send = Some(error);
                Ok(())
            }
            sent => sent,
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        match self.inner.await_input(timeout) {
            Ok(true) => Ok(true),
            // There is no answer; why nothing could be sent says the most.
            nothing => self.cannot_send.take().map_or(nothing, Err),
        }
    }

    fn is_open(&mut self) -> bool {
        self.cannot_send.is_none() && self.inner.is_open()
    }
}
