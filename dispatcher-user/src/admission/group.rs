//! Groups: back-ends that share a resource, and one ceiling besides their own. A back-end has room
//! only while its group has. What is kept here are counts, and who waits for a full group.

use std::collections::VecDeque;

use super::command::{GroupId, ServiceId};
use super::slab::Slab;

/// Most groups.
pub const GROUPS_MAX: u32 = 64;
const _: () = assert!(GROUPS_MAX <= u64::BITS, "a bit a group");

#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) ceiling: u32,
    /// Slots in use at its back-ends, at removed ones too.
    pub(super) held: u32,
    /// Most slots ever in use at once.
    pub(super) held_max: u32,
    /// Back-ends in it, removed ones with flows included.
    pub(super) members: u32,
    /// Services that could release a request if the group had room, the longest held up first.
    waiting: VecDeque<ServiceId>,
}

/// All groups.
#[derive(Clone, Debug)]
pub(super) struct Groups {
    groups: Slab<Group>,
    /// A bit for each group that may have room for a service that waits for it.
    roomy: u64,
}

impl Groups {
    pub(super) fn new() -> Self {
        Self {
            groups: Slab::new(GROUPS_MAX),
            roomy: 0,
        }
    }

    /// Adds a group; none, when there are [`GROUPS_MAX`].
    pub(super) fn add(&mut self, ceiling: u32) -> Option<GroupId> {
        let group = Group {
            ceiling,
            held: 0,
            held_max: 0,
            members: 0,
            waiting: VecDeque::new(),
        };
        self.groups.insert(group).ok().map(GroupId)
    }

    /// Takes a group without members out, and tells who still stands in its list.
    pub(super) fn remove(&mut self, id: GroupId) -> VecDeque<ServiceId> {
        let removed = self.groups.remove(id.0);
        removed.map_or_else(VecDeque::new, |group| group.waiting)
    }

    pub(super) fn get(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(id.0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.groups.iter().map(|(id, group)| (GroupId(id), group))
    }

    pub(super) fn has_room(&self, id: GroupId) -> bool {
        let group = &self.groups[id.0];
        group.held < group.ceiling
    }

    pub(super) fn set_ceiling(&mut self, id: GroupId, ceiling: u32) {
        self.change(Some(id), |group| group.ceiling = ceiling);
    }

    /// A back-end with slots in use comes into a group; these may be above its ceiling.
    pub(super) fn enter(&mut self, id: Option<GroupId>, held: u32) {
        self.change(id, |group| {
            group.members += 1;
            group.hold(held);
        });
    }

    /// A back-end leaves a group, with the slots that it uses.
    pub(super) fn leave(&mut self, id: Option<GroupId>, held: u32) {
        self.change(id, |group| {
            group.members -= 1;
            group.held -= held;
        });
    }

    /// A slot is taken at a back-end.
    pub(super) fn take(&mut self, id: Option<GroupId>) {
        if let Some(id) = id {
            self.groups[id.0].hold(1);
        }
    }

    /// A slot is given back at a back-end.
    pub(super) fn give_back(&mut self, id: Option<GroupId>) {
        self.change(id, |group| group.held -= 1);
    }

    /// Puts a service at the end of those that wait for room.
    pub(super) fn wait(&mut self, id: GroupId, service: ServiceId) {
        self.change(Some(id), |group| group.waiting.push_back(service));
    }

    /// A group that has room, and the service that has waited longest for it.
    pub(super) fn next(&mut self) -> Option<(GroupId, ServiceId)> {
        while self.roomy != 0 {
            let id = GroupId(self.roomy.trailing_zeros());
            if let Some(group) = self.groups.get_mut(id.0)
                && group.held < group.ceiling
                && let Some(service) = group.waiting.pop_front()
            {
                return Some((id, service));
            }
            self.roomy &= self.roomy - 1;
        }
        None
    }

    fn change(&mut self, id: Option<GroupId>, change: impl FnOnce(&mut Group)) {
        if let Some(id) = id
            && let Some(group) = self.groups.get_mut(id.0)
        {
            change(group);
            if !group.waiting.is_empty() {
                self.roomy |= 1 << id.0;
            }
        }
    }
}

impl Group {
    fn hold(&mut self, more: u32) {
        self.held += more;
        self.held_max = self.held_max.max(self.held);
    }
}
