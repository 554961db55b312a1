//! What a lane does next, for ever: it hears what it is told, lets those go who leave, and gives each cohort that is behind a step in
//! turn; when nothing is left to do, it waits. Who may be in the lane, and what a step is, is not known here.

use tokio::time::Instant;

use super::Lane;
use super::call_filter::RETRY;
use super::cohort::Cohort;
use super::command::{LaneCommand, Member};
use crate::domain::SubscriptionId;
use crate::plugin::FilterGroup;

impl Lane {
    /// Runs until the shutdown, or until nobody is left in it.
    pub(in crate::broker::matching) async fn run(mut self) {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.obey(command).await;
            }
            self.forget_deleted().await;
            if !self.let_go().await {
                continue;
            }
            if self.is_left() && self.neighbours.close(self.id, &|| self.commands.is_empty()) {
                return;
            }
            let end = self.parts.log.end();
            self.merge(Instant::now());
            let mut progress = false;
            let mut index = 0;
            // A step may end a cohort, when its last member is paused.
            while index < self.cohorts.len() {
                if self.parts.shutdown.is_cancelled() {
                    return;
                }
                let cohort = &self.cohorts[index];
                if cohort.cursor < end && !cohort.rests(Instant::now()) {
                    progress |= self.advance(index, end).await;
                }
                index += 1;
            }
            if progress {
                continue;
            }
            let now = Instant::now();
            let late = || self.cohorts.iter().filter(|cohort| cohort.cursor < end);
            let behind = late().any(|cohort| !cohort.rests(now));
            let rested = late().filter_map(|cohort| cohort.rests_until).min();
            let is_awaiting = !self.awaiting.is_empty();
            let has_members = !self.cohorts.is_empty();
            let idle_at = self.group.as_ref().and_then(FilterGroup::idle_at);
            let command = tokio::select! {
                biased;
                () = self.parts.shutdown.cancelled() => return,
                command = self.commands.recv() => match command {
                    Some(command) => Some(command),
                    None => return,
                },
                // A step that could not be done is tried again.
                () = tokio::time::sleep(RETRY), if behind => continue,
                () = tokio::time::sleep(RETRY), if is_awaiting => None,
                () = tokio::time::sleep_until(rested.unwrap_or(now)), if rested.is_some() && !behind => continue,
                changed = self.end.wait_for(|now| *now > end), if has_members && !behind => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
                () = tokio::time::sleep_until(idle_at.unwrap_or(now)), if idle_at.is_some() => None,
            };
            match command {
                Some(command) => self.obey(command).await,
                None => {
                    self.add_awaiting().await;
                    self.give_back_idle().await;
                }
            }
        }
    }

    async fn give_back_idle(&mut self) {
        if let Some(group) = &mut self.group {
            group.give_back_idle(Instant::now()).await;
        }
    }

    // Nobody is in it.
    fn is_left(&self) -> bool {
        self.members.is_empty() && self.failed.is_empty() && self.awaiting.is_empty()
    }

    // Those that leave go to where they go on. False when there is something to be heard before.
    async fn let_go(&mut self) -> bool {
        if self.leaving.is_empty() {
            return true;
        }
        let members = self.leaving.iter();
        let members = members.filter_map(|key| self.members.get(key)).cloned();
        let nothing_said = || self.commands.is_empty();
        let neighbours = &self.neighbours;
        if !neighbours.hand_over(self.id, &self.label, members.collect(), &nothing_said) {
            return false;
        }
        for key in std::mem::take(&mut self.leaving) {
            self.drop_member(key).await;
        }
        true
    }

    // Whoever deleted a subscription may have gone before it could say so here.
    async fn forget_deleted(&mut self) {
        self.forget_not_set_up(|member| member.live.is_deleted());
        let deleted = |member: &&Member| member.live.is_deleted();
        let gone: Vec<SubscriptionId> = self
            .members
            .values()
            .filter(deleted)
            .map(|member| member.live.id)
            .collect();
        for id in gone {
            self.obey(LaneCommand::Remove(id)).await;
        }
    }

    fn merge(&mut self, now: Instant) {
        for cohort in &mut self.cohorts {
            if !cohort.rests(now) {
                cohort.rests_until = None;
            }
        }
        self.cohorts
            .sort_by_key(|cohort| (cohort.cursor, cohort.rests_until));
        let mut merged: Vec<Cohort> = Vec::with_capacity(self.cohorts.len());
        for cohort in self.cohorts.drain(..) {
            match merged.last_mut() {
                Some(last)
                    if last.cursor == cohort.cursor && last.rests_until == cohort.rests_until =>
                {
                    last.rules.extend(cohort.rules);
                    last.unreadable = last.unreadable.or(cohort.unreadable);
                    last.by_topic.clear();
                }
                _ => merged.push(cohort),
            }
        }
        self.cohorts = merged;
    }
}
