"""A ZooKeeper server with a second port, where TLS and a client's certificate are asked for."""

from __future__ import annotations

from pathlib import Path

from tests.servers import ZooKeeper, free_port

from .certificates import Authority, Certificate


class SecuredZooKeeper(ZooKeeper):
    """Its certificate is one for `localhost`, signed by `authority`."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "authority")
        certificate = self.authority.sign("localhost", alternative="DNS:localhost")
        self.secure_port = free_port()
        super().__init__(
            settings={
                "secureClientPort": str(self.secure_port),
                "secureClientPortAddress": "127.0.0.1",
                "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
                "ssl.keyStore.location": str(in_one_file(certificate)),
                "ssl.keyStore.type": "PEM",
                "ssl.trustStore.location": str(self.authority.certificate.with_suffix(".pem")),
                "ssl.trustStore.type": "PEM",
            }
        )
        pem = self.authority.certificate.with_suffix(".pem")
        pem.write_bytes(self.authority.certificate.read_bytes())


def in_one_file(certificate: Certificate) -> Path:
    """Certificate and key as Java's servers take them."""
    pem = certificate.certificate.with_suffix(".pem")
    pem.write_bytes(certificate.key.read_bytes() + certificate.certificate.read_bytes())
    return pem
