//! The status page in a real browser, of a real daemon: it draws, follows, tells when nobody is
//! there, and obeys its own policy.

use std::time::Duration;

use dispatcher_tests::browser::Browser;
use dispatcher_tests::client;
use dispatcher_tests::config::{BACKEND_PORT, Config, METRICS, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::scenario::one_backend;
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::{Family, Lab};

/// For what comes with the next sample, on a loaded machine.
const SOON: Duration = Duration::from_secs(20);

fn opened(lab: &Lab) -> Browser {
    let mut browser = Browser::start(lab.dispatcher()).unwrap();
    browser.open(&format!("http://{METRICS}/")).unwrap();
    browser.wait_for(SOON, "live", &says("#live", "live"));
    browser
}

/// Whether what a selector finds has this text.
fn says(selector: &str, text: &str) -> String {
    format!("document.querySelector({selector:?})?.textContent === {text:?}")
}

fn shown(selector: &str) -> String {
    format!("document.querySelector({selector:?}).checkVisibility()")
}

/// Whether a path of the back-end's picture is as wide and as high as a few samples make it.
fn drawn(path: &str) -> String {
    format!(
        "(() => {{ const box = document.querySelector({:?}).getBBox(); \
         return box.width > 1 && box.height > 1; }})()",
        format!("[data-backend=web-1] {path}")
    )
}

#[test]
fn the_page_draws_connections_ceiling_and_queue_and_follows_them() {
    let lab = one_backend();
    let _server = Server::start(lab.backend(0), BACKEND_PORT, server::hold).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let mut browser = opened(&lab);
    let count = "[data-backend=web-1] .count";
    browser.wait_for(SOON, "nothing held", &says(count, "0 of 4"));

    let service = lab.service(Family::V4, SERVICE_PORT);
    let held = lab.client(0).spawn(move || {
        let connect = move || client::connect(service).unwrap();
        let held: Vec<_> = (0..4).map(|_| connect()).collect();
        // Two more, which wait.
        let waiting = (0..2).map(|_| std::thread::spawn(connect));
        let waiting: Vec<_> = waiting.collect();
        (held, waiting)
    });
    let (held, waiting) = held.join().unwrap();
    browser.wait_for(SOON, "four held", &says(count, "4 of 4"));
    let queue = "[data-service=web] .numbers div:first-child dd";
    browser.wait_for(SOON, "two wait", &says(queue, "2 of 1024"));
    let title = "document.title === '2 waiting · dispatcher'";
    browser.wait_for(SOON, "the title tells", title);
    browser.wait_for(SOON, "connections are drawn", &drawn(".a-held"));

    daemon.ask(&["ceiling", "web/web-1", "3"]).unwrap();
    browser.wait_for(SOON, "lowered", &says(count, "4 of 3"));
    browser.wait_for(SOON, "the step is drawn", &drawn(".l-ceiling"));
    browser.wait_for(SOON, "pinned", &shown("[data-backend=web-1] .pinned"));
    let why = "document.querySelector('.why').textContent.includes('4 → 3')";
    browser.wait_for(SOON, "why it moved", why);

    drop(held);
    for client in waiting {
        client.join().unwrap();
    }
    browser.wait_for(SOON, "all over", &says(count, "0 of 3"));
    assert_eq!(browser.complaints().unwrap(), [""; 0]);
}

#[test]
fn the_page_tells_of_a_flood_and_of_connections_that_were_not_taken() {
    let lab = one_backend();
    let mut config = Config::new(&lab, Family::V4, 4);
    let daemon = Daemon::start(&lab, &config).unwrap();
    let mut browser = opened(&lab);
    let (tag, shed) = ("header .tag.down", ".numbers div:last-child");
    for part in [tag, shed] {
        assert_eq!(browser.value(&shown(part)).unwrap(), false, "{part}");
    }
    config.web().flood = "mode = \"on\"";
    daemon.reload(&config).unwrap();
    browser.wait_for(SOON, "a flood is on", &shown(tag));
    // Its first SYN is shed; nobody listens at the back-end.
    let service = lab.service(Family::V4, SERVICE_PORT);
    let refused = lab.client(0).enter(|| client::connect(service));
    assert_eq!(
        refused.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    let counted = "parseInt(document.querySelector('.numbers div:last-child dd').textContent) >= 1";
    browser.wait_for(SOON, "the SYN was shed", counted);
    let why = "document.querySelector('.why').textContent.includes('SYNs refused 1, unanswered 0')";
    browser.wait_for(SOON, "who did not take it", why);

    config.web().flood = "mode = \"off\"";
    daemon.reload(&config).unwrap();
    let over = format!("!{}", shown(tag));
    browser.wait_for(SOON, "it is over", &over);
    assert_eq!(browser.complaints().unwrap(), [""; 0]);
}

#[test]
fn the_page_tells_when_the_daemon_is_gone_and_goes_on_with_the_next() {
    let lab = one_backend();
    let mut daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let mut browser = opened(&lab);
    assert_eq!(browser.value(&shown("#gone")).unwrap(), false);
    daemon.stop().unwrap();
    browser.wait_for(SOON, "gone", &shown("#gone"));
    let told = "document.querySelector('#gone').textContent.includes('has not answered since')";
    assert_eq!(browser.value(told).unwrap(), true);
    // What was known last stays to be read.
    let count = "[data-backend=web-1] .count";
    assert_eq!(browser.value(&says(count, "0 of 4")).unwrap(), true);

    daemon.restart().unwrap();
    browser.wait_for(SOON, "live again", &says("#live", "live"));
    assert_eq!(browser.value(&shown("#gone")).unwrap(), false);
}

#[test]
fn the_page_fits_a_phone_is_light_and_dark_and_runs_no_foreign_script() {
    let lab = one_backend();
    let _daemon = Daemon::start(&lab, &Config::new(&lab, Family::V4, 4)).unwrap();
    let mut browser = opened(&lab);
    let mut grounds = Vec::new();
    for (width, height, dark) in [(1280, 900, false), (390, 844, false), (390, 844, true)] {
        browser.show_as(width, height, dark).unwrap();
        let fits = "document.documentElement.scrollWidth <= innerWidth";
        browser.wait_for(SOON, "it fits the window", fits);
        let ground = "getComputedStyle(document.body).backgroundColor";
        grounds.push(browser.value(ground).unwrap());
    }
    assert_eq!(grounds[0], grounds[1]);
    assert_ne!(grounds[1], grounds[2]);

    // A filter is asked of the daemon.
    let type_filter = "const box = document.querySelector('#filter'); box.value = 'nobody'; \
                       box.dispatchEvent(new Event('input'))";
    browser.value(type_filter).unwrap();
    let nothing = "document.querySelectorAll('.service').length === 0";
    browser.wait_for(SOON, "nothing matches", nothing);
    assert_eq!(browser.complaints().unwrap(), [""; 0]);

    let foreign = "const script = document.createElement('script'); \
                   script.textContent = 'window.ran = true'; document.body.append(script); \
                   window.ran === undefined";
    assert_eq!(browser.value(foreign).unwrap(), true);
    let refused = browser.complaints().unwrap();
    assert!(
        refused
            .iter()
            .any(|one| one.contains("Content Security Policy")),
        "{refused:?}"
    );
}
