"""Tokens and sessions."""

from __future__ import annotations

import pytest

from dashboards.tokens import COOKIE, SESSION_SECONDS, Token, set_cookie

SECRET = "a-token-of-the-tests-0123456789"


class TestToken:
    def test_only_the_token_is_right(self) -> None:
        token = Token(SECRET)
        assert token.is_right(SECRET)
        for wrong in ("", SECRET[:-1], SECRET + "x", SECRET.upper(), "ü" * 30, "\udcff", "x" * 100_000):
            assert not token.is_right(wrong)

    @pytest.mark.parametrize("header", [f"Bearer {SECRET}", f"bearer {SECRET}", f"BEARER   {SECRET} "])
    def test_a_bearer_header_opens(self, header: str) -> None:
        assert Token(SECRET).opens(header, "")

    @pytest.mark.parametrize(
        "header", ["Bearer", "Bearer wrong", f"Basic {SECRET}", SECRET, f"Bearer: {SECRET}", "\udcff"]
    )
    def test_other_headers_do_not(self, header: str) -> None:
        assert not Token(SECRET).opens(header, "")


class TestSession:
    def test_a_session_opens_until_it_ends(self) -> None:
        now = [1000.0]
        token = Token(SECRET, lambda: now[0])
        cookie = f"other=1; {COOKIE}={token.session()}"
        assert token.opens("", cookie)
        now[0] += SESSION_SECONDS - 1
        assert token.opens("", cookie)
        now[0] += 2
        assert not token.opens("", cookie)

    def test_a_session_of_another_token_does_not_open(self) -> None:
        assert not Token(SECRET).opens("", f"{COOKIE}={Token(SECRET + 'x').session()}")

    def test_a_wrong_header_is_not_saved_by_a_session(self) -> None:
        token = Token(SECRET)
        assert not token.opens("Bearer wrong", f"{COOKIE}={token.session()}")

    def test_a_session_does_not_hold_the_token(self) -> None:
        assert SECRET not in Token(SECRET).session()

    @pytest.mark.parametrize(
        "value", ["", ".", "9999999999.", "9999999999.00", f"{SECRET}", "x" * 50_000, "²." + "0" * 64, '"\\"']
    )
    def test_forgeries_do_not_open(self, value: str) -> None:
        assert not Token(SECRET).opens("", f"{COOKIE}={value}")

    def test_moving_the_end_breaks_the_signature(self) -> None:
        token = Token(SECRET)
        expiry, _, signature = token.session().partition(".")
        assert not token.opens("", f"{COOKIE}={int(expiry) + 1}.{signature}")

    def test_cookies_are_closed_to_scripts_and_other_sites(self) -> None:
        text = set_cookie("value", secure=True)
        assert "HttpOnly; SameSite=Strict; Secure" in text
        assert "Secure" not in set_cookie("value", secure=False)
        assert "Max-Age=0" in set_cookie("", secure=False)
