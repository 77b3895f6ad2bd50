"""The signature of a webhook, by https://www.standardwebhooks.com: receivers have libraries for it in most languages.

A request has three headers: `webhook-id` (the same for every repeat), `webhook-timestamp` (seconds since the epoch) and
`webhook-signature`, which is `v1,` and the Base64 of HMAC-SHA256(key, "<id>.<timestamp>." + body). To verify one:
compute that over the body as it came, compare in constant time, refuse a timestamp that is more than five minutes off,
and forget ids after that. The key is the secret's bytes, or, after the prefix `whsec_`, what its Base64 stands for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from omium.orchestration.errors import OmiumError

PREFIX: Final = "whsec_"
LEAST_BYTES: Final = 24
TOLERANCE_S: Final = 300


def key_of(secret: str) -> bytes:
    """The bytes of a secret. Raises `invalid_argument` for one that is too short or no Base64."""
    if secret.startswith(PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            raise OmiumError("invalid_argument", f"what follows {PREFIX} in the secret is no Base64.") from None
    else:
        key = secret.encode()
    if len(key) < LEAST_BYTES:
        raise OmiumError("invalid_argument", f"the secret of a webhook has less than {LEAST_BYTES} bytes.")
    return key


def signature(key: bytes, notice_id: str, timestamp: int, body: bytes) -> str:
    signed = f"{notice_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def headers(key: bytes, notice_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    return {
        "webhook-id": notice_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(key, notice_id, timestamp, body),
    }


def verify(secret: str, headers: Mapping[str, str], body: bytes, now_s: float) -> None:
    """For receivers. headers: by their names in lower case; body: as it came. Raises `unauthenticated`."""
    try:
        notice_id, at = headers["webhook-id"], int(headers["webhook-timestamp"])
        given = headers["webhook-signature"].split(" ")
    except (KeyError, ValueError):
        raise OmiumError("unauthenticated", "the request is not signed.") from None
    if abs(now_s - at) > TOLERANCE_S:
        raise OmiumError("unauthenticated", "the request was signed too long ago, or in the future.")
    expected = signature(key_of(secret), notice_id, at, body)
    if not any(hmac.compare_digest(expected.encode(), one.encode()) for one in given):
        raise OmiumError("unauthenticated", "the signature is not that of this body.")
