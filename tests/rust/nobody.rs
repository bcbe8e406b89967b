//! An address at which nobody answers.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::net::{TcpSocket, TcpStream};

/// Its port is taken, and never listened to: one that was only free a moment ago may be another server's by now.
pub struct Nobody {
    pub address: SocketAddr,
    _taken: TcpSocket,
}

impl Nobody {
    pub async fn new() -> Nobody {
        let taken = TcpSocket::new_v4().unwrap();
        taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
        Nobody { address, _taken: taken }
    }
}
