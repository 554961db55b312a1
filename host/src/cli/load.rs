//! What puts a load on a broker and measures it, for `tidegate bench` and for the comparison with other brokers: publishers in a
//! closed loop or at a fixed rate, consumers that ack each event, and the window in between in which they count. It knows no
//! broker: whoever puts a load on one says how an event is sent ([`Sender`]) and received ([`Receiver`]).

mod clients;
mod consume;
mod latencies;
mod pace;
mod publish;
mod run;

pub use clients::Clients;
pub use consume::{Receiver, Seen, consume};
pub use latencies::Latencies;
pub use pace::Rate;
pub use publish::{Numbers, PACED_OUTSTANDING, Published, Sender, publish, publish_at_rate};
pub use run::{Counts, Phase, Run};
