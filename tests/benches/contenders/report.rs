//! The report: what ran where, medians and ratios, what was to be reached, and what was not.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use dispatcher_tests::adoption::Start;
use dispatcher_tests::machine::{self, Processors};

use crate::contender::Contender;
use crate::figures::{Measure, Rounds};
use crate::measure::{BULK_CLIENTS, CLIENTS, RATE};
use crate::peers;

/// The heading over what the bench of a real server says.
const OVERLOAD: &str = "A real server under overload";

/// What a connection may cost above the floor, µs.
pub const COST_MOST: f64 = 10.0;

/// What was measured.
pub struct Results {
    /// Who served what.
    pub rounds: Rounds,
    /// Bytes of a request that waits.
    pub queued: Result<f64>,
    /// Starts over flows, by number.
    pub starts: Vec<Result<Start>>,
}

/// Something that is to be reached.
struct Target {
    what: String,
    wanted: String,
    measured: Result<(String, bool), String>,
}

/// Machine and versions, without which figures mean nothing.
///
/// What else the machine does is seen in the second before anything begins.
pub fn setting(rounds: usize) -> Result<String> {
    const LOOK: Duration = Duration::from_secs(1);
    let before = Processors::now()?;
    std::thread::sleep(LOOK);
    let others = Processors::now()?.busy_since(&before).as_secs_f64() / LOOK.as_secs_f64();
    let versions = peers::versions()?.join(", ");
    let rounds = if rounds == 1 {
        "one short round, for a look and not for figures".to_owned()
    } else {
        format!("medians of {rounds} rounds in which contenders take turns")
    };
    Ok(format!(
        "{}, {}; {versions}. Before it began, the machine was busy with other things on \
         {others:.2} of its processors. Namespaces over veth, MTU 1500, without checksum and \
         segmentation offload and without GRO, for all alike; 2 clients, 2 back-ends, {rounds}.",
        machine::describe()?,
        machine::today()?
    ))
}

/// The whole of it; `target` is where other benches leave theirs.
pub fn write(setting: &str, results: &Results, target: &Path) -> String {
    let mut report = format!("{setting}\n\n");
    report += &values(&results.rounds);
    report += &ratios(&results.rounds);
    report += &costs(&results.rounds);
    report += &starts(&results.starts);
    report += &reached(results);
    for (contender, why) in results.rounds.errors() {
        let _ = writeln!(report, "\nError of {}, {why}", contender.name());
    }
    report += &overload(target);
    report
}

fn heading() -> String {
    let names: Vec<_> = Measure::ALL.iter().map(|measure| measure.name()).collect();
    format!(
        "| contender | {} |\n|---|{}\n",
        names.join(" | "),
        "--:|".repeat(names.len())
    )
}

fn table(cell: impl Fn(Measure, Contender) -> Result<String, String>) -> String {
    let mut table = heading();
    for contender in Contender::ALL {
        let cells = Measure::ALL.map(|measure| match cell(measure, contender) {
            Ok(text) => text,
            Err(_) => "error".to_owned(),
        });
        let _ = writeln!(table, "| {} | {} |", contender.name(), cells.join(" | "));
    }
    table
}

fn values(rounds: &Rounds) -> String {
    let medians = table(|measure, contender| {
        let median = measure.show(rounds.value(measure, contender)?);
        if rounds.0.len() == 1 {
            return Ok(median);
        }
        let (least, most) = rounds.range(measure, contender)?;
        let (least, most) = (measure.show(least), measure.show(most));
        Ok(format!("{median} ({least}–{most})"))
    });
    format!(
        "Medians, in brackets the least and the most of the rounds. {CLIENTS} clients at once, \
         {BULK_CLIENTS} for bulk; times (p50, p99) and the last but one column at {RATE} new \
         connections a second in an open loop, from when a request was due.\n\n{medians}\n"
    )
}

fn ratios(rounds: &Rounds) -> String {
    let ratios = table(|measure, contender| {
        let ratio = rounds.ratio(measure, contender, Contender::Floor)?;
        Ok(format!("{ratio:.2}"))
    });
    format!("How many times the floor, the median of the rounds' own ratios:\n\n{ratios}\n")
}

fn costs(rounds: &Rounds) -> String {
    let costs = [
        Measure::ConnectionCost,
        Measure::SteadyCost,
        Measure::PacketCost,
    ];
    let mut table = "Processor time of the whole machine above the floor, µs:\n\n\
                     | contender | a connection | a connection, at a fixed rate | a packet |\n\
                     |---|--:|--:|--:|\n"
        .to_owned();
    for contender in Contender::ALL {
        if contender == Contender::Floor {
            continue;
        }
        let cells = costs.map(|measure| {
            let above = rounds.above(measure, contender, Contender::Floor);
            above.map_or("error".to_owned(), |above| measure.show(above))
        });
        let _ = writeln!(table, "| {} | {} |", contender.name(), cells.join(" | "));
    }
    table + "\n"
}

