//! The client as an application holds it: what one can ask of it, whatever transport its connection runs over.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tidegate_wire::counters::LinkReport;
use tidegate_wire::stream::Connection;

use crate::connection_supervisor;
use crate::consumer::Consumer;
use crate::error::{ConnectError, MeasureError, PublishError, SubscribeError};
use crate::link::Link;
use crate::measure::{LinkTest, Meter};
use crate::options::{ClientOptions, ConsumerOptions, PublisherOptions};
use crate::publisher::Publisher;
use crate::transport::Connector;
use crate::transport::quic::QuicConnector;

/// A connection to a broker that mends itself. Cheap to clone; when the last clone, publisher and consumer are gone,
/// the connection is closed.
#[derive(Clone)]
pub struct Client {
    link: Arc<dyn AnyLink>,
}

impl Client {
    /// Connects to a broker. Tries until the connect timeout is over, but returns at once when trying again cannot
    /// help (a refused certificate, an unknown version). Later losses are mended in the background.
    ///
    /// # Errors
    /// Why there is no connection: see [`ConnectError`].
    pub async fn connect(options: ClientOptions) -> Result<Client, ConnectError> {
        let connector = QuicConnector::new(&options)?;
        Self::connect_over(connector, options).await
    }

    /// Connects to a broker over another transport than QUIC. Of the options, those about certificates and silence are the
    /// transport's business, and ignored here.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn connect_over<K: Connector>(
        connector: K,
        options: ClientOptions,
    ) -> Result<Client, ConnectError> {
        let link = connection_supervisor::connect(connector, options).await?;
        Ok(Client {
            link: Arc::new(link),
        })
    }

    /// Who the broker takes this client for, as it said in its last welcome; empty when the connection has ended
    /// for good or is being made anew.
    #[must_use]
    pub fn principal(&self) -> String {
        self.link.principal()
    }

    /// Address of the broker it is connected to; `None` while there is no connection.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        self.link.address()
    }

    /// Why there is no connection at present: how the last one ended, or why the latest attempt to make a new one failed. `None` while
    /// there is one.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<ConnectError>> {
        self.link.trouble()
    }

    /// For how long nothing at all has come from the broker although it was asked for something, be it by a keep-alive; after six seconds
    /// this becomes [`trouble`](Self::trouble). Zero where all is answered, without a connection, and with
    /// [`ClientOptions::reconnect`](crate::ClientOptions::reconnect) off. Looked at twice a second.
    #[must_use]
    pub fn unanswered(&self) -> Duration {
        self.link.unanswered()
    }

    /// Opens a publisher. Waits for a connection, if there is none, and for the broker's answer.
    ///
    /// # Errors
    /// When the broker refuses it, or the connection has ended for good.
    pub async fn publisher(&self, options: PublisherOptions) -> Result<Publisher, PublishError> {
        Arc::clone(&self.link).publisher(options).await
    }

    /// Attaches a consumer to the durable subscription `subscription`. Waits for a connection, if there is none,
    /// and for the broker's answer.
    ///
    /// # Errors
    /// When the broker refuses it, or the connection has ended for good.
    pub async fn subscribe(
        &self,
        subscription: &str,
        options: ConsumerOptions,
    ) -> Result<Consumer, SubscribeError> {
        let link = Arc::clone(&self.link);
        link.consumer(subscription.to_owned(), options, false).await
    }

    /// Attaches a consumer that only looks: it is shown each pending event once, in order of commit, also those that other
    /// consumers have in hand, and holds none of them. Answers about them are ignored, nobody waits for it, and nothing counts
    /// as an attempt. After a lost connection it begins anew; when there is a better connection, it stays on the one it is on.
    ///
    /// # Errors
    /// As for [`subscribe`](Self::subscribe).
    pub async fn look(
        &self,
        subscription: &str,
        options: ConsumerOptions,
    ) -> Result<Consumer, SubscribeError> {
        let link = Arc::clone(&self.link);
        link.consumer(subscription.to_owned(), options, true).await
    }

    /// Opens a meter for the connection that there is; waits for one, if there is none. While there is a meter, its connection is not
    /// replaced by one that would suit the path better.
    ///
    /// # Errors
    /// When the broker refuses it or is too old to know it, or the connection is lost or has ended for good.
    pub async fn meter(&self) -> Result<Meter, MeasureError> {
        self.link.meter().await
    }

    /// What both ends have counted of the present connection: datagrams, losses, round trip, windows. Where one end takes for lost
    /// what the other has received, the path reorders: see [`LinkReport::up`] and [`LinkReport::down`]. Takes two round trips; to
    /// ask again and again, open a [`meter`](Self::meter), which takes one for each.
    ///
    /// # Errors
    /// As for [`meter`](Self::meter).
    pub async fn link_report(&self) -> Result<LinkReport, MeasureError> {
        self.meter().await?.report().await
    }

    /// Begins a test of the connection that there is, with traffic of its own; waits for a connection, if there is none. A meter
    /// sends next to nothing; this is for finding out what the path carries.
    ///
    /// # Errors
    /// As for [`meter`](Self::meter), and when a connection of the same principal is tested or was just now, or too many others are. Who has to wait is told for how
    /// long.
    pub async fn link_test(&self) -> Result<LinkTest, MeasureError> {
        self.link.link_test().await
    }

    /// Closes the connection, for every clone. Flushes nothing: call [`Publisher::flush`] and
    /// [`Consumer::flush_acks`] first. Returns when the broker has heard of it, or after half a second.
    pub async fn close(&self) {
        self.link.close().await;
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Client")
            .field("principal", &self.principal())
            .finish_non_exhaustive()
    }
}

