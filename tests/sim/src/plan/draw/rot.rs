//! How it is drawn what rots.

use super::Draw;
use crate::plan::rot::{Rot, Rotten};
use crate::plan::{Fault, Timed};

impl Draw {
    /// Of a fifth of the runs, files of one kind: damage of the witness beside damage of what it bears witness to is more than anybody
    /// promises to notice.
    pub(super) fn rots(self, lasts_ms: u64) -> Vec<Timed<Fault>> {
        let many = match self.number("rots", 0, 5) {
            0 => 1 + self.number("how many rot", 0, 3),
            _ => 0,
        };
        let kinds = [
            (Rotten::Journal, 5),
            (Rotten::Part, 3),
            (Rotten::State, 1),
            (Rotten::Manifest, 1),
            (Rotten::About, 1),
            (Rotten::Witness, 1),
        ];
        let kind = self.among("what rots", 0, &kinds);
        let rot = |of| Timed {
            after_ms: self.number("rot at", of, lasts_ms),
            does: Fault::Rot(Rot {
                of: kind,
                file: self.number("file that rots", of, 1_000),
                at: match self.number("head that rots", of, 6) {
                    0 => 0,
                    _ => self.number("place that rots", of, 1_000),
                },
                bits: 1 << self.number("bit that rots", of, 8),
            }),
        };
        (0..many).map(rot).collect()
    }
}
