"""The law of what is stored: what a payment costs as millions lie beside it.

The millions are copies of a payment that was made, put into the same tables with bulk statements:
payments, attempts, idempotency keys and journal entries, each with ids of its own that are older
than any other's, spread over the seeded users and over a year. What a row is made of is read from
the database, so that a migration needs no change here. They lie more tightly than what is paid
leaves (no room for an outcome that has come), which spares the run some gigabytes; a new payment
meets the old ones in the indexes alone. Events and the audit log get none: the first are removed
after a month, the second is written and not read.
"""

from typing import Any

from gateway.bench.rows import Law, Scale
from gateway.measuring.closed_loop import answers, closed_loop, complaint
from gateway.measuring.meters import Reading
from gateway.measuring.stage import Stage
from gateway.sandbox.errors import SandboxError
from gateway.sandbox.progress import Progress, Step

SCHEME = "visa"
CLIENTS, BLOCKS, PART = 64, 3, 50_000
# No processor knows of them: their scheme is nobody's.
COPIED = "stored"
TABLES = ("payments", "attempts", "idempotency_keys", "entries")

STORED = "SELECT count(*) FROM payments WHERE scheme = $1"
TEMPLATE = """
SELECT id FROM payments WHERE scheme = $1 AND status = 'succeeded' ORDER BY id DESC LIMIT 1
"""
COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = $1 AND is_generated = 'NEVER'
  AND is_identity = 'NO'
ORDER BY ordinal_position
"""
# Sorts before every id that a clock gives.
NEW_ID = "'pay_0' || lpad(n::text, 25, '0')"
OWNERS = """
CREATE TEMPORARY TABLE owners AS
SELECT id AS owner, row_number() OVER () - 1 AS place FROM users
"""
ROOM = """
SELECT coalesce((
    SELECT option_value::integer FROM pg_class, pg_options_to_table(reloptions)
    WHERE oid = 'payments'::regclass AND option_name = 'fillfactor'
), 100)
"""
# Of a row of each table, what is not its template's.
CHANGED = {
    "payments": {
        "id": NEW_ID,
        "owner": "o.owner",
        "scheme": f"'{COPIED}'",
        "created_at": "t.created_at - interval '1 day' - n % 365 * interval '1 day'",
    },
    "attempts": {"id": "'att_0' || lpad(n::text, 25, '0') || '1'", "payment_id": NEW_ID},
    "idempotency_keys": {"scope": "decode(md5(n::text), 'hex')", "object_id": NEW_ID},
    "entries": {"entry_id": NEW_ID},
}
OF_TEMPLATE = {
    "payments": "id",
    "attempts": "payment_id",
    "idempotency_keys": "object_id",
    "entries": "entry_id",
}


async def stored(stage: Stage, progress: Progress, scale: Scale) -> Law:
    """Measure payments over VISA as more and more lie stored, the same order at each size."""
    costs: list[tuple[int, float]] = []
    broken: list[str] = []
    with progress.step("law-stored") as step:
        await _load(stage, scale.seconds)
        for count in scale.stored:
            await fill(stage.connection, count, step)
            step.note(f"paying among {count:,}")
            await _load(stage, 1.0)
            spent = []
            for _ in range(BLOCKS):
                us, said = await _load(stage, scale.seconds)
                spent.append(us)
                broken += [said] if said else []
            costs.append((count, sorted(spent)[BLOCKS // 2]))
        step.note("checking the books")
        broken += await stage.broken(SCHEME)
        size: str = await stage.connection.fetchval(
            "SELECT pg_size_pretty(pg_database_size(current_database()))"
        )
    return Law(
        row="law-stored",
        what="CPU of gateway and PostgreSQL",
        grows="payments already stored",
        points=tuple((count, us, us / costs[0][1]) for count, us in costs),
        goal=1.3,
        note=f"the database holds {size} at the last",
        broken=tuple(dict.fromkeys(broken)),
    )


async def _load(stage: Stage, seconds: float) -> tuple[float, str]:
    """Pay for a while; returns CPU us a payment, and what is wrong with the answers."""
    await stage.connection.execute("CHECKPOINT")
    before: Reading = await stage.meters.read()
    told = await closed_loop(
        stage.generator,
        port=stage.port,
        clients=CLIENTS,
        seconds=seconds,
        scheme=SCHEME,
        ids_file=stage.ids_file,
    )
    after = await stage.meters.read()
    spent_s = sum(after.cpu_s[name] - before.cpu_s[name] for name in ("gateway", "postgres"))
    return spent_s * 1e6 / (answers(told) or 1), complaint(told)


async def fill(connection: Any, count: int, step: Step) -> None:
    """Copy a payment until so many copies are stored. Raises SandboxError.

    Args:
        connection: to a database that nobody needs afterwards.
    """
    template = await connection.fetchval(TEMPLATE, SCHEME)
    if template is None:
        raise SandboxError("there is no payment to copy")
    await connection.execute(OWNERS)
    # The tables are the run's own: nothing of them is cleaned by itself while payments are timed.
    for table in TABLES:
        await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    room = await connection.fetchval(ROOM)
    await connection.execute("ALTER TABLE payments SET (fillfactor = 100)")
    statements = [await _statement(connection, table) for table in TABLES]
    present: int = await connection.fetchval(STORED, COPIED)
    for first in range(present, count, PART):
        last = min(first + PART, count)
        step.note(f"storing {last:,} of {count:,}")
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement, first + 1, last, template)
    await connection.execute("DROP TABLE owners")
    await connection.execute(f"ALTER TABLE payments SET (fillfactor = {room})")
    step.note(f"analysing {count:,}")
    await connection.execute(f"ANALYZE {', '.join(TABLES)}", timeout=600.0)


async def _statement(connection: Any, table: str) -> str:
    """Return what copies the rows of one payment in a table. $1 to $2: numbers, $3: the payment."""
    names = [row["column_name"] for row in await connection.fetch(COLUMNS, table)]
    changed = CHANGED[table]
    if missing := changed.keys() - set(names):
        raise SandboxError(f"{table} has no column {', '.join(sorted(missing))}")
    values = [changed.get(name, f't."{name}"') for name in names]
    columns = ", ".join(f'"{name}"' for name in names)
    return f"""
        INSERT INTO {table} ({columns})
        SELECT {", ".join(values)}
        FROM generate_series($1::bigint, $2::bigint) AS n
        JOIN owners AS o ON o.place = n % (SELECT count(*) FROM owners)
        CROSS JOIN {table} AS t
        WHERE t.{OF_TEMPLATE[table]} = $3
    """
