//! The event ring: phases that flows entered.

use std::os::fd::{AsFd, BorrowedFd};

use dispatcher_common::event::FlowEvent;

use super::Datapath;

impl Datapath {
    /// Readable when events wait.
    #[must_use]
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Takes at most `budget` events out of the ring; returns how many.
    pub fn drain_events(&mut self, budget: usize, mut each: impl FnMut(&FlowEvent)) -> usize {
        let mut taken = 0;
        while taken < budget {
            let Some(record) = self.events.next() else {
                break;
            };
            taken += 1;
            if let Some(event) = read(&record) {
                each(&event);
            }
        }
        taken
    }
}

fn read(record: &[u8]) -> Option<FlowEvent> {
    let word = |at: usize| Some(u32::from_ne_bytes(record.get(at..at + 4)?.try_into().ok()?));
    Some(FlowEvent {
        flow: word(0)?,
        generation: word(4)?,
        phase: word(8)?,
        added: word(12)?,
    })
}
