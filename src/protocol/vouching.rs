//! Which barrier the next progress names, once something was set aside.
//!
//! The progress may only name a barrier whose commit came after everything that it relies on: the
//! window's rows, and the records of what it passes over. A window's barrier and a record's may be
//! under way at the same time on two connections; then the one that was drawn later can be committed
//! first, and a failover can keep it and lose the other. So numbers alone decide nothing: what a
//! snapshot sees was committed before it was taken, and what was waited for was committed before
//! that wait ended.

use crate::protocol::position::Position;

/// What the progress names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vouching {
    /// The window's own barrier: it was begun behind the voucher's commit.
    Window,
    /// The voucher: it was begun when the window's barrier was known to be committed.
    Voucher,
    /// Neither is known to be the later one: a new barrier has to be, begun now.
    Fresh,
}

/// `voucher` is the number of the barrier that was last committed with a record, `window` that of
/// the window's barrier, 0 where it is a former owner's; `position` lies in that window, and
/// `waited_for` says whether its barrier was known to be durable before the voucher was begun.
pub fn choose(voucher: Option<i64>, window: i64, position: &Position, waited_for: bool) -> Vouching {
    let Some(voucher) = voucher else { return Vouching::Window };
    let began_behind = match position {
        // SQLite has one writer: barriers are committed in the order of their numbers.
        Position::Sequence { .. } => window > voucher,
        Position::Snapshots { prev, this, .. } => {
            let snapshot = this.as_ref().unwrap_or(prev);
            u64::try_from(voucher).is_ok_and(|voucher| snapshot.sees(voucher))
        }
    };
    match (began_behind, waited_for || window == 0) {
        (true, _) => Vouching::Window,
        (false, true) => Vouching::Voucher,
        (false, false) => Vouching::Fresh,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(this: &str) -> Position {
        let prev = "90:90:".parse().unwrap();
        Position::Snapshots { prev, this: Some(this.parse().unwrap()), last: 5 }
    }

    #[test]
    fn a_window_that_began_behind_the_record_vouches_for_both() {
        assert_eq!(choose(Some(100), 105, &within("101:104:"), false), Vouching::Window);
        let finished = Position::finished("101:104:".parse().unwrap());
        assert_eq!(choose(Some(100), 105, &finished, false), Vouching::Window);
        assert_eq!(choose(None, 105, &within("90:95:"), false), Vouching::Window);
    }

    #[test]
    fn a_window_under_way_with_the_record_does_not_whatever_its_number() {
        // Drawn later, and yet it may have been committed first.
        assert_eq!(choose(Some(100), 105, &within("100:104:100"), false), Vouching::Fresh);
        assert_eq!(choose(Some(110), 105, &within("101:104:"), false), Vouching::Fresh);
    }

    #[test]
    fn what_was_waited_for_before_the_record_is_covered_by_it() {
        assert_eq!(choose(Some(110), 105, &within("101:104:"), true), Vouching::Voucher);
        assert_eq!(choose(Some(110), 0, &within("50:60:"), false), Vouching::Voucher, "a former owner's");
    }

    #[test]
    fn in_sqlite_the_numbers_are_in_commit_order() {
        let position = Position::Sequence { last: 9 };
        assert_eq!(choose(Some(3), 4, &position, false), Vouching::Window);
        assert_eq!(choose(Some(5), 4, &position, true), Vouching::Voucher);
        assert_eq!(choose(Some(5), 4, &position, false), Vouching::Fresh);
    }
}
