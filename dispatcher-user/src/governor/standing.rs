//! Whether a back-end takes new connections, by all who have a say in it. Pure.

use crate::admission::BackendState;

/// What an operator last ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Order {
    /// Nothing, or to resume.
    #[default]
    Serve,
    /// No new connections.
    Drain,
    /// No connections.
    Disable,
}

/// What each of them says, kept apart: nobody takes back what another has said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    /// The operator.
    pub(super) operator: Order,
    /// The back-end's agent: up, draining or down.
    pub(super) agent: BackendState,
    /// Its health: up or down.
    pub(super) health: BackendState,
}

impl Standing {
    /// Nobody has said anything.
    pub(super) const NEW: Self = Self {
        operator: Order::Serve,
        agent: BackendState::Up,
        health: BackendState::Up,
    };

    /// What all of it comes to: disabled before draining before down before up.
    pub(super) fn state(self) -> BackendState {
        let said = [self.agent, self.health];
        let says = |state| said.contains(&state);
        if self.operator == Order::Disable || says(BackendState::Disabled) {
            BackendState::Disabled
        } else if self.operator == Order::Drain || says(BackendState::Draining) {
            BackendState::Draining
        } else if says(BackendState::Down) {
            BackendState::Down
        } else {
            BackendState::Up
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_wants_least_prevails() {
        use BackendState::{Disabled, Down, Draining, Up};
        for (operator, agent, state) in [
            (Order::Serve, Up, Up),
            (Order::Serve, Down, Down),
            (Order::Serve, Draining, Draining),
            (Order::Drain, Up, Draining),
            (Order::Drain, Down, Draining),
            (Order::Drain, Draining, Draining),
            (Order::Disable, Up, Disabled),
            (Order::Disable, Down, Disabled),
            (Order::Disable, Draining, Disabled),
        ] {
            for health in [Up, Down] {
                let standing = Standing {
                    operator,
                    agent,
                    health,
                };
                let state = if state == Up { health } else { state };
                assert_eq!(standing.state(), state, "{standing:?}");
            }
        }
    }

    #[test]
    fn an_agent_that_is_up_again_does_not_undo_what_an_operator_ordered() {
        let mut standing = Standing::NEW;
        standing.agent = BackendState::Down;
        standing.operator = Order::Drain;
        standing.agent = BackendState::Up;
        assert_eq!(standing.state(), BackendState::Draining);
        standing.operator = Order::Serve;
        assert_eq!(standing.state(), BackendState::Up);
    }
}