/// A link over any transport. Dispatched when a publisher or a consumer is opened and never again: what they start knows its
/// transport.
trait AnyLink: Send + Sync {
    fn principal(&self) -> String;

    fn address(&self) -> Option<String>;

    fn trouble(&self) -> Option<Arc<ConnectError>>;

    fn unanswered(&self) -> Duration;

    fn publisher(
        self: Arc<Self>,
        options: PublisherOptions,
    ) -> BoxFuture<'static, Result<Publisher, PublishError>>;

    fn consumer(
        self: Arc<Self>,
        subscription: String,
        options: ConsumerOptions,
        look: bool,
    ) -> BoxFuture<'static, Result<Consumer, SubscribeError>>;

    fn meter(&self) -> BoxFuture<'_, Result<Meter, MeasureError>>;

    fn link_test(&self) -> BoxFuture<'_, Result<LinkTest, MeasureError>>;

    fn close(&self) -> BoxFuture<'_, ()>;
}

impl<C: Connection> AnyLink for Link<C> {
    fn principal(&self) -> String {
        Link::principal(self)
    }

    fn address(&self) -> Option<String> {
        Link::address(self)
    }

    fn trouble(&self) -> Option<Arc<ConnectError>> {
        Link::trouble(self)
    }

    fn unanswered(&self) -> Duration {
        Link::unanswered(self)
    }

    fn publisher(
        self: Arc<Self>,
        options: PublisherOptions,
    ) -> BoxFuture<'static, Result<Publisher, PublishError>> {
        Publisher::open(self, options).boxed()
    }

    fn consumer(
        self: Arc<Self>,
        subscription: String,
        options: ConsumerOptions,
        look: bool,
    ) -> BoxFuture<'static, Result<Consumer, SubscribeError>> {
        Consumer::open(self, subscription, options, look).boxed()
    }

    fn meter(&self) -> BoxFuture<'_, Result<Meter, MeasureError>> {
        Meter::open(self).boxed()
    }

    fn link_test(&self) -> BoxFuture<'_, Result<LinkTest, MeasureError>> {
        LinkTest::open(self).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Link::close(self).boxed()
    }
}
