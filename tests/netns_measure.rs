//! What the daemon's program measures of a back-end on real interfaces, against what both ends
//! measured themselves: the time between its two packets lies within the client's, and holds the
//! server's, so that every quantile lies between theirs.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dispatcher_tests::client;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::scenario::assert_settles;
use dispatcher_tests::server::{self, Count, Server};
use dispatcher_tests::topology::{Family, Topology};
use dispatcher_user::ceiling::Times;
use dispatcher_user::datapath::Meters;
use dispatcher_user::measure::Distribution;

const CLIENTS: u8 = 4;
/// Requests on each connection.
const REQUESTS: u8 = 60;
/// A request that gets no answer.
const RESET: u8 = 0xff;
/// A time is measured in units of 1.024 µs, to a unit.
const UNIT: Duration = Duration::from_nanos(1024);

type Noted = Arc<Mutex<Vec<Duration>>>;

/// Answers each byte that is not [`RESET`] after as many tenths of a millisecond, in two segments,
/// and notes how long that took.
fn take_its_time(noted: Noted) -> impl Fn(&mut TcpStream, &Count) -> io::Result<()> {
    move |stream, _| {
        stream.set_nodelay(true)?;
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 {
            let begun = Instant::now();
            if byte[0] == RESET {
                return server::reset_on_close(stream);
            }
            std::thread::sleep(Duration::from_micros(100) * u32::from(byte[0]));
            noted.lock().unwrap().push(begun.elapsed());
            stream.write_all(&byte)?;
            stream.write_all(&byte)?;
        }
        Ok(())
    }
}

/// The value that `quantile` of them do not exceed.
fn exact(values: &mut [Duration], quantile: f64) -> Duration {
    values.sort_unstable();
    values[((quantile * values.len() as f64).ceil() as usize).max(1) - 1]
}

fn assert_between(measured: &Distribution, served: &mut [Duration], waited: &mut [Duration]) {
    for quantile in [0.01, 0.25, 0.5, 0.9, 0.99] {
        let value = measured.quantile(quantile);
        let bounds = [exact(served, quantile), exact(waited, quantile)];
        let error = value / 31 + UNIT;
        assert!(
            bounds[0] <= value + error && value <= bounds[1] + error,
            "{quantile}: {value:?} not within {bounds:?}"
        );
    }
    let Times { mean, max, .. } = measured.times();
    let mean_of = |values: &[Duration]| values.iter().sum::<Duration>() / values.len() as u32;
    assert!(mean_of(served) <= mean + UNIT && mean <= mean_of(waited) + UNIT);
    assert!(exact(served, 1.0) <= max + UNIT && max <= exact(waited, 1.0) + UNIT);
}

#[test]
fn the_measured_times_lie_between_those_of_both_ends() {
    let topology = Topology {
        backends: 1,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    for family in [Family::V4, Family::V6] {
        let served = Noted::default();
        let talk = take_its_time(Arc::clone(&served));
        let server = Server::start(lab.backend(0), BACKEND_PORT, talk).unwrap();
        let daemon = Daemon::start(&lab, &Config::new(&lab, family, 60)).unwrap();
        let meters = Meters::open_pinned(&daemon.files().pin_path).unwrap();
        let service = lab.service(family, SERVICE_PORT);
        let before = meters.read(0);

        let waited = Noted::default();
        let connected = Noted::default();
        std::thread::scope(|scope| {
            for n in 0..CLIENTS {
                let (lab, waited, connected) = (&lab, &waited, &connected);
                scope.spawn(move || {
                    lab.client(0).enter(|| {
                        let begun = Instant::now();
                        let mut stream = client::connect(service).unwrap();
                        connected.lock().unwrap().push(begun.elapsed());
                        for request in 0..REQUESTS {
                            let byte = request % 16 * 3 + n;
                            let begun = Instant::now();
                            stream.write_all(&[byte]).unwrap();
                            stream.read_exact(&mut [0]).unwrap();
                            waited.lock().unwrap().push(begun.elapsed());
                            stream.read_exact(&mut [0]).unwrap();
                        }
                    });
                });
            }
        });
        lab.client(0).enter(|| {
            let mut stream = client::connect(service).unwrap();
            stream.write_all(&[RESET]).unwrap();
            let _ = stream.read(&mut [0]);
        });
        assert_settles(&daemon);

        let measured = meters.read(0).since(&before);
        let requests = u64::from(CLIENTS) * u64::from(REQUESTS);
        assert_eq!(measured.response.count(), requests);
        assert_eq!(measured.counters.requests, requests + 1);
        assert_eq!(measured.counters.unanswered, 1);
        assert_eq!(measured.connect.count(), u64::from(CLIENTS) + 1);
        let mut connected = connected.lock().unwrap();
        assert!(measured.connect.quantile(0.5) <= exact(&mut connected, 0.99));
        let (mut served, mut waited) = (served.lock().unwrap(), waited.lock().unwrap());
        assert_between(&measured.response, &mut served, &mut waited);
        println!(
            "{family:?}: p50 {:?} of {:?}, p99 {:?} of {:?}, connect {:?}",
            measured.response.quantile(0.5),
            exact(&mut waited, 0.5),
            measured.response.quantile(0.99),
            exact(&mut waited, 0.99),
            measured.connect.times()
        );
        daemon.finish().unwrap();
        drop(server);
    }
}
