//! Moves money between two databases, and publishes each transfer: all three happen, or none.
//!
//! Needs `onecommit.toml` with the PostgreSQL participants `north` (with an outbox) and `south`, and
//! `onecommit init --topic transfer.made`. `cargo run --example bank --
//! postgresql://app@127.0.0.1/north postgresql://app@127.0.0.1/south 10`.

use std::error::Error;

use deadpool_postgres::{Manager, Pool};
use onecommit::config::Config;
use onecommit::coordinator::{Node, Options};
use onecommit::{ErrorKind, Message};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

const TABLES: &str = "
    create table if not exists accounts (name text primary key, total int not null check (total >= 0));
    create table if not exists entries (transfer uuid primary key, amount int not null);
    insert into accounts values ('ann', 100) on conflict do nothing";
const ATTEMPTS: u32 = 5;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut pool = |missing: &'static str| -> Result<Pool, Box<dyn Error>> {
        let url = arguments.next().ok_or(missing)?;
        Ok(Pool::builder(Manager::new(url.parse()?, NoTls)).max_size(4).build()?)
    };
    let (north, south) = (pool("the first argument is north's url")?, pool("the second is south's url")?);
    let transfers: i32 = arguments.next().ok_or("the third is a number of transfers")?.parse()?;

    for pool in [&north, &south] {
        pool.get().await?.batch_execute(TABLES).await?;
    }
    let node = onecommit::service::open_node(&Config::load(None)?).await?; // one for the whole process
    for n in 0..transfers {
        let amount = if n % 2 == 0 { 30 } else { -10 };
        println!("{} {amount}", told(&node, &north, &south, amount).await?);
    }
    node.close().await;
    Ok(())
}

/// Makes one transfer, again where another one was in the way.
async fn told(node: &Node, north: &Pool, south: &Pool, amount: i32) -> Result<String, Box<dyn Error>> {
    for _ in 0..ATTEMPTS {
        let Err(error) = transfer(node, north, south, amount).await else { return Ok("committed".into()) };
        let of_onecommit = error.downcast_ref::<onecommit::Error>().map(onecommit::Error::kind);
        let of_postgres = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
        match (of_onecommit, of_postgres) {
            (Some(ErrorKind::Conflict), _) => continue,
            // Never run again before its outcome is known.
            (Some(ErrorKind::InDoubt), _) => return Ok(format!("in doubt: {error}")),
            // There is not enough; nothing happened in either database.
            (_, Some(code)) if *code == SqlState::CHECK_VIOLATION => return Ok("refused".into()),
            _ => return Err(error),
        }
    }
    Err("other transfers were in the way each time".into())
}

/// Moves what Ann has in the north to what she has in the south; a negative amount back. On any `?` the
/// transaction is dropped, and with it rolled back.
async fn transfer(node: &Node, north: &Pool, south: &Pool, amount: i32) -> Result<(), Box<dyn Error>> {
    let (north, south) = (north.get().await?, south.get().await?);
    let branches = [("north".parse()?, &**north), ("south".parse()?, &**south)];
    let mut tx = node.transaction(&branches, Options::default()).await?;
    let transfer = Uuid::new_v4();
    for (client, change) in [(&north, -amount), (&south, amount)] {
        client.execute("update accounts set total = total + $1 where name = 'ann'", &[&change]).await?;
        client.execute("insert into entries values ($1, $2)", &[&transfer, &change]).await?;
    }
    let value = format!(r#"{{"transfer":"{transfer}","amount":{amount}}}"#);
    tx.publish(Message::new("transfer.made", "ann", value)?, None)?;
    tx.commit().await?;
    Ok(())
}
