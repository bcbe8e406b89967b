//! Prints the committed messages of a topic, up to a number of them.
//!
//! `cargo run --example consumer -- account.changed 7`, beside `onecommit.toml`.

use std::time::Duration;

use onecommit::config::Config;
use onecommit::service::open_reader;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let topic = arguments.next().ok_or("the first argument is a topic")?;
    let count: usize = arguments.next().ok_or("the second argument is a number of messages")?.parse()?;

    let mut reader = open_reader(&Config::load(None)?, &topic, None, true)?;
    let mut read = 0;
    while read < count {
        if let Some(message) = reader.next(Duration::from_secs(1))? {
            let text =
                |part: Option<Vec<u8>>| String::from_utf8_lossy(&part.unwrap_or_default()).into_owned();
            println!(
                "{} {} {} {}",
                message.partition,
                message.offset,
                text(message.key),
                text(message.value)
            );
            read += 1;
        }
    }
    Ok(())
}
