//! What was measured on: the machine, and the versions of everything that took part.

use std::fs;

use crate::backlog::connect;
use crate::process::python;
use crate::{Result, Servers};

const CONFLUENT: &str = "import confluent_kafka, platform, psycopg
print('Python', platform.python_version(), 'with confluent-kafka', confluent_kafka.version(),
      '(librdkafka ' + confluent_kafka.libversion()[0] + '), psycopg', psycopg.__version__)";
const KAFKA: &str = "from tests.servers.fetch import KAFKA; print(KAFKA)";

/// One line for each.
pub(crate) async fn versions(servers: &Servers) -> Result<String> {
    let client = connect(&servers.postgres).await?;
    let postgres: String = client.query_typed("show server_version", &[]).await?[0].get(0);
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    let cores = std::thread::available_parallelism()?;
    let lines = [
        format!("{cores} cores ({}), {:.0} GB of memory", processor()?, memory_gb()?),
        format!("PostgreSQL {postgres}, Kafka {} (unless another one was named)", said_by_python(KAFKA)?),
        format!("onecommit {} (librdkafka {librdkafka})", env!("CARGO_PKG_VERSION")),
        said_by_python(CONFLUENT)?,
    ];
    Ok(lines.map(|line| format!("- {line}")).join("\n"))
}

fn processor() -> Result<String> {
    let said = fs::read_to_string("/proc/cpuinfo")?;
    let model = said.lines().find_map(|line| line.strip_prefix("model name"));
    Ok(model.map_or("unknown", |model| model.trim_start_matches([' ', '\t', ':'])).to_string())
}

fn memory_gb() -> Result<f64> {
    let said = fs::read_to_string("/proc/meminfo")?;
    let kib: f64 = said.split_whitespace().nth(1).ok_or("no MemTotal")?.parse()?;
    Ok(kib * 1024.0 / 1e9)
}

fn said_by_python(code: &str) -> Result<String> {
    let said = python().args(["-c", code]).output()?;
    if !said.status.success() {
        return Err(format!("Python: {}", String::from_utf8_lossy(&said.stderr)).into());
    }
    Ok(String::from_utf8(said.stdout)?.trim().to_string())
}
