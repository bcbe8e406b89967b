//! The stores of settings that change at run time: both conform, and what only one of them owes.

use onecommit::error::ErrorKind;
use onecommit::id::{Incarnation, Namespace};
use onecommit::settings::SettingsStore;
use onecommit::settings::file::FileSettingsStore;
use onecommit::settings::zookeeper::ZookeeperSettingsStore;
use onecommit::zookeeper::{ZookeeperSettings, init};

use crate::conformance_lease::SHORT;
use crate::conformance_settings::{self as conformance, Place};
use crate::patience::{LIMIT, answered};
use crate::zookeeper_server::{self, Proxy};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    conformance::suite(async || {
        number.set(number.get() + 1);
        let path = folder.path().join(format!("{}/settings.db", number.get()));
        Box::new(move || Box::new(FileSettingsStore::new(&path)) as Box<dyn SettingsStore>) as Place
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_makes_no_file_and_one_that_is_put_back_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.db");
    let mut store = FileSettingsStore::new(&path);
    assert_eq!(store.read().await.unwrap().revision, 0);
    assert!(!path.exists());
    store.write(0, b"a").await.unwrap();
    let elsewhere = folder.path().join("elsewhere");
    for ending in ["", "-wal", "-shm"] {
        let at = |path: &std::path::Path| format!("{}{ending}", path.display());
        let _ = std::fs::rename(at(&path), at(&elsewhere));
    }
    assert_eq!(store.read().await.unwrap().revision, 0, "what is gone holds no more");
    FileSettingsStore::new(&path).write(0, b"b").await.unwrap();
    assert_eq!(store.read().await.unwrap().bytes, b"b");
    std::fs::write(folder.path().join("other"), b"no database").unwrap();
    let error = FileSettingsStore::new(folder.path().join("other")).read().await.unwrap_err();
    assert!(error.to_string().contains("other"), "{error}");
}

async fn prepared() -> (ZookeeperSettings, Namespace) {
    let (settings, namespace) = (zookeeper_server::settings(), zookeeper_server::namespace());
    answered(async || init(&settings, &namespace, Incarnation::random()).await).await;
    (settings, namespace)
}

fn store(settings: &ZookeeperSettings, namespace: &Namespace) -> ZookeeperSettingsStore {
    ZookeeperSettingsStore::new(settings.clone(), namespace).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_conforms() {
    conformance::suite(async || {
        let (settings, namespace) = prepared().await;
        Box::new(move || Box::new(store(&settings, &namespace)) as Box<dyn SettingsStore>) as Place
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_was_not_prepared_is_refused() {
    let mut unprepared = store(&zookeeper_server::settings(), &zookeeper_server::namespace());
    for refused in [unprepared.read().await.map(drop), unprepared.write(0, b"a").await.map(drop)] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_lost_the_session_is_told_of_what_changed_meanwhile() {
    let (settings, namespace) = prepared().await;
    let proxy = Proxy::start(&settings.servers).await;
    let through =
        ZookeeperSettings { servers: proxy.address.clone(), session_timeout: SHORT, ..settings.clone() };
    let mut follower = store(&through, &namespace);
    answered(async || follower.read().await).await;
    // Cut off for good, as far as it can know: calls fail, and say so.
    proxy.open.send_replace(false);
    let mut failed = 0;
    let began = std::time::Instant::now();
    while failed < 2 {
        assert!(began.elapsed() < LIMIT, "it never noticed");
        failed += u32::from(follower.read().await.is_err());
    }
    let mut one = store(&settings, &namespace);
    answered(async || one.write(0, b"a").await).await;
    proxy.open.send_replace(true);
    let told = answered(async || follower.changed(0).await).await;
    assert_eq!((told.revision, told.bytes.as_slice()), (1, &b"a"[..]));
}
