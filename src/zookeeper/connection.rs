//! One ZooKeeper session: how it is opened, bounded, found to be over, and closed. Within a session
//! the client reconnects by itself; a session that is over stays over, and its owner opens another.
//! Promises that no call waits longer than half the session timeout, and that errors name the
//! servers and what to do.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use zookeeper_client as zk;

use super::tls::ZookeeperTls;
use crate::error::{Error, ErrorKind, Result};
use crate::process;

/// Every call ends after this part of the session timeout: an answer that comes later finds leases
/// that are about to be lost.
const CALLS_PER_TIMEOUT: u32 = 2;

/// How ZooKeeper is reached.
#[derive(Clone)]
pub struct ZookeeperSettings {
    /// `host:port`, several joined by commas.
    pub servers: String,
    /// The path above everything that Onecommit keeps, as in `/apps/shop`. None is the root.
    pub chroot: Option<String>,
    /// After this long without a sign of life the servers end a session. They may grant less or
    /// more.
    pub session_timeout: Duration,
    /// The user for ZooKeeper's scheme `digest`. With a user and a password only this user may
    /// use what Onecommit creates; without, everybody may.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// Whether nodes that anybody may change are refused.
    pub require_acl: bool,
    /// None speaks without TLS.
    pub tls: Option<ZookeeperTls>,
}

impl fmt::Debug for ZookeeperSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZookeeperSettings")
            .field("servers", &self.servers)
            .field("chroot", &self.chroot)
            .field("session_timeout", &self.session_timeout)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("require_acl", &self.require_acl)
            .field("tls", &self.tls)
            .finish()
    }
}

/// What an operation that got no answer may have done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing that anybody has to know: it only reads, or makes what is there already.
    None,
    /// It may have taken effect.
    Possible,
}

/// A session. Dropping it closes it in the background.
pub(crate) struct Connection {
    client: zk::Client,
    servers: String,
    has_user: bool,
    requires_acl: bool,
}

impl Connection {
    /// Opens a new session.
    pub(crate) async fn open(settings: &ZookeeperSettings) -> Result<Connection> {
        let operation = "connect to ZooKeeper";
        // Nobody would drive it in a forked child, and it would look as if ZooKeeper did not answer.
        process::opens(operation).map_err(|error| error.with("servers", &settings.servers))?;
        let mut connector =
            zk::Client::connector().with_fail_eagerly().with_session_timeout(settings.session_timeout);
        if let Some((user, password)) = credentials(settings)? {
            connector = connector.with_auth("digest", format!("{user}:{password}").as_bytes());
        }
        if settings.servers.contains('/') {
            let message = "[zookeeper] servers holds a path: write `host:port,…` and the path into chroot";
            return Err(
                Error::new(ErrorKind::Configuration, operation, message).with("servers", &settings.servers)
            );
        }
        let opening = async {
            match &settings.tls {
                None => Ok(connector.connect(&settings.servers).await),
                Some(tls) => Ok(connector.with_tls(tls.options()?).secure_connect(&settings.servers).await),
            }
        };
        let opened = tokio::time::timeout(settings.session_timeout, opening);
        match opened.await.unwrap_or(Ok(Err(zk::Error::Timeout)))? {
            Ok(client) => {
                let (has_user, requires_acl) = (settings.user.is_some(), settings.require_acl);
                Ok(Connection { client, servers: settings.servers.clone(), has_user, requires_acl })
            }
            Err(error @ zk::Error::BadArguments(_)) => {
                let message = "[zookeeper] servers is not `host:port`, several joined by commas";
                Err(Error::new(ErrorKind::Configuration, operation, message)
                    .with("servers", &settings.servers)
                    .caused_by(error))
            }
            Err(error) => {
                let obstacle = match &settings.tls {
                    None => None,
                    Some(tls) => tls.obstacle(&settings.servers, &error).await,
                };
                let error = obstacle.unwrap_or_else(|| describe(operation, Effect::None, error));
                Err(error.with("servers", &settings.servers))
            }
        }
    }

    pub(crate) fn client(&self) -> &zk::Client {
        &self.client
    }

    /// The number by which ephemeral nodes name their session.
    pub(crate) fn session(&self) -> i64 {
        self.client.session_id().0
    }

    /// The session timeout that the servers granted.
    pub(crate) fn timeout(&self) -> Duration {
        self.client.session_timeout()
    }

    /// Whether the session is over, and with it everything that it held.
    pub(crate) fn is_over(&self) -> bool {
        self.client.state().is_terminated()
    }

