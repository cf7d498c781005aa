//! Back-ends that behave like real ones under load: given more at once than is good for them,
//! they finish less. The time of a request follows the Universal Scalability Law.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use dispatcher_tests::server::{Count, read_head, respond};

/// How a back-end's service time grows with the number of requests in service.
///
/// With `n` of them a request takes `base * (1 + sigma * (n - 1) + kappa * n * (n - 1))`: what
/// they wait for each other, and what they cost each other.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Name in tables.
    pub name: &'static str,
    /// Time of a request that is alone.
    pub base: Duration,
    /// Share of the work that only one can do at a time.
    pub sigma: f64,
    /// Cost of each pair of requests in service.
    pub kappa: f64,
    /// The most connections that the dispatcher admits.
    pub ceiling: u32,
    /// Connections that its operator says it is capable of.
    pub capacity: u32,
}

/// Three that differ in how much they bear.
pub const MODELS: [Model; 3] = [
    Model::new("small", 0.008, 10),
    Model::new("medium", 0.004, 14),
    Model::new("large", 0.002, 20),
];

impl Model {
    const fn new(name: &'static str, kappa: f64, ceiling: u32) -> Self {
        Self {
            name,
            base: Duration::from_millis(50),
            sigma: 0.02,
            kappa,
            ceiling,
            capacity: 2 * ceiling,
        }
    }

    /// Time of a request while `n` are in service.
    #[must_use]
    pub fn time(&self, n: usize) -> Duration {
        let n = n.max(1) as f64;
        let slowdown = 1.0 + self.sigma * (n - 1.0) + self.kappa * n * (n - 1.0);
        self.base.mul_f64(slowdown)
    }

    /// A connection's service: the request is worked on in slices, each at the speed that the
    /// number of connections allows by then.
    pub fn serve(self) -> impl Fn(&mut TcpStream, &Count) -> io::Result<()> + Send + Sync {
        const SLICE_MAX: Duration = Duration::from_millis(50);
        move |stream, count| {
            read_head(stream)?;
            let mut left = 1.0;
            while left > 0.001 {
                let whole = self.time(count.active());
                let slice = whole.mul_f64(left).min(SLICE_MAX);
                std::thread::sleep(slice);
                left -= slice.div_duration_f64(whole);
            }
            respond(stream)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_finishes_most_near_its_ceiling_and_less_beyond_it() {
        for model in MODELS {
            let rate = |n: u32| f64::from(n) / model.time(n as usize).as_secs_f64();
            assert!(rate(model.ceiling) > rate(model.ceiling / 3));
            assert!(rate(model.ceiling) > 1.2 * rate(5 * model.ceiling));
        }
    }
}
