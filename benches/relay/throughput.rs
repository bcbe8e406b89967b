//! The relay, the bare producer and the poller over the same backlog, in rounds whose order turns.

use crate::figure::Budget::{AtLeast, AtMost, None as Free};
use crate::figure::Figure;
use crate::run::Run;
use crate::{Options, Result, Servers, bare, ours, poller};

/// One run of each.
struct Round {
    ours: Run,
    bare: Run,
    poller: Run,
}

/// Measures all rounds.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Vec<Figure>> {
    let messages = options.messages;
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        let (mut ours, mut bare, mut poller) = (None, None, None);
        for turn in 0..3 {
            match (number + turn) % 3 {
                0 => ours = Some(ours::measure(servers, options, messages).await?),
                1 => bare = Some(bare::measure(servers, messages)?),
                _ => poller = Some(poller::measure(servers, messages).await?),
            }
        }
        if let (Some(ours), Some(bare), Some(poller)) = (ours, bare, poller) {
            let round = Round { ours, bare, poller };
            round.print(number);
            rounds.push(round);
        }
    }
    Ok(figures(&rounds))
}

impl Round {
    fn print(&self, number: usize) {
        let Round { ours, bare, poller } = self;
        eprintln!(
            "round {}: relay {:.0}/s, {:.0}/s pruned, {:.2} µs CPU, {:.0} MB; bare {:.0}/s, {:.2} µs CPU; \
             poller {:.0}/s, {:.2} µs CPU, {:.0} MB",
            number + 1,
            ours.rate(),
            ours.rate_pruned(),
            ours.cpu_us(),
            ours.peak_rss_mb,
            bare.rate(),
            bare.cpu_us(),
            poller.rate(),
            poller.cpu_us(),
            poller.peak_rss_mb,
        );
    }
}

fn figures(rounds: &[Round]) -> Vec<Figure> {
    let of = |figure: fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<f64>>();
    vec![
        Figure::new("bare producer, messages/s", Free, of(|round| round.bare.rate())),
        Figure::new("relay, messages/s, pruning deferred", Free, of(|round| round.ours.rate())),
        Figure::new("relay, messages/s, with pruning", Free, of(|round| round.ours.rate_pruned())),
        Figure::new("poller, messages/s", Free, of(|round| round.poller.rate())),
        Figure::new(
            "relay : bare producer, pruning deferred",
            AtLeast(0.8),
            of(|round| round.ours.rate() / round.bare.rate()),
        ),
        Figure::new(
            "relay : bare producer, with pruning",
            AtLeast(0.7),
            of(|round| round.ours.rate_pruned() / round.bare.rate()),
        ),
        Figure::new(
            "relay : poller, pruning deferred",
            AtLeast(2.5),
            of(|round| round.ours.rate() / round.poller.rate()),
        ),
        Figure::new(
            "relay : poller, with pruning",
            AtLeast(2.0),
            of(|round| round.ours.rate_pruned() / round.poller.rate()),
        ),
        Figure::new("bare producer, CPU µs a message", Free, of(|round| round.bare.cpu_us())),
        Figure::new("relay, CPU µs a message", Free, of(|round| round.ours.cpu_us())),
        Figure::new("poller, CPU µs a message", Free, of(|round| round.poller.cpu_us())),
        Figure::new(
            "CPU a message, relay : bare producer",
            AtMost(1.3),
            of(|round| round.ours.cpu_us() / round.bare.cpu_us()),
        ),
        Figure::new("relay, peak memory, MB", AtMost(64.0), of(|round| round.ours.peak_rss_mb)),
        Figure::new("poller, peak memory, MB", Free, of(|round| round.poller.peak_rss_mb)),
    ]
}
