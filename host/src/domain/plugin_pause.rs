//! How a subscription says that a plugin's failure has paused it, and how whoever shows that tells it from other pauses, which say who
//! asked for them. It is kept as text.

use super::{PluginWorld, Position};

const FILTER: &str = "filter failed at position ";
const TRANSFORM: &str = "a transform failed at position ";

/// Why a subscription stands still at `position`: a plugin of that world failed there, in these words.
#[must_use]
pub fn plugin_pause(world: PluginWorld, position: Position, words: &str) -> String {
    let begin = match world {
        PluginWorld::Filter => FILTER,
        PluginWorld::Transform => TRANSFORM,
    };
    format!("{begin}{position}: {words}")
}

/// Of which world the plugin is that paused a subscription for that reason, if one did.
#[must_use]
pub fn paused_by(reason: &str) -> Option<PluginWorld> {
    let begins = [
        (FILTER, PluginWorld::Filter),
        (TRANSFORM, PluginWorld::Transform),
    ];
    let mut begins = begins.into_iter();
    begins
        .find(|(begin, _)| reason.starts_with(begin))
        .map(|(_, world)| world)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_by_a_plugin_is_told_from_one_that_was_asked_for() {
        for world in [PluginWorld::Filter, PluginWorld::Transform] {
            let reason = plugin_pause(world, Position(7), "boom");
            assert!(reason.ends_with("failed at position 7: boom"), "{reason}");
            assert_eq!(paused_by(&reason), Some(world));
            assert_eq!(paused_by(&format!("by cn:me: {reason}")), None);
        }
    }
}
