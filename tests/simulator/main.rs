//! Scratch.
use core::time::Duration;
use dispatcher_simulator::{judge, run::run, scenario::Scenario};
use dispatcher_user::ceiling::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let only = args.get(1).cloned().unwrap_or_default();
    let pol = args.get(2).cloned().unwrap_or_default();
    let verbose = args.len() > 3;
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1);
    for s in Scenario::all() {
        if !only.is_empty() && only != "all" && s.name != only {
            continue;
        }
        let sweep = judge::sweep(&s, seed);
        let unloaded = s.servers[0].unloaded();
        let policies = [
            Policy::QueueDepth(QueueDepth::default()),
            Policy::Throughput(Throughput::default()),
            Policy::Gradient(Gradient::default()),
            Policy::ResponseTime(ResponseTime {
                metric: Metric::Mean,
                low: Duration::from_secs_f64(2.0 * unloaded),
                high: Duration::from_secs_f64(6.0 * unloaded),
            }),
        ];
        for p in policies {
            if !pol.is_empty() && p.label() != pol {
                continue;
            }
            let o = run(
                &s,
                &Settings {
                    policy: p.clone(),
                    ..Settings::default()
                },
                s.initial,
                seed,
            );
            for st in &s.stretches {
                let best = sweep
                    .iter()
                    .map(|(c, o)| (judge::throughput(o, st), *c))
                    .max_by(|a, b| a.0.total_cmp(&b.0))
                    .unwrap();
                let w = &o.samples[st.begins + 60..st.ends];
                let lo = w.iter().map(|x| x.backends[0].ceiling).min().unwrap();
                let hi = w.iter().map(|x| x.backends[0].ceiling).max().unwrap();
                let got = judge::throughput(&o, st);
                // settled: first window from which the mean of the next 10 stays >= 90 %
                let m =
                    |i: usize| o.samples[i..i + 20].iter().map(|x| x.served).sum::<f64>() / 20.0;
                let b10 = |i: usize| {
                    sweep.iter().find(|(c, _)| *c == best.1).unwrap().1.samples[i..i + 20]
                        .iter()
                        .map(|x| x.served)
                        .sum::<f64>()
                        / 20.0
                };
                let settled = (st.begins..st.ends - 20)
                    .rev()
                    .take_while(|&i| m(i) >= 0.9 * b10(i))
                    .last()
                    .map(|i| i - st.begins);
                println!(
                    "{:9} {:7} {:13} best {:.0} at {}; got {:.0} = {:.1} %  settled {:?} ceiling {lo}..{hi} {}",
                    s.name,
                    st.name,
                    p.label(),
                    best.0,
                    best.1,
                    got,
                    got / best.0 * 100.0,
                    settled,
                    if got / best.0 < 0.9 || settled.is_none_or(|x| x > 60) {
                        "<<<<"
                    } else {
                        ""
                    }
                );
            }
            if verbose {
                for (i, x) in o.samples.iter().enumerate() {
                    println!(
                        "{i:3} off {:5.0} served {:5.0} q {:6.1} r {:6.1}ms p99 {:6.0} | {}",
                        x.offered,
                        x.served,
                        x.queue,
                        x.response * 1e3,
                        x.p99 * 1e3,
                        x.backends
                            .iter()
                            .map(|b| format!("c {:3} held {:5.1} {}", b.ceiling, b.held, b.why))
                            .collect::<Vec<_>>()
                            .join(" | ")
                    );
                }
                for c in &o.controllers {
                    println!(
                        "{}",
                        c.suggestion().map_or("none".into(), |s| s.to_string())
                    );
                }
            }
        }
    }
}
