"""Who sits at a browser: a credential that was shown once, kept here, and a cookie that stands for it.

The credential never goes back to the browser. It is looked at again with every request, by the same authority as all
others, so that a revoked or expired token ends its sessions at once. Sessions are of one process: whoever runs several
servers behind one name sends a browser always to the same one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

IDLE_S: Final = 12 * 3_600.0
AT_MOST_S: Final = 7 * 86_400.0
_REMEMBERED: Final = 10_000
_BYTES: Final = 32
_LONGEST: Final = 64  # characters of a cookie's value


@dataclass(frozen=True, slots=True)
class Session:
    """authorization: what the Authorization header would be; times: monotonic seconds."""

    authorization: str
    began: float
    used: float

    def __repr__(self) -> str:
        return "Session(...)"


class Sessions:
    """All sessions of this process, by the SHA-256 of their cookie; what was not used for longest is forgotten."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._key = secrets.token_bytes(_BYTES)
        self._known: OrderedDict[str, Session] = OrderedDict()
        self._sent: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def begin(self, authorization: str) -> str:
        """A new session; the value of its cookie."""
        cookie, now = new_cookie(), self._monotonic()
        self._known[_digest(cookie)] = Session(authorization, now, now)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return cookie

    def authorization(self, cookie: str | None) -> str | None:
        """The credential that a cookie stands for; None when it stands for none (any more)."""
        if cookie is None or len(cookie) > _LONGEST:
            return None
        key, now = _digest(cookie), self._monotonic()
        found = self._known.get(key)
        if found is None:
            return None
        if now - found.used > IDLE_S or now - found.began > AT_MOST_S:
            del self._known[key]
            return None
        self._known[key] = replace(found, used=now)
        self._known.move_to_end(key)
        return found.authorization

    def end(self, cookie: str | None) -> None:
        if cookie is not None:
            self._known.pop(_digest(cookie), None)

    def first(self, key: str) -> bool:
        """Whether a form with this key is sent for the first time: for deeds whose verb takes no key of its own."""
        if key in self._sent:
            return False
        self._sent[key] = None
        if len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)
        return True

    def again(self, key: str) -> None:
        """The deed of a form with this key was refused, so that the form may be sent once more."""
        self._sent.pop(key, None)

    def proof(self, cookie: str, principal: str) -> str:
        """What a form of ours carries, and no page of anybody else can know: bound to this process, browser and
        caller."""
        return hmac.new(self._key, f"{cookie}\0{principal}".encode(), hashlib.sha256).hexdigest()

    def proves(self, given: str, cookie: str | None, principal: str) -> bool:
        """Whether a form's proof is good. False for a browser without a cookie of ours."""
        if not cookie or len(cookie) > _LONGEST:
            return False
        return hmac.compare_digest(given.encode(), self.proof(cookie, principal).encode())


def new_cookie() -> str:
    return secrets.token_urlsafe(_BYTES)


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()


def cookie_name(host: str) -> str:
    """Browsers share cookies between the ports of a host, so that two servers on one machine need two names."""
    _, _, port = host.rpartition(":")
    return f"omium_{port}" if port.isdecimal() else "omium"


def cookie_of(cookies: Mapping[str, str], host: str) -> str | None:
    return cookies.get(cookie_name(host)) or None
