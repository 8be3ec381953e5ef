"""Certificates for the hosts whose requests get a credential: TLS ends here for them.

An authority is made for one step, in the proxy's own memory, and its key never leaves that.
The script is given its certificate besides the system's.  It is bound to the credentials' hosts
by name constraints: for any other host it counts for nothing.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from goexfsd.hosts import Address

_DAYS = 30
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_MOST_BUNDLE = 4 * 1024 * 1024


class Authority:
    """One step's authority; ``context`` answers as one of its hosts."""

    def __init__(self, hosts: list[str | Address]) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("goexfs, one step")
        allowed = [_general(host, constraint=True) for host in hosts]
        self._certificate = (
            _builder(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.NameConstraints(allowed, None), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )

    def pem(self) -> bytes:
        """The certificate, for whoever is to trust it."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def context(self, host: str | Address) -> ssl.SSLContext:
        """To answer as ``host``."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            _builder(_name(str(host)[:64]), self._name, key.public_key())
            .add_extension(x509.SubjectAlternativeName([_general(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        chain = certificate.public_bytes(serialization.Encoding.PEM)
        return _server(chain + self.pem(), key)


def _server(chain: bytes, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # The ssl module takes files only: this one has no name.
    fd = os.memfd_create("chain", os.MFD_CLOEXEC)
    try:
        os.write(fd, chain + secret)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return context


def system_bundle() -> bytes:
    """The authorities that this machine trusts, as one file; empty if there is none."""
    known = ssl.get_default_verify_paths().cafile
    for path in (*((known,) if known else ()), *_BUNDLES):
        try:
            with Path(path).open("rb") as file:
                return file.read(_MOST_BUNDLE)
        except OSError:
            continue
    return b""


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(host: str | Address, *, constraint: bool = False) -> x509.GeneralName:
    if isinstance(host, str):
        return x509.DNSName(host)
    return x509.IPAddress(ipaddress.ip_network(host) if constraint else host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
