"""What an application is told of a client's certificate, under the names and in the forms of Apache's mod_ssl.

Decides how a distinguished name is written (RFC 2253). It must not know how a certificate is verified.
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
"""As OpenSSL abbreviates them; others it writes as they are."""

_SPECIAL: Final = re.compile(r'[,+"\\<>;]|^[ #]| \Z')
_UNPRINTABLE: Final = re.compile(rb"[^\x20-\x7e]")


def client_certificate(connection: ssl.SSLObject) -> dict[str, str]:
    """Return SSL_CLIENT_VERIFY, and of a certificate its PEM text, subject and issuer.

    A client with a certificate that cannot be verified does not come through its handshake.
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
    """Return a name as `SSLSocket.getpeercert` gives it in one line, the most particular part first: `CN=me,O=we`."""
    return ",".join(
        "+".join(f"{_SHORT_NAMES.get(key, key)}={_escaped(text)}" for key, text in part) for part in name[::-1]
    )


def _escaped(text: str) -> str:
    encoded = _SPECIAL.sub(r"\\\g<0>", text).encode()
    return _UNPRINTABLE.sub(lambda match: b"\\%02X" % ord(match[0]), encoded).decode("ascii")
