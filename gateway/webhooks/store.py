"""SQL of events, endpoints and deliveries.

Of payments it reads the outbox, and of a payment whose it is; it writes to neither.
"""

import asyncpg

from gateway.webhooks.model import Event

# Events ------------------------------------------------------------------------------------

# The order of events is that of (xid, id): see 0004_webhooks.sql. What has an xid under the oldest
# transaction that still runs is settled, so that a reader who stops there never passes by an event
# that commits later. A transaction that writes for long, anybody's, delays events and loses none.
_EVENT_COLUMNS = """
o.xid::text AS xid, o.id, o.payment_id, o.sequence, o.type, o.data::text AS data,
(extract(epoch FROM o.created_at) * 1000)::bigint AS created_at_ms, p.owner, p.merchant_id
"""
_SETTLED = "o.xid < pg_snapshot_xmin(pg_current_snapshot())"
GET_BOUNDS = """
SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS horizon, xid::text AS xid, id
FROM event_positions WHERE name = 'pruned'
"""
# $1, $2 the position before, $3 how many.
READ_EVENTS = f"""
SELECT {_EVENT_COLUMNS} FROM outbox o LEFT JOIN payments p ON p.id = o.payment_id
WHERE (o.xid, o.id) > ($1::text::xid8, $2::bigint) AND {_SETTLED}
ORDER BY o.xid, o.id LIMIT $3
"""
# One customer's alone, found by the customer's payments. $4 whose.
READ_OWN_EVENTS = f"""
SELECT {_EVENT_COLUMNS} FROM payments p JOIN outbox o ON o.payment_id = p.id
WHERE p.owner = $4 AND (o.xid, o.id) > ($1::text::xid8, $2::bigint) AND {_SETTLED}
ORDER BY o.xid, o.id LIMIT $3
"""
# Asked before the position is locked, which is a write: at rest nothing is written.
IS_BEHIND = f"""
SELECT EXISTS (
    SELECT FROM event_positions p CROSS JOIN LATERAL (
        SELECT FROM outbox o WHERE (o.xid, o.id) > (p.xid, p.id) AND {_SETTLED} LIMIT 1
    ) o
    WHERE p.name = 'fanned_out')
"""
# One worker at a time; another that comes meanwhile has nothing to do.
LOCK_POSITION = (
    "SELECT xid::text AS xid, id FROM event_positions WHERE name = 'fanned_out'"
    " FOR UPDATE SKIP LOCKED"
)
# While nobody has an endpoint, events need not be read to be passed by. One that is added later is
# not seen by this statement, and then neither is what happens after it.
PASS_BY = """
UPDATE event_positions SET
    xid = (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid8,
    id = 9223372036854775807
WHERE name = 'fanned_out' AND NOT EXISTS (SELECT FROM webhook_endpoints)
RETURNING name
"""
SET_POSITION = """
UPDATE event_positions SET xid = $2::text::xid8, id = $3 WHERE name = $1
"""
# A database that was restored into another server counts transactions anew, and what was written
# before has numbers that are still to come. Those are made the oldest there are.
IS_FROM_ELSEWHERE = """
SELECT EXISTS (
    SELECT FROM outbox WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())
    UNION ALL
    SELECT FROM event_positions WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))
"""
LOCK_EVENTS = "LOCK TABLE outbox, event_positions IN ACCESS EXCLUSIVE MODE"
REBASE_EVENTS = """
UPDATE outbox o
SET xid = CASE WHEN (o.xid, o.id) <= (p.xid, p.id) THEN '1'::xid8 ELSE '2'::xid8 END
FROM event_positions p WHERE p.name = 'fanned_out'
"""
REBASE_POSITIONS = """
UPDATE event_positions SET
    xid = CASE name WHEN 'fanned_out' THEN '1'::xid8 ELSE '0'::xid8 END,
    id = CASE name WHEN 'fanned_out' THEN 9223372036854775807 ELSE 0 END
"""

# Endpoints ---------------------------------------------------------------------------------

