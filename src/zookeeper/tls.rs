//! TLS to ZooKeeper: the files, read for each session so that renewed ones count, and the reason why no
//! session came about. The client keeps that to itself, so the servers are asked once more by OpenSSL.

use std::io::{ErrorKind as IoErrorKind, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::{HandshakeError, SslConnector, SslFiletype, SslMethod};
use openssl::x509::store::X509StoreBuilder;
use zookeeper_client as zk;

use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "connect to ZooKeeper";
const PORT: u16 = 2181;
/// How the client begins its error where it can't use its own certificate.
const CLIENT_KEY: &str = "invalid client private key";
/// How long one server is asked at most, each time that it is waited for.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// What secures the connections.
#[derive(Clone, Debug)]
pub struct ZookeeperTls {
    /// The authorities that the servers' certificates are signed by, in PEM.
    pub ca: PathBuf,
    /// The client's certificate and its private key, in PEM; ZooKeeper asks for one unless told otherwise.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl ZookeeperTls {
    pub(super) fn options(&self) -> Result<zk::TlsOptions> {
        let ca = read("tls_ca", &self.ca)?;
        let options = zk::TlsOptions::new()
            .with_pem_ca(&ca)
            .map_err(|error| wrong("tls_ca has no certificate in PEM", &self.ca).caused_by(error))?;
        let Some((certificate, key)) = &self.identity else { return Ok(options) };
        let (certificate_text, key_text) = (read("tls_cert", certificate)?, read("tls_key", key)?);
        let options = options.with_pem_identity(&certificate_text, &key_text);
        let why = "tls_key has no private key in PEM without a passphrase, or tls_cert no certificate";
        options.map_err(|error| wrong(why, key).caused_by(error))
    }

    /// Why there is no session, where TLS is the reason.
    pub(super) async fn obstacle(&self, servers: &str, error: &zk::Error) -> Option<Error> {
        if let Some((_, key)) = self.identity.as_ref().filter(|_| error.to_string().contains(CLIENT_KEY)) {
            let why = "the certificate in tls_cert does not belong to the key in tls_key, or is of version 1: give \
                       one of version 3";
            return Some(wrong(why, key));
        }
        let (tls, servers) = (self.clone(), servers.to_string());
        let asked =
            tokio::task::spawn_blocking(move || servers.split(',').find_map(|server| tls.ask(server)));
        asked.await.ok().flatten()
    }

    fn ask(&self, server: &str) -> Option<Error> {
        let (host, stream) = reach(server)?;
        let connector = self.connector().ok()?;
        let error = match connector.connect(host, stream) {
            // A server that refuses the client's certificate says so only behind the handshake.
            Ok(mut secured) => match secured.read(&mut [0]) {
                Err(error) if !matches!(error.kind(), IoErrorKind::WouldBlock | IoErrorKind::TimedOut) => {
                    error.to_string()
                }
                _ => return None,
            },
            Err(HandshakeError::Failure(stream)) => {
                format!("{}: {}", stream.error(), stream.ssl().verify_result())
            }
            Err(_) => return None,
        };
        let error = Error::new(ErrorKind::Configuration, OPERATION, meaning(&error)).caused_by(error);
        Some(error.with("server", server))
    }

    pub(super) fn connector(&self) -> std::result::Result<SslConnector, ErrorStack> {
        let mut builder = SslConnector::builder(SslMethod::tls_client())?;
        builder.set_cert_store(X509StoreBuilder::new()?.build());
        builder.set_ca_file(&self.ca)?;
        if let Some((certificate, key)) = &self.identity {
            builder.set_certificate_chain_file(certificate)?;
            builder.set_private_key_file(key, SslFiletype::PEM)?;
        }
        Ok(builder.build())
    }
}

/// A connection to one of the servers, and the host that it is to have a certificate for.
pub(super) fn reach(server: &str) -> Option<(&str, TcpStream)> {
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !server.ends_with(']') => (host, port.parse().ok()?),
        _ => (server, PORT),
    };
    let host = host.trim_matches(['[', ']']);
    let address = (host, port).to_socket_addrs().ok()?.next()?;
    let stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT).ok()?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
    Some((host, stream))
}

fn meaning(error: &str) -> &'static str {
    let has = |part: &str| error.contains(part);
    match () {
        () if has("certificate verify failed") && has("mismatch") => {
            "ZooKeeper's certificate was made for another host than [zookeeper] servers names: correct the host, \
             or have the certificate made for it"
        }
        () if has("certificate verify failed") && has("expired") => {
            "ZooKeeper's certificate has expired: have it renewed"
        }
        () if has("certificate verify failed") => {
            "none of the certificates in [zookeeper] tls_ca has signed ZooKeeper's certificate: correct tls_ca, \
             or servers if it is somebody else's server"
        }
        () if has("alert") => {
            "ZooKeeper does not accept this client's certificate: give one that it trusts in [zookeeper] tls_cert, \
             and its private key in tls_key"
        }
        () => {
            "no TLS connection to ZooKeeper could be made: give the port that the server has for TLS \
             (secureClientPort) in [zookeeper] servers"
        }
    }
}

fn read(key: &str, file: &Path) -> Result<String> {
    std::fs::read_to_string(file)
        .map_err(|error| wrong(&format!("{key} can't be read"), file).caused_by(error))
}

fn wrong(why: &str, file: &Path) -> Error {
    Error::new(ErrorKind::Configuration, OPERATION, format!("[zookeeper] {why}")).with("file", file.display())
}
