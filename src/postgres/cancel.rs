//! Cancelling a request on the server, as libpq does it: the connection that asks for it stays until the
//! other side closes it.
//!
//! The driver closes it at once, and PgBouncer 1.18 dies when it is told to cancel by a client that is
//! gone before the server has heard of it; with the pooler all connections of the application.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use postgres_openssl::MakeTlsConnector;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{CancelToken, Config, NoTls};

const DEFAULT_PORT: u16 = 5432;

/// What it takes to cancel a connection's requests.
pub(super) struct Cancelling {
    pub(super) token: CancelToken,
    /// What the connection was made with.
    pub(super) config: Config,
    pub(super) tls: MakeTlsConnector,
}

impl Cancelling {
    /// Cancels what is under way. Only where the url names several hosts the driver, which knows to
    /// which one the connection leads, asks in its own way.
    pub(super) async fn cancel(mut self) -> std::result::Result<(), tokio_postgres::Error> {
        let port = self.config.get_ports().first().copied().unwrap_or(DEFAULT_PORT);
        match self.config.get_hosts() {
            [Host::Tcp(host)] => {
                let address = self.config.get_hostaddrs().first().map_or(host.clone(), ToString::to_string);
                let tls = MakeTlsConnect::<Staying<TcpStream>>::make_tls_connect(&mut self.tls, host);
                if let (Ok(stream), Ok(tls)) = (TcpStream::connect((address, port)).await, tls) {
                    return self.token.cancel_query_raw(Staying(stream), tls).await;
                }
            }
            // There is no TLS on a local socket.
            [Host::Unix(folder)] => {
                if let Ok(stream) = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await {
                    return self.token.cancel_query_raw(Staying(stream), NoTls).await;
                }
            }
            _ => {}
        }
        self.token.cancel_query(self.tls).await
    }
}

/// A stream whose end is the other side's: to shut it down is to wait for that.
#[derive(Debug)]
struct Staying<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Staying<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Staying<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut bytes = [0; 64];
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.0).poll_read(context, &mut buffer));
            // An error is an end, too.
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn the_one_who_asks_stays_until_the_other_side_closes() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let asking = tokio::spawn(async move {
            let mut stream = Staying(ours);
            stream.write_all(b"cancel").await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let mut heard = [0; 6];
        theirs.read_exact(&mut heard).await.unwrap();
        theirs.write_all(b"?").await.unwrap();
        tokio::task::yield_now().await;
        assert!(!asking.is_finished());
        drop(theirs);
        asking.await.unwrap();
    }
}