_ENDPOINT_COLUMNS = """
id, url, events, description, is_enabled, disabled_reason,
(extract(epoch FROM failing_since) * 1000)::bigint AS failing_since_ms,
(extract(epoch FROM created_at) * 1000)::bigint AS created_at_ms
"""
# Two that add at once wait for one another, so that neither passes the bound.
LOCK_OWNER = "SELECT pg_advisory_xact_lock(hashtextextended('webhook_endpoints|' || $1, 0))"
COUNT_ENDPOINTS = "SELECT count(*) FROM webhook_endpoints WHERE owner = $1"
ADD_ENDPOINT = f"""
INSERT INTO webhook_endpoints (id, owner, url, events, description, secret_sealed)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING {_ENDPOINT_COLUMNS}
"""
GET_ENDPOINT = f"SELECT {_ENDPOINT_COLUMNS} FROM webhook_endpoints WHERE id = $1 AND owner = $2"
LIST_ENDPOINTS = f"""
SELECT {_ENDPOINT_COLUMNS} FROM webhook_endpoints WHERE owner = $1 AND id < $2
ORDER BY id DESC LIMIT $3
"""
# A new URL, or switching on, is a new start: what failed before says nothing of it.
CHANGE_ENDPOINT = f"""
UPDATE webhook_endpoints SET
    url = COALESCE($3, url), events = COALESCE($4, events),
    description = COALESCE($5, description), is_enabled = COALESCE($6, is_enabled),
    disabled_reason = CASE WHEN $6 IS NULL THEN disabled_reason END,
    failing_since = CASE WHEN $3 IS NULL AND $6 IS NOT TRUE THEN failing_since END,
    paused_until = CASE WHEN $3 IS NULL AND $6 IS NOT TRUE THEN paused_until END
WHERE id = $1 AND owner = $2 RETURNING {_ENDPOINT_COLUMNS}
"""
DELETE_ENDPOINT = "DELETE FROM webhook_endpoints WHERE id = $1 AND owner = $2 RETURNING id"
# $4 seconds for which the old one signs as well.
ROTATE_SECRET = f"""
UPDATE webhook_endpoints SET
    secret_sealed = $3, previous_sealed = secret_sealed,
    previous_until = now() + $4 * interval '1 second'
WHERE id = $1 AND owner = $2 RETURNING {_ENDPOINT_COLUMNS}
"""
# After the endpoint was switched off in the same transaction, so that none is made meanwhile.
FAIL_PENDING = """
UPDATE webhook_deliveries SET status = 'failed', is_sending = false, error = $2
WHERE endpoint_id = $1 AND status = 'pending'
"""

# Deliveries --------------------------------------------------------------------------------

