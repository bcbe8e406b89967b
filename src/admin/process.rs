//! What this process takes of the machine. Linux tells it in a file; elsewhere nothing is told.

/// CPU time and resident memory.
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: f64,
}

/// None where the system does not tell.
pub(super) fn usage() -> Option<Usage> {
    let told = std::fs::read_to_string("/proc/self/stat").ok()?;
    parse(&told, rustix::param::clock_ticks_per_second() as f64, rustix::param::page_size() as f64)
}

fn parse(told: &str, ticks_per_second: f64, page_bytes: f64) -> Option<Usage> {
    // The name, in parentheses, may hold anything: the fields are counted behind it.
    let fields: Vec<&str> = told.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(Usage {
        cpu_seconds: (number(11)? + number(12)?) / ticks_per_second,
        resident_bytes: number(21)? * page_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let told = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 19 20 256 22";
        let usage = parse(told, 100.0, 4096.0).expect("parsed");
        assert!((usage.cpu_seconds - 2.0).abs() < 1e-9);
        assert!((usage.resident_bytes - 1_048_576.0).abs() < 1e-9);
        assert!(parse("nonsense", 100.0, 4096.0).is_none());
    }
}
