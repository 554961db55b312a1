//! Bytes as a stream: no cut into frames and no message of the protocol may panic, and no frame may pass its limit.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tidegate_wire::batch::ReceivedBatch;
use tidegate_wire::compact::Unpacker;
use tidegate_wire::frame::{FrameReader, decode};
use tidegate_wire::{pb, positions};

const MAX: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let mut buffer = BytesMut::from(data);
    let mut reader = FrameReader::new(MAX);
    let (mut unpacker, mut deliveries) = (Unpacker::new(MAX), Unpacker::new(MAX));
    while let Ok(Some(frame)) = reader.next_frame(&mut buffer) {
        assert!(frame.len() <= MAX);
        let _ = decode::<pb::StreamOpen>(frame.clone());
        let _ = decode::<pb::HelloReply>(frame.clone());
        if let Ok(mut batch) = ReceivedBatch::decode(frame.clone()) {
            let _ = unpacker.unpack_batch(&mut batch);
            assert!(batch.events.len() <= MAX);
        }
        let batch = decode::<pb::PublishBatch>(frame.clone()).map(ReceivedBatch::from);
        assert_eq!(ReceivedBatch::decode(frame.clone()).ok(), batch.ok());
        let _ = decode::<pb::PublishReply>(frame.clone());
        let _ = decode::<pb::ConsumerCommand>(frame.clone());
        if let Ok(list) = decode::<pb::Positions>(frame.clone())
            && let Ok(ranges) = positions::decode_positions(&list, 1000)
        {
            let again = positions::encode_positions(ranges);
            assert!(positions::decode_positions(&again, 1000).is_ok());
        }
        if let Ok(mut deliver) = decode::<pb::Deliver>(frame) {
            let _ = positions::decode_deltas(&deliver.positions);
            let _ = deliveries.unpack_deliver(&mut deliver);
        }
    }
});