fn starts(starts: &[Result<Start>]) -> String {
    let mut table = "Starts over established flows:\n\n\
                     | flows | to the first answer | of a processor | memory of the daemon | \
                     table in the kernel, bytes a flow of its capacity |\n\
                     |--:|--:|--:|--:|--:|\n"
        .to_owned();
    for start in starts {
        let _ = match start {
            Ok(start) => writeln!(
                table,
                "| {} | {} ms | {} ms | {} MiB | {:.0} |",
                start.flows,
                start.ready.as_millis(),
                start.used.as_millis(),
                start.memory_peak >> 20,
                bytes_of_a_flow(start)
            ),
            Err(error) => writeln!(table, "| error: {error:#} | | | | |"),
        };
    }
    table + "\n"
}

fn bytes_of_a_flow(start: &Start) -> f64 {
    start.table as f64 / f64::from(start.capacity)
}

fn reached(results: &Results) -> String {
    let mut table = "What is to be reached:\n\n\
                     | measure | at least | measured | |\n\
                     |---|---|--:|---|\n"
        .to_owned();
    for Target {
        what,
        wanted,
        measured,
    } in targets(results)
    {
        let (measured, reached) = match measured {
            Ok((measured, true)) => (measured, "reached"),
            Ok((measured, false)) => (measured, "**not reached**"),
            Err(why) => (why, "**unknown**"),
        };
        let _ = writeln!(table, "| {what} | {wanted} | {measured} | {reached} |");
    }
    let _ = writeln!(
        table,
        "\nThe program by the packet, requests through AF_XDP and the decisions of admission have \
         benches of their own: `program` and `admission`."
    );
    table
}

fn targets(results: &Results) -> Vec<Target> {
    let rounds = &results.rounds;
    let mut targets = vec![
        at_least(rounds, Measure::KeepAlive, Contender::Floor, 0.97),
        at_least(rounds, Measure::Bulk, Contender::Floor, 0.97),
        at_least(rounds, Measure::Connections, Contender::Floor, 0.95),
        at_least(rounds, Measure::Connections, Contender::Haproxy, 1.35),
        at_least(rounds, Measure::Connections, Contender::Nftables, 1.0),
    ];
    targets.extend(costs_to_reach(rounds));
    let queued = results.queued.as_ref();
    targets.push(Target {
        what: "memory of a request that waits".to_owned(),
        wanted: "≤ 256 bytes".to_owned(),
        measured: queued
            .map(|bytes| (format!("{bytes:.0} bytes"), *bytes <= 256.0))
            .map_err(|error| format!("{error:#}")),
    });
    if let Some(Ok(start)) = results.starts.last() {
        let bytes = bytes_of_a_flow(start);
        targets.push(Target {
            what: "kernel memory of a flow".to_owned(),
            wanted: "≤ 448 bytes".to_owned(),
            measured: Ok((format!("{bytes:.0} bytes"), bytes <= 448.0)),
        });
        targets.push(Target {
            what: format!("start over {} flows", start.flows),
            wanted: "≤ 3 s for 1000000".to_owned(),
            measured: Ok((
                format!("{:.2} s", start.ready.as_secs_f64()),
                start.ready <= Duration::from_secs(3),
            )),
        });
    }
    targets
}

fn at_least(rounds: &Rounds, measure: Measure, than: Contender, wanted: f64) -> Target {
    let ratio = rounds.ratio(measure, Contender::Dispatcher, than);
    Target {
        what: measure.name().to_owned(),
        wanted: format!("{wanted} × {}", than.name()),
        measured: ratio.map(|ratio| (format!("{ratio:.2}"), ratio >= wanted)),
    }
}

/// All above the floor.
fn costs_to_reach(rounds: &Rounds) -> Vec<Target> {
    let above = |of| rounds.above(Measure::ConnectionCost, of, Contender::Floor);
    let own = above(Contender::Dispatcher);
    let against = |other: Contender, share: f64, wanted: String| Target {
        what: "CPU a connection above the floor".to_owned(),
        wanted,
        measured: own.clone().and_then(|own| {
            let other = above(other)?;
            Ok((format!("{own:.1} of {other:.1} µs"), own <= share * other))
        }),
    };
    vec![
        Target {
            what: "CPU a connection above the floor".to_owned(),
            wanted: format!("≤ {COST_MOST} µs"),
            measured: own
                .clone()
                .map(|own| (format!("{own:.1} µs"), own <= COST_MOST)),
        },
        against(
            Contender::Haproxy,
            1.0 / 6.0,
            "≤ 1/6 of HAProxy's".to_owned(),
        ),
        against(Contender::Nftables, 1.0, "below nftables'".to_owned()),
    ]
}

/// What the bench of a real server left here, or the run of it that the manual has.
fn overload(target: &Path) -> String {
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/overload.md");
    let (text, from) = match fs::read_to_string(target.join("bench-overload.md")) {
        Ok(text) => (text, "the last run of `cargo xtask bench overload` here"),
        Err(_) => (
            fs::read_to_string(manual).unwrap_or_default(),
            "the run in docs/overload.md",
        ),
    };
    // Its tables, and what must hold; the manual explains them.
    let lines = text
        .lines()
        .skip_while(|line| !line.starts_with("What it can carry"));
    let lines: Vec<_> = lines.collect();
    format!("\n## {OVERLOAD}\n\nFrom {from}.\n\n{}\n", lines.join("\n"))
}
