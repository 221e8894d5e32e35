"""Operators as people: added as by the command line, each with an authenticator app."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyotp

from gateway import settings as settings_module
from gateway.operators import adding
from tests.house import House, Reply

PASSWORD = "correct horse battery staple"


@dataclass(slots=True)
class Person:
    """One operator and the authenticator app."""

    house: House
    id: str
    login: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)
    _steps_used: int = 0

    def code(self) -> str:
        """Return a code that was not given yet: of this step, or of the next."""
        step = max(int(time.time()) // 30, self._steps_used + 1)
        self._steps_used = step
        return str(pyotp.TOTP(self.secret).generate_otp(step))

    async def log_in(self, *, password: str = PASSWORD, code: str | None = None) -> Reply:
        """Log in, and keep the token when it succeeds."""
        body = {"login": self.login, "password": password, "code": code or self.code()}
        reply = await self.house.call("POST", "/admin/v1/auth/login", body)
        if reply.status == 200:
            self.token = reply.body["access_token"]
        return reply

    async def call(self, method: str, path: str, body: Any = None) -> Reply:
        """Make a request as this operator."""
        return await self.house.call(method, f"/admin/v1{path}", body, token=self.token)


async def person(house: House, login: str, *roles: str) -> Person:
    """Add an operator, and log in."""
    settings = settings_module.load(
        {
            "OQIM_DATABASE_URL": house.description["database_url"],
            "OQIM_DATA_DIR": str(house.data_dir),
        }
    )
    added = await asyncio.to_thread(
        adding.run,
        settings,
        login=login,
        name=login.title(),
        roles=list(roles),
        password=PASSWORD,
        actor="tests",
    )
    (secret,) = parse_qs(urlsplit(added.provisioning_uri).query)["secret"]
    made = Person(house, added.id, login, secret)
    reply = await made.log_in()
    assert reply.status == 200, reply.raw
    return made
