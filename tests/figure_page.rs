//! Draws the status page for the manual: a real daemon under load that comes and goes for five
//! minutes, and what a browser makes of its page.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use dispatcher_tests::browser::Browser;
use dispatcher_tests::client;
use dispatcher_tests::config::{BACKEND_PORT, Config, METRICS, SERVICE_PORT, Service};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::server::{self, Count, Server};
use dispatcher_tests::topology::{Family, Lab, Topology};

/// As long as the page's history.
const RECORDED: Duration = Duration::from_secs(310);
/// From one high tide to the next.
const TIDE: Duration = Duration::from_secs(60);
/// Clients of each service at high tide.
const CLIENTS: u32 = 48;
/// The page's window, pixels.
const WINDOW: (u32, u32) = (1200, 1080);

/// One request at a time takes `alone`; they hinder each other as the Universal Scalability Law
/// says, with sigma 0 and this `kappa`.
fn crowded(
    alone: Duration,
    kappa: f64,
) -> impl Fn(&mut TcpStream, &Count) -> io::Result<()> + Send + Sync + 'static {
    move |stream, count| {
        server::read_head(stream)?;
        let n = count.active() as f64;
        thread::sleep(alone.mul_f64(1.0 + kappa * n * (n - 1.0)));
        server::respond(stream)
    }
}

/// How many of the clients are there after `time`.
fn tide(time: Duration) -> u32 {
    let phase = time.as_secs_f64() / TIDE.as_secs_f64() * std::f64::consts::TAU;
    (f64::from(CLIENTS) * (0.55 - 0.45 * phase.cos())) as u32
}

fn clients(lab: &Lab, to: SocketAddr, over: &Arc<AtomicBool>) -> Vec<thread::JoinHandle<()>> {
    let started = Instant::now();
    let client = |number| {
        let over = Arc::clone(over);
        lab.client(0).spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if number >= tide(started.elapsed()) {
                    thread::sleep(Duration::from_millis(100));
                } else if client::fetch(to).is_err() {
                    // Turned away; the page shows it.
                    thread::sleep(Duration::from_secs(1));
                }
            }
        })
    };
    (0..CLIENTS).map(client).collect()
}

#[test]
fn the_status_page() {
    let topology = Topology {
        backends: 5,
        ..Topology::default()
    };
    let lab = topology.up().unwrap();
    let servers = [(60, 0.004), (70, 0.002), (50, 0.01), (40, 0.03), (60, 0.02)];
    let _servers: Vec<_> = (0u8..)
        .zip(servers)
        .map(|(number, (alone, kappa))| {
            let talk = crowded(Duration::from_millis(alone), kappa);
            Server::start(lab.backend(number.into()), BACKEND_PORT, talk).unwrap()
        })
        .collect();
    let mut config = Config::new(&lab, Family::V4, 64);
    let mut api = Service::new(&lab, Family::V6, 64);
    api.name = "api".to_owned();
    api.backends.drain(..3);
    for (number, backend) in (1..).zip(&mut api.backends) {
        backend.name = format!("api-{number}");
    }
    config.web().backends.truncate(3);
    config.services.push(api);
    for service in &mut config.services {
        service.policy = "queue-depth";
        for backend in &mut service.backends {
            backend.initial = Some(10);
        }
    }
    let daemon = Daemon::start(&lab, &config).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let running: Vec<_> = [Family::V4, Family::V6]
        .into_iter()
        .flat_map(|family| clients(&lab, lab.service(family, SERVICE_PORT), &over))
        .collect();
    thread::sleep(RECORDED);

    let mut browser = Browser::start(lab.dispatcher()).unwrap();
    let (width, height) = WINDOW;
    browser.show_as(width, height, false).unwrap();
    browser.open(&format!("http://{METRICS}/")).unwrap();
    let drawn = "document.querySelectorAll('[data-backend] .l-ceiling').length === 5";
    browser.wait_for(Duration::from_secs(20), "five back-ends are drawn", drawn);
    let picture = browser.screenshot().unwrap();
    over.store(true, Ordering::Relaxed);
    for client in running {
        client.join().unwrap();
    }
    drop(daemon);
    let manual = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/status-page.png");
    std::fs::write(manual, picture).unwrap();
}
