//! The rule table: hands out rule numbers and keeps one value per rule. It knows nothing of events.

use crate::Rule;

/// Values by rule number. Numbers of released rules are given out again.
///
/// For authors of a [`FilterSet`](crate::FilterSet); the SDK keeps one by itself for a
/// [`Filter`](crate::Filter) and a [`Transform`](crate::Transform).
#[derive(Clone, Debug)]
pub struct RuleTable<T> {
    slots: Vec<Option<T>>,
    free: Vec<Rule>,
}

impl<T> Default for RuleTable<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> RuleTable<T> {
    /// Keeps `value` and gives the rule number it is found under.
    ///
    /// # Errors
    /// When all 2³² numbers are taken.
    pub fn insert(&mut self, value: T) -> Result<Rule, String> {
        if let Some(rule) = self.free.pop() {
            self.slots[rule as usize] = Some(value);
            return Ok(rule);
        }
        let rule = Rule::try_from(self.slots.len())
            .map_err(|_| "this instance holds as many rules as it can".to_string())?;
        self.slots.push(Some(value));
        Ok(rule)
    }

    /// Forgets a rule and gives back what was kept under it. A number that is not in use is nothing.
    pub fn remove(&mut self, rule: Rule) -> Option<T> {
        let value = self.slots.get_mut(rule as usize)?.take()?;
        self.free.push(rule);
        Some(value)
    }

    /// What is kept under a rule number.
    #[must_use]
    pub fn get(&self, rule: Rule) -> Option<&T> {
        self.slots.get(rule as usize)?.as_ref()
    }

    /// How many rules it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reused_after_release() {
        let mut table = RuleTable::default();
        assert!(table.is_empty());
        assert_eq!(table.insert('a'), Ok(0));
        assert_eq!(table.insert('b'), Ok(1));
        assert_eq!(table.remove(0), Some('a'));
        assert_eq!(table.get(0), None);
        assert_eq!(table.len(), 1);
        assert_eq!(table.insert('c'), Ok(0));
        assert_eq!(table.get(0), Some(&'c'));
        assert_eq!(table.get(1), Some(&'b'));
    }

    #[test]
    fn a_number_not_in_use_is_nothing() {
        let mut table = RuleTable::default();
        assert_eq!(table.remove(7), None);
        assert_eq!(table.insert(()), Ok(0));
        assert_eq!(table.remove(0), Some(()));
        assert_eq!(table.remove(0), None, "released twice");
        assert_eq!(table.insert(()), Ok(0));
        assert_eq!(table.insert(()), Ok(1));
        assert_eq!(table.get(u32::MAX), None);
    }
}
