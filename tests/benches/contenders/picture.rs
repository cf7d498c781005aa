//! The picture: a panel of bars for each measure, a bar for each contender.

use dispatcher_tests::drawing::{Bar, Drawing};

use crate::contender::Contender;
use crate::figures::{Measure, Rounds};
use crate::report;

/// Draws it.
pub fn draw(rounds: &Rounds) -> String {
    let mut drawing = Drawing::default();
    for measure in Measure::ALL {
        let bars: Vec<_> = Contender::ALL
            .into_iter()
            .map(|contender| bar(rounds, measure, contender))
            .collect();
        let floor = rounds.value(measure, Contender::Floor).ok();
        drawing.bars(&measure.title(), &bars, floor);
    }
    let others = Contender::ALL.into_iter();
    let others = others.filter(|contender| *contender != Contender::Floor);
    let above: Vec<_> = others.map(|contender| above(rounds, contender)).collect();
    drawing.bars(
        "processor time of the whole machine a connection, above the floor, µs",
        &above,
        Some(report::COST_MOST),
    );
    drawing.finish()
}

fn above(rounds: &Rounds, contender: Contender) -> Bar {
    let measure = Measure::ConnectionCost;
    let value = rounds.above(measure, contender, Contender::Floor).ok();
    Bar {
        name: contender.name(),
        colour: colour(contender),
        value,
        label: value.map_or_else(|| "error".to_owned(), |value| measure.show(value)),
    }
}

fn bar(rounds: &Rounds, measure: Measure, contender: Contender) -> Bar {
    let value = rounds.value(measure, contender).ok();
    let label = match (value, rounds.ratio(measure, contender, Contender::Floor)) {
        (Some(value), _) if contender == Contender::Floor => measure.show(value),
        (Some(value), Ok(ratio)) => format!("{}, {ratio:.2} × floor", measure.show(value)),
        (Some(value), Err(_)) => measure.show(value),
        (None, _) => "error".to_owned(),
    };
    Bar {
        name: contender.name(),
        colour: colour(contender),
        value,
        label,
    }
}

fn colour(contender: Contender) -> &'static str {
    match contender {
        Contender::Routing => "#b8b8b8",
        Contender::Floor => "#7f7f7f",
        Contender::Dispatcher => "#1f6fb2",
        Contender::Nftables => "#d9a441",
        Contender::Haproxy => "#c0392b",
        Contender::Nginx => "#6a9f58",
    }
}
