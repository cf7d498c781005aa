//! Feeds the service manager's watchdog, and only with proof: it is told that the daemon is alive
//! when the admission thread has just answered. A thread that answers no more is a daemon that
//! admits nobody, and is started anew; its flows go on meanwhile.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::engine::Handle;

/// Answers asked for in the time that the service manager waits.
const ANSWERS: u32 = 2;

/// Feeds the watchdog for as long as it is polled; without one it ends at once.
pub async fn feed(handle: Handle) {
    if let Some(patience) = sd_notify::watchdog_enabled() {
        let told = || drop(sd_notify::notify(&[NotifyState::Watchdog]));
        watch(patience, || handle.answers(), told).await;
    }
}

/// Asks at even intervals and tells of each answer; ends when there will be none any more.
async fn watch<A: Future<Output = anyhow::Result<()>>>(
    patience: Duration,
    answers: impl Fn() -> A,
    tell: impl Fn(),
) {
    // A period of zero would panic.
    let mut ticks = interval((patience / ANSWERS).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match answers().await {
            Ok(()) => tell(),
            Err(error) => return tracing::debug!("the watchdog is fed no more: {error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use anyhow::bail;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn it_is_fed_twice_in_the_time_that_the_manager_waits() {
        let fed = Cell::new(0);
        let watching = watch(PATIENCE, async || Ok(()), || fed.set(fed.get() + 1));
        let ended = timeout(Duration::from_secs(59), watching).await;
        assert!(ended.is_err(), "it ended though all answers came");
        assert_eq!(fed.get(), 12);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_fed_while_no_answer_comes() {
        let (fed, asked) = (Cell::new(0), Cell::new(0));
        let answers = || {
            asked.set(asked.get() + 1);
            let stuck = asked.get() > 3;
            async move {
                if stuck {
                    pending::<()>().await;
                }
                Ok(())
            }
        };
        let watching = watch(PATIENCE, answers, || fed.set(fed.get() + 1));
        assert!(timeout(PATIENCE * 100, watching).await.is_err());
        assert_eq!((fed.get(), asked.get()), (3, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_thread() {
        let fed = Cell::new(0);
        watch(
            PATIENCE,
            async || bail!("stopping"),
            || fed.set(fed.get() + 1),
        )
        .await;
        assert_eq!(fed.get(), 0);
    }
}
