//! A store that a broker can start from: everything it says was read and understood, and nothing of it was changed. So a start
//! that is refused, because of damage or because another version wrote what is there, leaves the disk as it found it.

use super::error::StartError;
use crate::broker::checkpoint::recovery::{self, Recovered};
use crate::store::{Examined, Opened};

/// What a broker starts from.
pub struct RecoveredStore {
    /// The first step that writes.
    begin: Box<dyn FnOnce() -> Result<(Opened, Recovered), StartError> + Send>,
}

impl RecoveredStore {
    /// Reads what the store says. Takes as long as the disk needs, and blocks its thread.
    ///
    /// # Errors
    ///
    /// It cannot be understood, or something is gone and that was not accepted.
    pub fn of(mut examined: Examined, producers_max: usize) -> Result<Self, StartError> {
        // What is lost now is looked for once the store is repaired; without having been accepted it never is.
        let sealed = || match examined.losses().is_empty() {
            true => examined.sealed_topics(),
            false => Vec::new(),
        };
        let recovered = recovery::recover(
            examined.state(),
            examined.replay(),
            sealed,
            examined.is_clean(),
            producers_max,
        )
        .map_err(StartError::Recovery)?;
        let topics = &recovered.catalog;
        examined.name_topics(|id| topics.topic_name(id).map(|name| name.to_string()));
        examined.check().map_err(StartError::Store)?;
        Ok(Self {
            begin: Box::new(move || begin(examined, recovered, producers_max)),
        })
    }

    /// The same of a store that is open already, as one in memory is.
    #[cfg(test)]
    pub(crate) fn of_open(mut opened: Opened, producers_max: usize) -> Result<Self, StartError> {
        let recovered = recovered_again(&mut opened, producers_max)?;
        Ok(Self {
            begin: Box::new(move || Ok((opened, recovered))),
        })
    }

    pub(super) fn begin(self) -> Result<(Opened, Recovered), StartError> {
        (self.begin)()
    }
}

fn begin(
    examined: Examined,
    recovered: Recovered,
    producers_max: usize,
) -> Result<(Opened, Recovered), StartError> {
    let accept_loss = examined.accepts_loss();
    let mut opened = examined.begin().map_err(StartError::Store)?;
    if accept_loss {
        let damage = opened.checkpoints.give_up_damage(true, |_| {});
        let damage = damage.map_err(StartError::GiveUp)?;
        for loss in &damage {
            tracing::error!(%loss, "committed data is gone; the start goes on without it, as asked");
        }
        opened.losses.extend(damage);
    }
    if opened.losses.is_empty() {
        return Ok((opened, recovered));
    }
    let recovered = recovered_again(&mut opened, producers_max)?;
    Ok((opened, recovered))
}

// What a store says once it is open.
fn recovered_again(opened: &mut Opened, producers_max: usize) -> Result<Recovered, StartError> {
    let recovered = recovery::recover(
        &opened.state,
        opened.replay.by_ref(),
        || opened.reader.sealed_topics(),
        opened.clean,
        producers_max,
    );
    recovered.map_err(StartError::Recovery)
}
