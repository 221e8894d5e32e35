"""What tests of measuring share: a database with one payment, a server of one handler."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from aiohttp import web

from tests.services import MIGRATED, Services, fresh_database

PAYMENT = """
INSERT INTO payments (id, version, owner, client_id, operation, status, scheme, amount_minor,
    currency, total_debit, total_credit, is_manual_capture, commission_total, commission_vat,
    commission_payer, commission_plan, commission_version, commission_lines, legs, record,
    details, created_at)
VALUES ($1, 1, 'usr_1', 'mobile', 'purchase', $2, 'visa', 100, 'UZS', 100, 99, false, 1, 0,
    'receiver', 'purchase', 1, '[]', '[]', '', '{}', now())
"""
POSTING = "INSERT INTO postings (entry_id, line, account, amount_minor, currency) VALUES "


@asynccontextmanager
async def one_payment(services: Services) -> AsyncIterator[Any]:
    """Give a connection to a migrated database with one good payment: pay_1."""
    async with fresh_database(services, template=MIGRATED) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(PAYMENT, "pay_1", "succeeded")
            await connection.execute(POSTING + "('pay_1', 1, 'a', 100, 'UZS')")
            await connection.execute(POSTING + "('pay_1', 2, 'b', -100, 'UZS')")
            yield connection
        finally:
            await connection.close()


@asynccontextmanager
async def serving(handler: Any) -> AsyncIterator[str]:
    """Serve every path with one handler; gives the base URL."""
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
