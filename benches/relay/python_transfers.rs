//! Two databases in one commit from Python: `onecommit.open` beside SQLAlchemy's sessions with
//! `twophase=True`, which have no decision log (`benches/transfers.py`).

use crate::figure::Budget::{AtLeast, AtMost, None as Free};
use crate::figure::Figure;
use crate::process::python;
use crate::transfers::databases;
use crate::{Options, Result, Servers};

const THREADS: usize = 16;

/// Measures both in turns.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Vec<Figure>> {
    let databases = databases(servers).await?;
    let folder = tempfile::tempdir()?;
    let urls = [databases[0].url.as_str(), databases[1].url.as_str()];
    let (mut ours, mut theirs, mut left) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let ways = ["onecommit", "sqlalchemy"];
        for way in if round % 2 == 0 { ways } else { [ways[1], ways[0]] } {
            let (rate, prepared) = run(servers, folder.path(), urls, way, options.transfer_seconds)?;
            match way {
                "onecommit" => {
                    ours.push(rate);
                    left.push(prepared);
                }
                _ => theirs.push(rate),
            }
        }
    }
    for database in databases {
        database.drop().await?;
    }
    let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    let what = |what| format!("Python, {THREADS} threads: {what}");
    Ok(vec![
        Figure::new(what("ours, transfers/s"), Free, ours),
        Figure::new(what("SQLAlchemy twophase, transfers/s"), Free, theirs),
        Figure::new(what("ours : SQLAlchemy twophase"), AtLeast(1.0), ratios),
        Figure::new(what("ours, left prepared"), AtMost(0.0), left),
    ])
}

/// Transfers a second, and how many branches are still prepared behind it.
fn run(
    servers: &Servers,
    folder: &std::path::Path,
    urls: [&str; 2],
    way: &str,
    seconds: u64,
) -> Result<(f64, f64)> {
    let said = python()
        .args(["benches/transfers.py", way, urls[0], urls[1], &servers.zookeeper])
        .arg(folder)
        .args([THREADS.to_string(), seconds.to_string()])
        .output()?;
    if !said.status.success() {
        return Err(format!("transfers.py: {}", String::from_utf8_lossy(&said.stderr)).into());
    }
    let said = String::from_utf8(said.stdout)?;
    let (rate, prepared) = said.trim().split_once(' ').ok_or("transfers.py said less")?;
    Ok((rate.parse()?, prepared.parse()?))
}
