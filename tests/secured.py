"""A broker as careful people have it: TLS, SCRAM-SHA-512 and an authorizer; and certificates made on the spot."""

from __future__ import annotations

import datetime
import ipaddress
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from streams.local.broker import Broker, free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from streams.rights import Right

ADMIN = "admin"
PASSWORD = "correct-horse-battery"
PROCESSES = ("worker", "store", "monitor", "producer", "consumer", "retry", "topics")
LESSER = ("worker-less", "worker-else", "store-less", "monitor-less", "other")
"""Users that have not all the rights they need."""
USERS = {name: f"{PASSWORD}-{name}" for name in (ADMIN, *PROCESSES, *LESSER)}

_PREFIX = "HEADRACE_KAFKA__SECURITY__"
_ANY_PERMISSION = AclPermissionType.ANY
# The controller has an ACL at once, the broker's authorizer a moment later.
_SPREAD_S = 0.2


class Authority:
    """A certificate authority of a test's own."""

    def __init__(self, folder: Path, name: str = "tests") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority")])
        own = self._certificate(self._name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        own = own.add_extension(usage, critical=True)
        self.file = folder / f"{name}-ca.pem"
        self.file.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def issue(self, name: str, *addresses: str) -> tuple[Path, Path]:
        """Files of a certificate for these addresses (127.0.0.1 and localhost unless given) and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [_general(address) for address in addresses or ("127.0.0.1", "localhost")]
        builder = self._certificate(subject, key).add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, private

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def _general(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


class SecuredBroker:
    """A broker with two listeners: SASL_SSL for clients, and a plain one on which tests come as superuser."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "certificates")
        certificate, key = self.authority.issue("broker")
        both = folder / "certificates" / "broker-both.pem"
        both.write_bytes(key.read_bytes() + certificate.read_bytes())
        self.port = free_port()
        self.broker = Broker.start(folder, properties=self._properties(both), users=USERS)

    @property
    def address(self) -> str:
        """Where clients connect with TLS and a password."""
        return f"localhost:{self.port}"

    @property
    def plain(self) -> str:
        """Where the tests make topics and ACLs: whoever comes here may do all."""
        return self.broker.bootstrap

    def security(self, user: str, **changes: str) -> dict[str, str]:
        """`kafka.security` of a user; changes in librdkafka's names, with `_` for the dots."""
        ours = {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": USERS[user],
            "ssl.ca.location": str(self.authority.file),
        }
        return ours | {name.replace("_", "."): value for name, value in changes.items()}

    def config(self, user: str, **changes: str) -> dict[str, str]:
        """Librdkafka's settings of a user."""
        return {"bootstrap.servers": self.address, **self.security(user, **changes)}

    def grant(self, user: str, rights: Iterable[Right]) -> None:
        """Allows a user what is listed."""
        admin = AdminClient({"bootstrap.servers": self.plain})
        if bindings := [_binding(user, right) for right in rights]:
            self._settle(admin.create_acls(bindings))
        time.sleep(_SPREAD_S)

    def revoke(self, user: str) -> None:
        """Takes everything from a user."""
        everything = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{user}", None, AclOperation.ANY, _ANY_PERMISSION
        )
        admin = AdminClient({"bootstrap.servers": self.plain})
        self._settle(admin.delete_acls([everything]))
        time.sleep(_SPREAD_S)

    def environment(self, user: str, data: Path) -> dict[str, str]:
        """Variables of a process that comes as a user, the password from a file; everything else as it is here."""
        data.mkdir(parents=True, exist_ok=True)
        secret = data / "password"
        secret.write_text(USERS[user] + "\n")
        ours = {"HEADRACE_KAFKA": self.address, "HEADRACE_DATA": str(data), f"{_PREFIX}SASL_PASSWORD_FILE": str(secret)}
        security = {name: value for name, value in self.security(user).items() if name != "sasl.password"}
        ours |= {f"{_PREFIX}{name.upper().replace('.', '_')}": value for name, value in security.items()}
        return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")} | ours

    @staticmethod
    def _settle(futures: Mapping[Any, Any]) -> None:
        for future in futures.values():
            future.result()

    def _properties(self, pem: Path) -> Mapping[str, str]:
        jaas = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        return {
            "listeners": f"PLAINTEXT://127.0.0.1:{{port}},CLIENTS://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{{controller_port}}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{{port}},CLIENTS://localhost:{self.port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,CLIENTS:SASL_SSL",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.name.clients.ssl.keystore.type": "PEM",
            "listener.name.clients.ssl.keystore.location": str(pem),
            "listener.name.clients.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.clients.scram-sha-512.sasl.jaas.config": jaas,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            "super.users": f"User:ANONYMOUS;User:{ADMIN}",
        }


def _binding(user: str, right: Right) -> AclBinding:
    kind = ResourceType[right.resource.upper().replace("-", "_")]
    pattern = ResourcePatternType.PREFIXED if right.prefixed else ResourcePatternType.LITERAL
    operation = AclOperation["DESCRIBE_CONFIGS" if right.operation == "DescribeConfigs" else right.operation.upper()]
    return AclBinding(kind, right.name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
