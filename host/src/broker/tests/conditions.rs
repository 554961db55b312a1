//! What is said of a subscription as long as it holds, and no longer.

use crate::broker::subscriptions::resting_subscription::RestingSubscription;
use crate::broker::subscriptions::test_rig::Rig;
use crate::domain::{Position, SubscriptionId, SubscriptionSpec};
use crate::state::catalog::{Catalog, Change, Json};

fn spec(topic: &str) -> SubscriptionSpec {
    let spec = serde_json::json!({"name": "s", "topics": [topic], "start": "earliest"});
    serde_json::from_value(spec).expect("a specification")
}

#[test]
fn where_the_filters_before_stood_is_not_said_of_those_that_took_over() {
    let id = SubscriptionId(1);
    let mut catalog = Catalog::default();
    let create = Change::CreateSubscription {
        id,
        spec: Json(spec("a")),
        start: Position(1),
    };
    catalog.apply(&create);
    let created = RestingSubscription::created(id, &catalog.subscriptions[&id], Position(1));
    let Rig { live, registry, .. } = Rig::of(created);
    assert_eq!(live.follow_next().map(|chain| chain.revision), Some(0));
    live.stand_at(0, Some(Position(7)));
    assert_eq!(live.stands_at(), Some(Position(7)));

    let update = Change::UpdateSubscription {
        id,
        revision: 1,
        spec: Json(spec("b")),
        fence: Some(Position(1)),
    };
    catalog.apply(&update);
    registry.update(&live, &catalog.subscriptions[&id], true);
    // Whoever fed it before may not have noticed yet.
    live.stand_at(0, Some(Position(7)));
    assert_eq!(live.follow_next().map(|chain| chain.revision), Some(1));
    assert_eq!(live.stands_at(), None);
    live.stand_at(0, Some(Position(7)));
    assert_eq!(live.stands_at(), None);
    live.stand_at(1, Some(Position(1)));
    live.stand_at(0, None);
    assert_eq!(live.stands_at(), Some(Position(1)));
}
