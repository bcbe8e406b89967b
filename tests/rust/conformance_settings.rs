//! What every store of run-time settings owes to those who change and follow them. A backend passes by calling
//! [`suite`].

use std::time::Duration;

use onecommit::error::ErrorKind;
use onecommit::settings::{SettingsStore, StoredSettings};

use crate::patience::{LIMIT, answered};

/// Where settings are kept: opens one more who uses them.
pub type Place = Box<dyn Fn() -> Box<dyn SettingsStore>>;

/// Runs every check, each with a place of its own.
pub async fn suite(fresh: impl AsyncFn() -> Place) {
    what_is_stored_is_read(&fresh().await).await;
    nobody_overwrites_what_he_has_not_seen(&fresh().await).await;
    who_follows_is_told_of_each_change(&fresh().await).await;
    of_many_who_write_at_once_each_is_kept(&fresh().await).await;
}

async fn read(store: &mut dyn SettingsStore) -> StoredSettings {
    answered(async || store.read().await).await
}

async fn what_is_stored_is_read(place: &Place) {
    let (mut one, mut other) = (place(), place());
    assert_eq!(read(&mut *one).await, StoredSettings::default());
    assert_eq!(one.write(0, b"a").await.unwrap(), 1);
    assert_eq!(read(&mut *other).await, StoredSettings { revision: 1, bytes: b"a".to_vec() });
    assert_eq!(other.write(1, b"").await.unwrap(), 2);
    assert_eq!(read(&mut *one).await, StoredSettings { revision: 2, bytes: Vec::new() });
}

async fn nobody_overwrites_what_he_has_not_seen(place: &Place) {
    let (mut one, mut other) = (place(), place());
    one.write(0, b"one").await.unwrap();
    for seen in [0, 2, 7] {
        assert_eq!(other.write(seen, b"other").await.unwrap_err().kind(), ErrorKind::Conflict, "{seen}");
    }
    one.write(1, b"two").await.unwrap();
    assert_eq!(other.write(1, b"other").await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(read(&mut *other).await, StoredSettings { revision: 2, bytes: b"two".to_vec() });
}

async fn who_follows_is_told_of_each_change(place: &Place) {
    let (mut one, mut follower) = (place(), place());
    for (seen, text) in ["a", "b", "c"].into_iter().enumerate() {
        let seen = seen as u64;
        let mut waiting = tokio::spawn(async move { (follower.changed(seen).await, follower) });
        // There is nothing to tell of yet.
        let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
        assert!(early.is_err(), "{text}: told of what it had seen");
        one.write(seen, text.as_bytes()).await.unwrap();
        let told = tokio::time::timeout(LIMIT, waiting).await.expect("it is told").unwrap();
        follower = told.1;
        assert_eq!(told.0.unwrap(), StoredSettings { revision: seen + 1, bytes: text.as_bytes().to_vec() });
    }
    // One that comes late is told at once.
    assert_eq!(answered(async || place().changed(1).await).await.revision, 3);
}

async fn of_many_who_write_at_once_each_is_kept(place: &Place) {
    const WRITERS: usize = 8;
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        let mut store = place();
        writers.spawn(async move {
            loop {
                let stored = store.read().await.unwrap();
                let mut bytes = stored.bytes.clone();
                bytes.push(u8::try_from(number).unwrap());
                match store.write(stored.revision, &bytes).await {
                    Ok(_) => return,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
                }
            }
        });
    }
    writers.join_all().await;
    let stored = read(&mut *place()).await;
    let mut bytes = stored.bytes.clone();
    bytes.sort_unstable();
    assert_eq!(bytes, (0..8).collect::<Vec<u8>>(), "each change is there");
    assert_eq!(stored.revision, 8);
}
