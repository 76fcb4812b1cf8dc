"""The server's token: a bearer header for programs, and for browsers a signed session made from it."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie

COOKIE = "paretune_session"
SESSION_SECONDS = 12 * 3600
_MOST_CHARACTERS = 4096


class Token:
    """A secret that opens everything. All comparisons take the same time wherever they fail.

    A session is `EXPIRY.SIGNATURE`, signed with a key made from the token: it reveals nothing about the token, ends by
    itself, and ends for everybody when the token is changed.
    """

    def __init__(self, secret: str, now: Callable[[], float] = time.time) -> None:
        self._secret = secret.encode()
        self._key = hmac.digest(self._secret, b"paretune session key", hashlib.sha256)
        self._now = now

    def is_right(self, given: str) -> bool:
        """Whether this is the token."""
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape")[:_MOST_CHARACTERS], self._secret)

    def session(self) -> str:
        """Return a new session."""
        expiry = str(int(self._now() + SESSION_SECONDS))
        return f"{expiry}.{self._sign(expiry)}"

    def opens(self, authorization: str, cookies: str) -> bool:
        """Whether these headers (`Authorization`, `Cookie`) hold the token or a session that has not ended.

        Where there is an `Authorization` header it alone decides.
        """
        if authorization:
            scheme, _, given = authorization.partition(" ")
            return scheme.lower() == "bearer" and self.is_right(given.strip())
        return self._is_session(_cookie(cookies))

    def _is_session(self, value: str) -> bool:
        expiry, _, signature = value.partition(".")
        right = hmac.compare_digest(signature.encode("utf-8", "surrogateescape"), self._sign(expiry).encode())
        return right and expiry.isdecimal() and int(expiry) > self._now()

    def _sign(self, expiry: str) -> str:
        return hmac.new(self._key, expiry.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def set_cookie(value: str, secure: bool) -> str:
    """Return the `Set-Cookie` header of a session; an empty value ends it. Scripts and other sites never see it."""
    age = SESSION_SECONDS if value else 0
    text = f"{COOKIE}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict"
    return f"{text}; Secure" if secure else text


def _cookie(header: str) -> str:
    if len(header) > 4 * _MOST_CHARACTERS:
        return ""
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value