    /// Who may use the nodes that are created.
    pub(crate) fn acls(&self) -> zk::Acls<'static> {
        if self.has_user { zk::Acls::creator_all() } else { zk::Acls::anyone_all() }
    }

    /// Whether nodes that anybody may change are refused.
    pub(super) fn requires_acl(&self) -> bool {
        self.requires_acl
    }

    /// Waits for a call's answer, within its limit: without a connection the client would hold it
    /// for as long as the session may still be saved.
    pub(crate) async fn call<T, E: Into<zk::Error>>(
        &self,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, zk::Error> {
        match tokio::time::timeout(self.timeout() / CALLS_PER_TIMEOUT, call).await {
            Ok(answer) => answer.map_err(Into::into),
            Err(_) => Err(zk::Error::Timeout),
        }
    }

    /// Writes all of it or nothing, and says which part of it failed.
    pub(crate) async fn commit(
        &self,
        mut writer: zk::MultiWriter<'_>,
    ) -> Result<Vec<zk::MultiWriteResult>, zk::MultiWriteError> {
        self.call(async { Ok::<_, zk::Error>(writer.commit().await) }).await?
    }

    /// What a call's error means to Onecommit.
    pub(crate) fn error(&self, operation: &'static str, effect: Effect, error: zk::Error) -> Error {
        describe(operation, effect, error).with("servers", &self.servers)
    }

    /// Creates a persistent node and those above it, as far as they are missing. Without an answer it may be there or
    /// not, and is the same then: who needs it asks for it again.
    pub(crate) async fn create_folders(&self, operation: &'static str, path: &str) -> Result<()> {
        let options = zk::CreateMode::Persistent.with_acls(self.acls());
        let made = self.call(self.client.mkdir(path, &options)).await;
        made.map_err(|error| self.error(operation, Effect::None, error).with("path", path))
    }

    /// Closes the session and waits until ZooKeeper has confirmed it: everything ephemeral is then
    /// gone at once.
    pub(crate) async fn close(self) -> Result<()> {
        let mut states = self.client.state_watcher();
        let limit = self.timeout() / CALLS_PER_TIMEOUT;
        let servers = self.servers;
        drop(self.client);
        let closed = async {
            let mut state = states.peek_state();
            while !state.is_terminated() {
                state = states.changed().await;
            }
        };
        tokio::time::timeout(limit, closed).await.map_err(|elapsed| {
            let message = "ZooKeeper did not confirm it: the session ends by itself at its timeout";
            Error::new(ErrorKind::Unclear, "close ZooKeeper session", message)
                .with("servers", servers)
                .caused_by(elapsed)
        })
    }
}

fn credentials(settings: &ZookeeperSettings) -> Result<Option<(&str, &str)>> {
    match (settings.user.as_deref(), settings.password.as_deref()) {
        (None, None) => Ok(None),
        (Some(user), Some(password)) if !user.is_empty() && !user.contains(':') => Ok(Some((user, password))),
        (Some(user), Some(_)) => {
            let message = "[zookeeper] user must not be empty and must not hold a colon";
            Err(Error::new(ErrorKind::Configuration, "connect to ZooKeeper", message).with("user", user))
        }
        _ => {
            let message = "[zookeeper] user and password belong together: give both or neither";
            Err(Error::new(ErrorKind::Configuration, "connect to ZooKeeper", message))
        }
    }
}

fn describe(operation: &'static str, effect: Effect, error: zk::Error) -> Error {
    use zk::Error::*;
    let (kind, message) = match &error {
        ConnectionLoss | Timeout | NoHosts | SessionExpired | SessionMoved | ClientClosed | Throttled
        | Custom(_) => match effect {
            Effect::None => (
                ErrorKind::Unreachable,
                "ZooKeeper does not answer: start it, or correct [zookeeper] servers in the configuration",
            ),
            Effect::Possible => (
                ErrorKind::Unclear,
                "ZooKeeper did not confirm it: what is stored there has to be read again",
            ),
        },
        NoAuth | AuthFailed => (
            ErrorKind::Configuration,
            "ZooKeeper does not allow it: correct [zookeeper] user and password, or the nodes' ACL",
        ),
        Unimplemented => (ErrorKind::Configuration, "ZooKeeper is too old: 3.6 or newer is needed"),
        _ => (ErrorKind::Failed, "ZooKeeper refused"),
    };
    Error::new(kind, operation, message).caused_by(error)
}
