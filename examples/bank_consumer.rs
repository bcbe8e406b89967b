//! Builds the bank's ledger from Kafka, and compares it with what both databases have.
//!
//! `cargo run --example bank_consumer -- postgresql://app@127.0.0.1/north
//! postgresql://app@127.0.0.1/south`, beside `onecommit.toml`, while a relay runs.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use onecommit::config::Config;
use onecommit::service::open_reader;
use serde_json::Value;
use tokio_postgres::NoTls;

type Ledger = BTreeMap<String, i64>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let north = entries(&arguments.next().ok_or("the first argument is north's url")?).await?;
    let south = entries(&arguments.next().ok_or("the second is south's url")?).await?;

    let mut ledger = Ledger::new();
    let mut reader = open_reader(&Config::load(None)?, "transfer.made", None, true)?;
    while ledger.len() < south.len() {
        let Some(message) = reader.next(Duration::from_secs(1))? else { continue };
        let made: Value = serde_json::from_slice(&message.value.unwrap_or_default())?;
        let transfer = made["transfer"].as_str().ok_or("a message without transfer")?.to_string();
        let amount = made["amount"].as_i64().ok_or("a message without amount")?;
        if ledger.insert(transfer.clone(), amount).is_some() {
            return Err(format!("twice in Kafka: {transfer}").into());
        }
    }
    let mirrored: Ledger = north.into_iter().map(|(transfer, amount)| (transfer, -amount)).collect();
    if ledger != south || mirrored != south {
        return Err("they do not agree".into());
    }
    println!("{} transfers: both databases and Kafka agree", ledger.len());
    Ok(())
}

/// The transfers that a database knows, with how its account changed.
async fn entries(url: &str) -> Result<Ledger, Box<dyn Error>> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    let rows = client.query("select transfer::text, amount from entries", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), i64::from(row.get::<_, i32>(1)))).collect())
}
