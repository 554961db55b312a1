//! The client against a broker played by the test. Nothing here waits for a fixed time: each step waits for what
//! the step before must bring about, and where time matters it is virtual.

mod another_connection;
mod broker;
mod compact;
mod connecting;
mod consuming;
mod credit;
mod measuring;
mod moving;
mod network;
mod publishing;
mod quic;
