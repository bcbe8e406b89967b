//! Changes a row and publishes in the same transaction; every third one is rolled back.
//!
//! `cargo run --example producer -- postgresql://app@127.0.0.1/orders 10`, after
//! `onecommit init --topic account.changed`.

use onecommit::{Message, Outbox};
use tokio_postgres::NoTls;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("the first argument is PostgreSQL's address")?;
    let changes: i32 = arguments.next().ok_or("the second argument is a number of changes")?.parse()?;

    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    let outbox = Outbox::new();
    client
        .batch_execute(
            "create table if not exists accounts (id int primary key, total int not null);
             insert into accounts values (42, 0) on conflict do nothing",
        )
        .await?;
    for number in 0..changes {
        let transaction = client.transaction().await?;
        // Change first: the row's lock puts this transaction behind the one before it.
        let change = "update accounts set total = total + 1 where id = 42 returning total";
        let total: i32 = transaction.query_one(change, &[]).await?.get(0);
        let message = Message::new("account.changed", "42", format!("{{\"total\":{total}}}"))?;
        outbox.publish(&transaction, &message).await?;
        if number % 3 == 2 {
            transaction.rollback().await?;
            println!("rolled back {total}");
        } else {
            transaction.commit().await?;
            println!("committed {total}");
        }
    }
    Ok(())
}
