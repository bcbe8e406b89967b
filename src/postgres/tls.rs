//! TLS as libpq does it, by OpenSSL: which root certificates hold, whom a certificate has to name, and
//! the client's own certificate. Files are read for each connection, so that renewed ones count.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::store::X509StoreBuilder;
use postgres_openssl::MakeTlsConnector;

use crate::config::{Roots, SslMode, Tls};
use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "connect";
/// Where libpq looks unless told otherwise, below the home directory.
const FOLDER: &str = ".postgresql";

/// What nothing is read for: a connection that checks no certificate, and shows none. Made once, as
/// OpenSSL reads all the certificates that the machine trusts whenever it makes one: as long as all the
/// rest of a connection.
static UNCHECKED: OnceLock<SslConnector> = OnceLock::new();

/// What a connection is secured with. Without TLS no file is looked at.
pub(super) fn connector(tls: &Tls) -> Result<MakeTlsConnector> {
    if needs_no_file(tls) {
        let known = match UNCHECKED.get() {
            Some(known) => known.clone(),
            None => {
                let mut builder = builder()?;
                builder.set_verify(SslVerifyMode::NONE);
                UNCHECKED.get_or_init(|| builder.build()).clone()
            }
        };
        return Ok(without_host_check(known));
    }
    let mut builder = builder()?;
    let checks_certificate = add_roots(&mut builder, tls)?;
    add_client_certificate(&mut builder, tls)?;
    builder.set_verify(if checks_certificate { SslVerifyMode::PEER } else { SslVerifyMode::NONE });
    Ok(match tls.mode {
        SslMode::VerifyFull => MakeTlsConnector::new(builder.build()),
        _ => without_host_check(builder.build()),
    })
}

fn builder() -> Result<SslConnectorBuilder> {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(failed)?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(failed)?;
    Ok(builder)
}

fn without_host_check(connector: SslConnector) -> MakeTlsConnector {
    let mut connector = MakeTlsConnector::new(connector);
    connector.set_callback(|connection, _| {
        connection.set_verify_hostname(false);
        Ok(())
    });
    connector
}

/// Whether no certificate is checked, and none shown.
fn needs_no_file(tls: &Tls) -> bool {
    let asks_for_none = match tls.mode {
        SslMode::Disable => return true,
        SslMode::VerifyCa | SslMode::VerifyFull => false,
        SslMode::Allow | SslMode::Prefer | SslMode::Require => true,
    };
    let (certificate, key) = (&tls.certificate, &tls.key);
    let shows_none = certificate.is_none() && key.is_none() && in_home("postgresql.crt").is_none();
    asks_for_none && shows_none && matches!(tls.roots, Roots::Default) && in_home("root.crt").is_none()
}

/// Whether there are any. Where there are, libpq checks certificates also in a mode that does not ask for it.
fn add_roots(builder: &mut SslConnectorBuilder, tls: &Tls) -> Result<bool> {
    let file = match &tls.roots {
        // The builder has loaded them already.
        Roots::System => return Ok(true),
        Roots::File(path) => Some(path.clone()),
        Roots::Default => in_home("root.crt"),
    };
    builder.set_cert_store(X509StoreBuilder::new().map_err(failed)?.build());
    let Some(file) = file else {
        if !matches!(tls.mode, SslMode::VerifyCa | SslMode::VerifyFull) {
            return Ok(false);
        }
        let why = "there are no root certificates to check the server's with: write sslrootcert=FILE into the \
                   url, sslrootcert=system for those that this system trusts, or put them into \
                   ~/.postgresql/root.crt";
        return Err(Error::new(ErrorKind::Configuration, OPERATION, why));
    };
    builder.set_ca_file(&file).map_err(|error| {
        let why = "the root certificates of sslrootcert can't be read: it is a file of certificates in PEM";
        unreadable(why, &file).caused_by(error)
    })?;
    Ok(true)
}

fn add_client_certificate(builder: &mut SslConnectorBuilder, tls: &Tls) -> Result<()> {
    let Some(certificate) = tls.certificate.clone().or_else(|| in_home("postgresql.crt")) else {
        return match &tls.key {
            Some(key) => Err(unreadable("sslkey is the key of a certificate: give sslcert with it", key)),
            None => Ok(()),
        };
    };
    let Some(key) = tls.key.clone().or_else(|| in_home("postgresql.key")) else {
        let why = "sslcert needs its private key: write sslkey=FILE into the url";
        return Err(unreadable(why, &certificate));
    };
    builder.set_certificate_chain_file(&certificate).map_err(|error| {
        unreadable("the certificate of sslcert can't be read: it is in PEM", &certificate).caused_by(error)
    })?;
    let private = private_key(&key)?;
    builder.set_private_key(&private).and_then(|()| builder.check_private_key()).map_err(|error| {
        unreadable("the private key of sslkey does not belong to the certificate of sslcert", &key)
            .caused_by(error)
    })
}

fn private_key(path: &Path) -> Result<PKey<Private>> {
    refuse_open_to_others(path)?;
    let contents = std::fs::read(path)
        .map_err(|error| unreadable("the private key of sslkey can't be read", path).caused_by(error))?;
    let mut is_encrypted = false;
    // Without the callback OpenSSL would ask whoever sits at the terminal.
    let key = PKey::private_key_from_pem_callback(&contents, |_| {
        is_encrypted = true;
        Ok(0)
    });
    key.or_else(|error| PKey::private_key_from_der(&contents).map_err(|_| error)).map_err(|error| {
        match is_encrypted {
            true => unreadable("the private key of sslkey has a passphrase: give one without", path),
            false => unreadable("the private key of sslkey is no key in PEM or DER", path).caused_by(error),
        }
    })
}

#[cfg(unix)]
fn refuse_open_to_others(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path)
        .map_err(|error| unreadable("the private key of sslkey can't be read", path).caused_by(error))?;
    // A key of root's may be shared with a group, see libpq.
    let closed = if found.uid() == 0 { 0o037 } else { 0o077 };
    if found.mode() & closed != 0 {
        let why = "the private key of sslkey is open to others: chmod 600 (640 where it belongs to root)";
        return Err(unreadable(why, path));
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_open_to_others(_: &Path) -> Result<()> {
    Ok(())
}

fn in_home(name: &str) -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(FOLDER).join(name)).filter(|path| path.exists())
}

fn unreadable(why: &str, path: &Path) -> Error {
    Error::new(ErrorKind::Configuration, OPERATION, why).with("file", path.display())
}

fn failed(error: ErrorStack) -> Error {
    Error::new(ErrorKind::Failed, OPERATION, "OpenSSL can't be used").caused_by(error)
}
