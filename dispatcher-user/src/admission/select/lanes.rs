//! Lanes: the back-ends of a service by the group whose ceiling they share. A group that is full
//! closes a lane, whatever the number of back-ends in it, and that is looked up when one is picked.

use crate::admission::command::GroupId;
use crate::admission::group::Groups;

/// Most groups that the back-ends of one service belong to.
pub const GROUPS_PER_SERVICE_MAX: u32 = 8;

/// Those, and the lane of the back-ends without a group, which is the first.
const LANES_MAX: usize = GROUPS_PER_SERVICE_MAX as usize + 1;
const _: () = assert!(LANES_MAX <= u16::BITS as usize, "a bit a lane");

/// A lane's.
#[derive(Clone, Copy, Debug)]
struct Lane {
    group: Option<GroupId>,
    members: u32,
    available: u32,
}

/// All lanes of a service.
#[derive(Clone, Debug)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
}

/// Which lanes may be picked from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::admission) struct Open(u16);

impl Open {
    /// Their numbers.
    pub(super) fn lanes(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let lane = rest.trailing_zeros();
            rest &= rest.checked_sub(1)?;
            Some(lane as usize)
        })
    }

    pub(super) const fn has(self, lane: usize) -> bool {
        self.0 >> lane & 1 != 0
    }
}

impl Lanes {
    pub(super) fn new() -> Self {
        let without_group = Lane {
            group: None,
            members: 0,
            available: 0,
        };
        Self {
            lanes: vec![without_group],
        }
    }

    /// The lane of a group; one that is free, if it has none yet and there may be another.
    pub(super) fn find(&self, group: Option<GroupId>) -> Option<usize> {
        let Some(group) = group else { return Some(0) };
        let of_group = |lane: &Lane| lane.group == Some(group);
        let free = |lane: &Lane| lane.group.is_none();
        let grouped = &self.lanes[1..];
        let found = grouped.iter().position(of_group);
        let found = found.or_else(|| grouped.iter().position(free));
        found
            .map(|lane| lane + 1)
            .or_else(|| (self.lanes.len() < LANES_MAX).then_some(self.lanes.len()))
    }

    /// Whether the only back-end of a lane that has a group is in it.
    pub(super) fn is_alone(&self, lane: usize) -> bool {
        lane > 0 && self.lanes[lane].members == 1
    }

    /// Counts a back-end that comes into a lane that [`Self::find`] told.
    pub(super) fn enter(&mut self, lane: usize, group: Option<GroupId>) {
        let entered = of_lane(&mut self.lanes, lane, || Lane {
            group,
            members: 0,
            available: 0,
        });
        entered.group = group;
        entered.members += 1;
    }

    /// Counts a back-end that leaves; a lane that none is left in is free for another group.
    pub(super) fn leave(&mut self, lane: usize) {
        let left = &mut self.lanes[lane];
        left.members -= 1;
        if left.members == 0 {
            left.group = None;
        }
    }

    /// A back-end has become available, or no longer is.
    pub(super) fn count(&mut self, lane: usize, available: bool) {
        let counted = &mut self.lanes[lane].available;
        *counted = if available {
            *counted + 1
        } else {
            *counted - 1
        };
    }

    /// The lanes of which a back-end is available, and whose group has room.
    pub(super) fn open(&self, groups: &Groups) -> Open {
        let mut open = 0;
        for (number, lane) in self.lanes.iter().enumerate() {
            let has_room = lane.group.is_none_or(|group| groups.has_room(group));
            open |= u16::from(lane.available > 0 && has_room) << number;
        }
        Open(open)
    }

    /// A bit for each group that is full and of which a back-end would be available.
    pub(super) fn held_up_by(&self, groups: &Groups) -> u64 {
        let with_available = self.lanes.iter().filter(|lane| lane.available > 0);
        with_available
            .filter_map(|lane| lane.group)
            .filter(|group| !groups.has_room(*group))
            .fold(0, |held_up, group| held_up | 1 << group.0)
    }
}

impl Open {
    /// Whether there is none.
    pub(in crate::admission) const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What is kept for a lane, made when it is first wanted.
pub(super) fn of_lane<T>(all: &mut Vec<T>, lane: usize, new: impl FnMut() -> T) -> &mut T {
    if lane >= all.len() {
        all.resize_with(lane + 1, new);
    }
    &mut all[lane]
}
