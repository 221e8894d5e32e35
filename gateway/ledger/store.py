"""SQL of the ledger's balances and entries."""

# One roller at a time, over all workers.
LOCK = "SELECT pg_try_advisory_xact_lock(7276545803)"
# Hours that ended long enough ago that no transaction which posted in them can still be open.
ROLLABLE = """
SELECT hour FROM (
    SELECT DISTINCT date_trunc('hour', posted_at) AS hour FROM postings
    WHERE posted_at >= coalesce(
        (SELECT max(hour) + interval '1 hour' FROM ledger_hours), '-infinity')
) AS hours
WHERE hour + interval '1 hour' + $1 * interval '1 second' < now()
ORDER BY hour LIMIT $2
"""
ROLL = """
WITH rolled AS (
    INSERT INTO ledger_hours (hour) VALUES ($1) ON CONFLICT DO NOTHING RETURNING hour
)
INSERT INTO ledger_sums (hour, account, currency, debit, credit)
SELECT r.hour, p.account, p.currency,
    sum(greatest(p.amount_minor, 0)), sum(greatest(-p.amount_minor, 0))
FROM rolled r JOIN postings p
    ON p.posted_at >= r.hour AND p.posted_at < r.hour + interval '1 hour'
GROUP BY 1, 2, 3
"""
# Whole hours from their sums, and what was posted since by itself.
TRIAL_BALANCE = """
WITH hours AS (
    SELECT coalesce(max(hour) + interval '1 hour', '-infinity'::timestamptz) AS up_to
    FROM ledger_hours WHERE hour + interval '1 hour' <= $1
), parts AS (
    SELECT account, currency, sum(debit) AS debit, sum(credit) AS credit
    FROM ledger_sums, hours WHERE hour < hours.up_to GROUP BY 1, 2
    UNION ALL
    SELECT p.account, p.currency,
        sum(greatest(p.amount_minor, 0)), sum(greatest(-p.amount_minor, 0))
    FROM postings p, hours WHERE p.posted_at >= hours.up_to AND p.posted_at <= $1
    GROUP BY 1, 2
)
SELECT account, currency, sum(debit)::text AS debit, sum(credit)::text AS credit
FROM parts GROUP BY 1, 2 ORDER BY 1, 2
"""
GET_ENTRY = """
SELECT line, account, amount_minor, currency, posted_at FROM postings
WHERE entry_id = $1 ORDER BY line
"""