# Shared, so that an endpoint is switched off before its deliveries are made, or after.
SHARE_ENDPOINTS = """
SELECT id, owner, events FROM webhook_endpoints
WHERE owner = ANY($1::text[]) AND is_enabled ORDER BY id FOR SHARE
"""
SHARE_ENDPOINT = f"""
SELECT {_ENDPOINT_COLUMNS} FROM webhook_endpoints WHERE id = $1 AND owner = $2 FOR SHARE
"""
ADD_DELIVERIES = """
INSERT INTO webhook_deliveries (id, endpoint_id, event_id, payment_id, sequence, type, body)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::text[],
    $7::text[])
ON CONFLICT (endpoint_id, event_id) DO NOTHING
"""
# What is due, an endpoint's oldest first and no more than it may have at once: $1 and $2 say how
# many of which it has with this worker, $3 how many it may have, $4 how many are wanted in all.
# One that has been failing has one at a time, so that the dead do not take the others' places.
# An event waits until every earlier one of its payment was tried once. For $5 seconds nobody else
# takes up what is claimed.
CLAIM_DELIVERIES = """
WITH due AS (
    SELECT d.id
    FROM webhook_endpoints e
    LEFT JOIN unnest($1::text[], $2::integer[]) AS busy (endpoint_id, sending)
        ON busy.endpoint_id = e.id
    CROSS JOIN LATERAL (
        SELECT d.id, d.next_try_at FROM webhook_deliveries d
        WHERE d.endpoint_id = e.id AND d.status = 'pending' AND d.next_try_at <= now()
          AND NOT EXISTS (
            SELECT FROM webhook_deliveries earlier
            WHERE earlier.endpoint_id = d.endpoint_id AND earlier.payment_id = d.payment_id
              AND earlier.sequence < d.sequence AND earlier.status = 'pending'
              AND (earlier.tries = 0 OR earlier.is_sending))
        ORDER BY d.next_try_at, d.id
        LIMIT greatest(0, CASE WHEN e.failing_since IS NULL THEN $3::integer ELSE 1 END
            - COALESCE(busy.sending, 0))
        FOR UPDATE SKIP LOCKED
    ) d
    WHERE e.is_enabled AND (e.paused_until IS NULL OR e.paused_until <= now())
    ORDER BY d.next_try_at, d.id LIMIT $4
)
UPDATE webhook_deliveries d SET
    is_sending = true, tries = d.tries + 1, next_try_at = now() + $5 * interval '1 second'
FROM due, webhook_endpoints e
WHERE d.id = due.id AND e.id = d.endpoint_id
RETURNING d.id, d.endpoint_id, d.event_id, d.type, d.tries, d.body, e.url, e.secret_sealed,
    CASE WHEN e.previous_until > now() THEN e.previous_sealed END AS previous_sealed
"""
# A try is told once, by whoever began it last: $2 is which it was.
_OWN_TRY = "WHERE id = $1 AND tries = $2 AND is_sending AND status = 'pending'"
# Those that were taken, a batch a commit: $1 which, $2 their tries, $3 what was answered.
SUCCEED = """
UPDATE webhook_deliveries d SET
    status = 'succeeded', is_sending = false, tried_at = now(), http_status = t.http_status,
    error = NULL
FROM unnest($1::text[], $2::smallint[], $3::smallint[]) AS t (id, tries, http_status)
WHERE d.id = t.id AND d.tries = t.tries AND d.is_sending AND d.status = 'pending'
"""
TRY_AGAIN = f"""
UPDATE webhook_deliveries SET
    is_sending = false, tried_at = now(), http_status = $3, error = $4,
    next_try_at = now() + $5::float8 * interval '1 second'
{_OWN_TRY} RETURNING id
"""
FAIL = f"""
UPDATE webhook_deliveries SET
    status = 'failed', is_sending = false, tried_at = now(), http_status = $3, error = $4
{_OWN_TRY} RETURNING id
"""
# Given back untried, by a worker that stops.
GIVE_BACK = f"""
UPDATE webhook_deliveries SET is_sending = false, tries = tries - 1, next_try_at = now()
{_OWN_TRY}
"""
IS_WELL = """
UPDATE webhook_endpoints SET failing_since = NULL, paused_until = NULL
WHERE id IN (
    SELECT id FROM webhook_endpoints
    WHERE id = ANY($1::text[]) AND (failing_since IS NOT NULL OR paused_until IS NOT NULL)
    ORDER BY id FOR UPDATE)
"""
IS_FAILING = """
UPDATE webhook_endpoints SET
    failing_since = COALESCE(failing_since, now()),
    paused_until = COALESCE(now() + $2::float8 * interval '1 second', paused_until)
WHERE id = $1 AND (failing_since IS NULL OR $2::float8 IS NOT NULL)
"""
SWITCH_OFF = """
UPDATE webhook_endpoints SET is_enabled = false, disabled_reason = $2
WHERE id = $1 AND is_enabled RETURNING id
"""
_DELIVERY_COLUMNS = """
d.id, d.endpoint_id, d.event_id, d.type, d.payment_id, d.sequence, d.status, d.tries,
(extract(epoch FROM CASE WHEN d.status = 'pending' THEN d.next_try_at END) * 1000)::bigint
    AS next_try_at_ms,
(extract(epoch FROM d.tried_at) * 1000)::bigint AS tried_at_ms,
d.http_status, d.error, (extract(epoch FROM d.created_at) * 1000)::bigint AS created_at_ms
"""
LIST_DELIVERIES = f"""
SELECT {_DELIVERY_COLUMNS} FROM webhook_deliveries d
WHERE d.endpoint_id = $1 AND d.id < $2 AND ($3::text IS NULL OR d.status = $3)
ORDER BY d.id DESC LIMIT $4
"""
# From the beginning of the schedule, and at once; one that is being sent is left to its worker.
REDELIVER = f"""
UPDATE webhook_deliveries d SET
    status = 'pending', tries = CASE WHEN is_sending THEN tries ELSE 0 END,
    next_try_at = CASE WHEN is_sending THEN next_try_at ELSE now() END
WHERE d.id = $2 AND d.endpoint_id = $1 RETURNING {_DELIVERY_COLUMNS}
"""
# Of what is due and not being sent, and of events that no delivery was made of yet.
OLDEST_DUE = """
SELECT COALESCE(extract(epoch FROM now() - min(since)), 0)::float8 FROM (
    SELECT d.next_try_at AS since
    FROM webhook_endpoints e CROSS JOIN LATERAL (
        SELECT next_try_at FROM webhook_deliveries
        WHERE endpoint_id = e.id AND status = 'pending' AND NOT is_sending
        ORDER BY next_try_at LIMIT 1
    ) d
    WHERE e.is_enabled AND d.next_try_at <= now()
    UNION ALL
    SELECT o.created_at
    FROM event_positions p CROSS JOIN LATERAL (
        SELECT o.created_at FROM outbox o WHERE (o.xid, o.id) > (p.xid, p.id)
        ORDER BY o.xid, o.id LIMIT 1
    ) o
    WHERE p.name = 'fanned_out'
) waiting
"""
# $1 an id of the moment before which they are old: ids begin with their time.
PRUNE_DELIVERIES = """
WITH old AS (
    SELECT id FROM webhook_deliveries WHERE id < $1 AND status <> 'pending' ORDER BY id LIMIT $2
    FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM webhook_deliveries d USING old WHERE d.id = old.id RETURNING 1
)
SELECT count(*) FROM gone
"""


def event_of(row: asyncpg.Record) -> Event:
    """Return an event from a row of `_EVENT_COLUMNS`."""
    values = dict(row)
    return Event(position=(values.pop("xid"), values.pop("id")), **values)
