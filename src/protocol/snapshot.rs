//! A PostgreSQL snapshot, in its text form `xmin:xmax:xip,…`: which transactions a reader sees.

use std::fmt;

use crate::error::{Error, Result};

/// Transactions below `xmin` are seen, those at or above `xmax` are not, and between them all but
/// the ones that were in progress.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    in_progress: Vec<u64>,
}

impl Snapshot {
    /// The snapshot that sees nothing: below the first transaction a PostgreSQL can have.
    pub fn empty() -> Self {
        Snapshot { xmin: 3, xmax: 3, in_progress: Vec::new() }
    }

    /// The first transaction that had not begun.
    pub fn xmax(&self) -> u64 {
        self.xmax
    }

    /// Transactions below `xmax` that were in progress, ascending.
    pub fn in_progress(&self) -> &[u64] {
        &self.in_progress
    }

    /// Whether a committed transaction's effects are seen.
    pub fn sees(&self, transaction: u64) -> bool {
        transaction < self.xmax && self.in_progress.binary_search(&transaction).is_err()
    }
}

impl std::str::FromStr for Snapshot {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            Error::invalid("parse snapshot", "not a PostgreSQL snapshot (xmin:xmax:xip,…)")
                .with("snapshot", format!("{text:?}"))
        };
        let number = |part: &str| part.parse::<u64>().map_err(|_| refuse());
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(list), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refuse());
        };
        let (xmin, xmax) = (number(xmin)?, number(xmax)?);
        let in_progress: Vec<u64> =
            list.split(',').filter(|part| !part.is_empty()).map(number).collect::<Result<_>>()?;
        let ascending = in_progress.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = in_progress.iter().all(|xid| (xmin..xmax).contains(xid));
        if xmin == 0 || xmin > xmax || !ascending || !inside {
            return Err(refuse());
        }
        Ok(Snapshot { xmin, xmax, in_progress })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (index, xid) in self.in_progress.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{xid}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_comes_back_and_only_finished_transactions_are_seen(
            xmin in 3u64..1_000_000, ahead in 0u64..50, gaps in prop::collection::vec(any::<bool>(), 50)
        ) {
            let xmax = xmin + ahead;
            let running: Vec<String> = (xmin..xmax)
                .filter(|xid| gaps[(xid - xmin) as usize])
                .map(|xid| xid.to_string())
                .collect();
            let text = format!("{xmin}:{xmax}:{}", running.join(","));
            let snapshot: Snapshot = text.parse().unwrap();
            prop_assert_eq!(snapshot.to_string(), text);
            for xid in xmin - 1..=xmax {
                let expected = xid < xmax && (xid < xmin || !gaps[(xid - xmin) as usize]);
                prop_assert_eq!(snapshot.sees(xid), expected);
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[0-9:,x]{0,30}") {
            if let Ok(snapshot) = text.parse::<Snapshot>() {
                prop_assert_eq!(snapshot.to_string().parse::<Snapshot>().unwrap(), snapshot);
            }
        }
    }

    #[test]
    fn the_empty_snapshot_sees_no_transaction() {
        assert!(!Snapshot::empty().sees(3));
        assert_eq!(Snapshot::empty().to_string(), "3:3:");
    }
}
