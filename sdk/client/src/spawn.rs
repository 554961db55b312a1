//! The one place where this client starts tasks: its supervisor, and a driver for each publisher and consumer. They run where the
//! caller's runtime runs them, and take the time from its clock.

/// Starts `task`. It ends by itself, when whoever uses it is gone.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}
