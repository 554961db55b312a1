//! One encoded event: the reader in place and prost must agree on whether it is one, and on every field.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use tidegate_wire::event::{EventRef, EventRefError, check_event};
use tidegate_wire::{Limits, pb};

fuzz_target!(|data: &[u8]| {
    let _ = check_event(data, &Limits::default());
    match (EventRef::parse(data), pb::Event::decode(data)) {
        (Ok(found), Ok(expected)) => {
            assert_eq!(found.id(), expected.id);
            assert_eq!(found.key(), expected.key.as_deref());
            assert_eq!(found.content_type(), expected.content_type);
            assert_eq!(found.payload(), &expected.payload[..]);
            assert!(
                found.headers().eq(expected
                    .headers
                    .iter()
                    .map(|h| (h.name.as_str(), h.value.as_str())))
            );
        }
        (Err(_), Err(_)) | (Err(EventRefError::Group { .. }), Ok(_)) => {}
        (found, expected) => panic!("{found:?} but {expected:?}"),
    }
});
