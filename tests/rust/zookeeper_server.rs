//! The tests' ZooKeeper, and a proxy that cuts a client off from a server.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use onecommit::id::Namespace;
use onecommit::zookeeper::ZookeeperSettings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use uuid::Uuid;
use zookeeper_client as zk;

use crate::conformance_lease::LONG;

/// The path above everything of these tests.
pub const CHROOT: &str = "/onecommit-tests";

/// The session timeout of one that is cut off in the middle of a test, and has to live through calls before.
pub const MORTAL: Duration = Duration::from_secs(8);

/// How the server is reached.
pub fn settings() -> ZookeeperSettings {
    let servers = std::env::var("ONECOMMIT_TEST_ZOOKEEPER").expect(
        "ONECOMMIT_TEST_ZOOKEEPER has to name a ZooKeeper server: run the tests under \
         `python -m tests.servers run -- cargo test`",
    );
    ZookeeperSettings {
        servers,
        chroot: Some(CHROOT.into()),
        session_timeout: LONG,
        user: None,
        password: None,
        require_acl: false,
        tls: None,
    }
}

/// One that nobody else uses.
pub fn namespace() -> Namespace {
    format!("t{}", Uuid::new_v4().simple()).parse().unwrap()
}

/// A client that does what no part of Onecommit does.
pub async fn client() -> zk::Client {
    zk::Client::connector().with_session_timeout(LONG).connect(&settings().servers).await.unwrap()
}

/// Passes connections on to the server; closed, it ends those there are and takes no others.
pub struct Proxy {
    pub address: String,
    /// Where connections lead that are made from now on.
    pub server: Arc<Mutex<String>>,
    pub open: watch::Sender<bool>,
    /// While this is set the server's answers do not come back.
    pub swallows_answers: watch::Sender<bool>,
}

impl Proxy {
    pub async fn start(server: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (open, is_open) = watch::channel(true);
        let (swallows_answers, swallows) = watch::channel(false);
        let server = Arc::new(Mutex::new(server.to_string()));
        let leads_to = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((here, _)) = listener.accept().await {
                let (mut is_open, swallows) = (is_open.clone(), swallows.clone());
                let server = leads_to.lock().unwrap().clone();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = is_open.wait_for(|open| !open) => {}
                        _ = pass(here, &server, swallows) => {}
                    }
                });
            }
        });
        Proxy { address, server, open, swallows_answers }
    }

    /// Ends the connections there are, and goes on with others.
    pub async fn cut(&self) {
        self.open.send_replace(false);
        // Beside theirs there is the listener's own receiver.
        while self.open.receiver_count() > 1 {
            tokio::task::yield_now().await;
        }
        self.open.send_replace(true);
    }
}

async fn pass(here: TcpStream, server: &str, swallows: watch::Receiver<bool>) -> std::io::Result<()> {
    let (mut asked, mut answered) = here.into_split();
    let (mut answers, mut questions) = TcpStream::connect(server).await?.into_split();
    let back = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match answers.read(&mut buffer).await? {
                0 => return Ok(()),
                _ if *swallows.borrow() => {}
                length => answered.write_all(&buffer[..length]).await?,
            }
        }
    };
    tokio::select! {
        copied = tokio::io::copy(&mut asked, &mut questions) => copied.map(|_| ()),
        done = back => done,
    }
}
