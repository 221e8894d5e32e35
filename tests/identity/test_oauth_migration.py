"""Clients and sessions from before keys go on, and what is bound to a key never loses it."""

from __future__ import annotations

import asyncio

import asyncpg

from gateway.kernel.db import migrate
from tests.services import Services, fresh_database

HAS_KEYS = """
SELECT EXISTS (SELECT FROM information_schema.columns
               WHERE table_name = 'clients' AND column_name = 'jwks')
"""
BEFORE = """
INSERT INTO clients (id, channel, subject, secret_hash, scopes)
VALUES ('mobile', 'mobile', NULL, NULL, '{cards:read}'), ('shop', 'api', 'mer_1', 'x', '{a:b}');
INSERT INTO users (id, phone, tier) VALUES ('usr_1', '+998901234567', 'basic');
INSERT INTO sessions (id, user_id, client_id, device_id, device_name)
VALUES ('ses_1', 'usr_1', 'mobile', 'd', 'd'), ('ses_2', 'usr_1', 'mobile', 'e', 'e');
"""


async def _roll_back_to_before(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        while await connection.fetchval(HAS_KEYS):
            assert await asyncio.to_thread(migrate.roll_back, url, lambda _: None) == 1
    finally:
        await connection.close()


async def test_keys_come_and_go(services: Services) -> None:
    """Forward, nobody is bound; back, a session that was bound to a key has ended."""
    async with fresh_database(services) as url:
        await asyncio.to_thread(migrate.apply, url, lambda _: None)
        await _roll_back_to_before(url)
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(BEFORE)
            await asyncio.to_thread(migrate.apply, url, lambda _: None)
            rows = await connection.fetch("SELECT id, jwks, dpop FROM clients ORDER BY id")
            assert [tuple(row) for row in rows] == [("mobile", None, "off"), ("shop", None, "off")]
            rows = await connection.fetch("SELECT jkt, scope FROM sessions")
            assert {tuple(row) for row in rows} == {(None, None)}
            await connection.execute("UPDATE sessions SET jkt = 'k' WHERE id = 'ses_2'")
            await connection.execute(
                "INSERT INTO client_assertions VALUES ('shop', 'hash', now() + interval '1 hour')"
            )
            await connection.close()
            await _roll_back_to_before(url)
            connection = await asyncpg.connect(url)
            rows = await connection.fetch("SELECT id, ended_at IS NULL FROM sessions ORDER BY id")
            assert [tuple(row) for row in rows] == [("ses_1", True), ("ses_2", False)]
            assert await asyncio.to_thread(migrate.apply, url, lambda _: None) >= 1
        finally:
            await connection.close()
