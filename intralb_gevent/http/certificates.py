"""Describe a client's certificate to an application, with the names and formats of Apache's mod_ssl.

Distinguished names are formatted as in RFC 2253. OpenSSL has already verified the certificate.
"""

from __future__ import annotations

import re
import ssl
from typing import Any, Final

__all__ = ["client_certificate", "distinguished_name"]

_SHORT_NAMES: Final = {
    "commonName": "CN",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
    "streetAddress": "street",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "domainComponent": "DC",
    "userId": "UID",
    "surname": "SN",
    "givenName": "GN",
}
"""OpenSSL's abbreviations of attribute names; OpenSSL writes all other names in full."""

_SPECIAL: Final = re.compile(r'[,+"\\<>;]|^[ #]| \Z')
_UNPRINTABLE: Final = re.compile(rb"[^\x20-\x7e]")


def client_certificate(connection: ssl.SSLObject) -> dict[str, str]:
    """Return SSL_CLIENT_VERIFY and, if the client sent a certificate, its PEM text, subject and issuer.

    An invalid certificate makes the TLS handshake fail before this function is called.
    """
    encoded = connection.getpeercert(binary_form=True)
    if encoded is None:
        return {"SSL_CLIENT_VERIFY": "NONE"}
    certificate: dict[str, Any] = connection.getpeercert() or {}
    return {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_CERT": ssl.DER_cert_to_PEM_cert(encoded),
        "SSL_CLIENT_S_DN": distinguished_name(certificate.get("subject", ())),
        "SSL_CLIENT_I_DN": distinguished_name(certificate.get("issuer", ())),
    }


def distinguished_name(name: Any) -> str:
    """Return a name from `SSLSocket.getpeercert` in one line, most specific part first: `CN=me,O=we`."""
    return ",".join(
        "+".join(f"{_SHORT_NAMES.get(key, key)}={_escaped(text)}" for key, text in part) for part in name[::-1]
    )


def _escaped(text: str) -> str:
    encoded = _SPECIAL.sub(r"\\\g<0>", text).encode()
    return _UNPRINTABLE.sub(lambda match: b"\\%02X" % ord(match[0]), encoded).decode("ascii")
