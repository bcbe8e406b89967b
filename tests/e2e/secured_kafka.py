"""A Kafka broker with listeners that ask for TLS and SASL, or for a client's certificate, and with
ACLs: whoever has none may do nothing. The tests themselves come in by the plain listener, where
everybody may do everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
)
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.servers import Kafka

from .certificates import Authority
from .secured_zookeeper import in_one_file
from .waiting import LIMIT_S, wait_until

PASSWORD = "s3cret-of-the-client"
LOGIN = "org.apache.kafka.common.security"
Properties = dict[str, str | int | bool]


class SecuredKafka(Kafka):
    """Its certificate is one for `localhost`, signed by `authority`."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "authority")
        certificate = in_one_file(
            self.authority.sign("localhost", alternative="DNS:localhost,IP:127.0.0.1")
        )
        trusted = folder / "trusted.pem"
        trusted.write_bytes(self.authority.certificate.read_bytes())
        super().__init__(
            listeners={"SECURE": "SASL_SSL", "MUTUAL": "SSL", "SASL": "SASL_PLAINTEXT"},
            properties={
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(certificate),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(trusted),
                "listener.name.mutual.ssl.client.auth": "required",
                "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN,OAUTHBEARER",
                **_logins("secure"),
                **_logins("sasl"),
                # A connection is closed once its token is past its time.
                "listener.name.sasl.oauthbearer.connections.max.reauth.ms": "3600000",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
            },
        )

    def at(self, listener: str) -> str:
        """The address of a listener."""
        return f"localhost:{self.brokers[0].ports[listener]}"

    def properties(self, mechanism: str = "SCRAM-SHA-512", user: str = "relay") -> Properties:
        """A client's, when all is well."""
        return {
            "bootstrap.servers": self.at("SECURE"),
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.authority.certificate),
            "sasl.mechanism": mechanism,
            "sasl.username": user,
            "sasl.password": PASSWORD,
        }

    def make_user(self, user: str) -> None:
        """One with a SCRAM password."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        made = UserScramCredentialUpsertion(user, info, PASSWORD.encode())
        admin = self._admin()
        for answer in admin.alter_user_scram_credentials([made]).values():
            answer.result(timeout=LIMIT_S)

    def allow(self, user: str, rights: Iterable[Right]) -> None:
        """Gives rights to a user, and takes all others from it."""
        # None stands for any, whatever the types say.
        everything = AclBindingFilter(
            ResourceType.ANY,
            None,  # type: ignore[arg-type]
            ResourcePatternType.ANY,
            f"User:{user}",
            None,  # type: ignore[arg-type]
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        admin = self._admin()
        for deleted in admin.delete_acls([everything]).values():
            deleted.result(timeout=LIMIT_S)
        wanted = [right.binding(user) for right in rights]
        for made in admin.create_acls(wanted).values() if wanted else []:
            made.result(timeout=LIMIT_S)

        def are_known() -> bool:
            """To the broker, which hears of them later than the controller."""
            found = admin.describe_acls(everything).result(timeout=LIMIT_S)
            return set(found) == set(wanted)

        wait_until(are_known, f"the rights of {user} hold")

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.address})


class Right:
    """One operation on resources of one kind, by name or (ending with `*`) by the name's start."""

    def __init__(self, operation: str, resource: str, name: str) -> None:
        self.operation = operation
        self.resource = resource
        self.name = name

    def binding(self, user: str) -> AclBinding:
        by_start = self.name.endswith("*") and self.name != "*"
        return AclBinding(
            ResourceType[self.resource],
            self.name.removesuffix("*") if by_start else self.name,
            ResourcePatternType.PREFIXED if by_start else ResourcePatternType.LITERAL,
            f"User:{user}",
            "*",
            AclOperation[self.operation],
            AclPermissionType.ALLOW,
        )

    def __repr__(self) -> str:
        return f"{self.operation} on {self.resource} {self.name}"


def _logins(listener: str) -> dict[str, str]:
    modules = {
        "scram-sha-512": f"{LOGIN}.scram.ScramLoginModule required;",
        "plain": f'{LOGIN}.plain.PlainLoginModule required user_relay="{PASSWORD}";',
        "oauthbearer": (
            f"{LOGIN}.oauthbearer.OAuthBearerLoginModule required "
            'unsecuredLoginStringClaim_sub="broker";'
        ),
    }
    return {
        f"listener.name.{listener}.{mechanism}.sasl.jaas.config": module
        for mechanism, module in modules.items()
    }
