"""SQL of what reconciliation keeps: imports, breaks, settlements."""

CURRENT = """
SELECT id, revision, content_hash FROM reconciliation_imports
WHERE connector = $1 AND business_day = $2 AND is_current
"""
REPLACE = """
WITH replaced AS (
    UPDATE reconciliation_imports SET is_current = false
    WHERE connector = $1 AND business_day = $2 AND is_current RETURNING id
)
DELETE FROM reconciliation_lines l USING replaced r WHERE l.import_id = r.id
"""
INSERT_IMPORT = """
INSERT INTO reconciliation_imports (id, connector, business_day, revision, is_current, content_hash,
    source, imported_by, imported_at, lines, matched, sums, matched_at)
VALUES ($1, $2, $3, $4, true, $5, $6, $7, $8, $9, $10, $11, $8)
"""
UPDATE_IMPORT = """
UPDATE reconciliation_imports SET matched = $2, matched_at = $3, is_stale = false WHERE id = $1
"""

# Breaks of a day, brought to what was found: gone, changed, new. $1 connector, $2 day.
RESOLVE_GONE = """
UPDATE reconciliation_breaks b SET status = 'resolved', resolved_at = now()
WHERE b.connector = $1 AND b.business_day = $2 AND b.status IN ('open', 'proposed')
  AND NOT EXISTS (SELECT FROM found_breaks f WHERE f.kind = b.kind AND f.name = b.name)
"""
# What is proposed about one side that has changed is proposed about something else.
REFRESH = """
UPDATE reconciliation_breaks b SET line_number = f.line_number, ours = f.ours, theirs = f.theirs,
    is_told = b.is_told AND b.theirs IS NOT DISTINCT FROM f.theirs,
    status = CASE WHEN b.ours IS NOT DISTINCT FROM f.ours
        AND b.theirs IS NOT DISTINCT FROM f.theirs THEN b.status ELSE 'open' END
FROM found_breaks f
WHERE b.connector = $1 AND b.business_day = $2 AND b.status IN ('open', 'proposed')
  AND f.kind = b.kind AND f.name = b.name
  AND (b.line_number, b.ours, b.theirs) IS DISTINCT FROM (f.line_number, f.ours, f.theirs)
"""
# What operators have decided about is not opened again, unless a side has changed.
OPEN_NEW = """
INSERT INTO reconciliation_breaks (connector, business_day, kind, name, side, subject, payment_id,
    line_number, ours, theirs)
SELECT $1, $2, f.kind, f.name, f.side, f.subject, f.payment_id, f.line_number, f.ours, f.theirs
FROM found_breaks f
WHERE NOT EXISTS (
    SELECT FROM reconciliation_breaks b
    WHERE b.connector = $1 AND b.business_day = $2 AND b.kind = f.kind AND b.name = f.name
      AND (b.status IN ('open', 'proposed')
        OR b.status IN ('accepted', 'posted') AND b.ours IS NOT DISTINCT FROM f.ours
          AND b.theirs IS NOT DISTINCT FROM f.theirs))
ORDER BY f.line_number NULLS LAST, f.name
"""
# What another day's report was without, this one has.
RESOLVE_ELSEWHERE = """
UPDATE reconciliation_breaks b SET status = 'resolved', resolved_at = now()
WHERE b.connector = $1 AND b.business_day <> $2 AND b.kind = 'missing_there'
  AND b.status IN ('open', 'proposed') AND EXISTS (
    SELECT FROM matched m WHERE m.subject = b.subject AND m.side = b.side AND m.is_approved)
"""

# Settlements.
POSTED = """
SELECT currency, sum(net_minor)::bigint AS net, sum(fee_minor)::bigint AS fee, count(*) AS entries
FROM reconciliation_settlements WHERE connector = $1 AND business_day = $2 GROUP BY 1
"""
INSERT_SETTLEMENT = """
INSERT INTO reconciliation_settlements (
    entry_id, connector, business_day, currency, net_minor, fee_minor, posted_at)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp())
"""
# As of now and not of the transaction's beginning: an hour that has ended gets no more postings.
POST = """
INSERT INTO postings (entry_id, line, account, amount_minor, currency, posted_at)
SELECT $1, t.line, t.account, t.amount_minor, t.currency, clock_timestamp()
FROM unnest($2::smallint[], $3::text[], $4::bigint[], $5::text[])
    AS t (line, account, amount_minor, currency)
"""

# What the report says and payments do not know yet, or contradict. $1 at most.
UNTOLD = """
SELECT id, connector, business_day, side, subject, payment_id, ours, theirs
FROM reconciliation_breaks
WHERE kind = 'status' AND status IN ('open', 'proposed') AND NOT is_told AND subject IS NOT NULL
ORDER BY id LIMIT $1
"""
TOLD = "UPDATE reconciliation_breaks SET is_told = true WHERE id = $1"
# Days whose doubts have ended since, or that another day's report has changed the meaning of.
TO_MATCH = """
SELECT connector, business_day AS day FROM reconciliation_imports WHERE is_current AND is_stale
UNION
SELECT b.connector, b.business_day AS day FROM reconciliation_breaks b
WHERE b.kind = 'status' AND b.status IN ('open', 'proposed') AND b.ours ->> 'status' = 'unknown'
  AND NOT EXISTS (
    SELECT FROM attempts a
    WHERE a.id = b.subject AND a.state IN ('created', 'sent', 'unknown', 'reversing'))
  AND NOT EXISTS (
    SELECT FROM actions a WHERE a.id = b.subject AND a.state IN ('pending', 'unknown'))
"""
ONE_SWEEPS = "SELECT pg_try_advisory_xact_lock(7276545805)"
SWEEP_ALONE = "SELECT pg_advisory_xact_lock(7276545805)"
OPEN_BY_KIND = """
SELECT kind, count(*) AS count FROM reconciliation_breaks
WHERE status IN ('open', 'proposed') GROUP BY 1
"""
OPEN_OF_DAY = """
SELECT kind, count(*) AS count FROM reconciliation_breaks
WHERE connector = $1 AND business_day = $2 AND status IN ('open', 'proposed') GROUP BY 1 ORDER BY 1
"""
GET_IMPORT = "SELECT revision, lines, matched FROM reconciliation_imports WHERE id = $1"

# Screens.
LIST_DAYS = """
SELECT i.*,
    (SELECT coalesce(jsonb_object_agg(kind, count), '{}') FROM (
        SELECT kind, count(*) AS count FROM reconciliation_breaks b
        WHERE b.connector = i.connector AND b.business_day = i.business_day
          AND b.status IN ('open', 'proposed')
        GROUP BY 1) AS counted) AS breaks,
    (SELECT array_agg(entry_id ORDER BY posted_at) FROM reconciliation_settlements s
        WHERE s.connector = i.connector AND s.business_day = i.business_day) AS entries
FROM reconciliation_imports i
WHERE i.is_current AND ($1::text IS NULL OR i.connector = $1)
  AND ($2::date IS NULL OR i.business_day = $2)
  AND (i.business_day, i.connector) < ($3::date, $4::text)
ORDER BY i.business_day DESC, i.connector DESC LIMIT $5
"""
_BREAK = """
id, connector, business_day, kind, side, subject, payment_id, line_number, ours, theirs, status,
opened_at, resolved_at, action, note, postings, proposed_by, proposed_at, decided_by, decided_at,
entry_id
"""
LIST_BREAKS = f"""
SELECT {_BREAK} FROM reconciliation_breaks
WHERE id > $1 AND ($2::text IS NULL OR kind = $2) AND ($3::text IS NULL OR connector = $3)
  AND ($4::text IS NULL OR status = $4) AND ($5::date IS NULL OR business_day = $5)
ORDER BY id LIMIT $6
"""
GET_BREAK = f"SELECT {_BREAK} FROM reconciliation_breaks WHERE id = $1"
PROPOSE = """
UPDATE reconciliation_breaks SET status = 'proposed', action = $2, note = $3, postings = $4,
    proposed_by = $5, proposed_at = $6
WHERE id = $1 AND status IN ('open', 'proposed') RETURNING id
"""
DECIDE = """
UPDATE reconciliation_breaks SET status = $2, decided_by = $3, decided_at = $4, entry_id = $5
WHERE id = $1 AND status = 'proposed' AND proposed_at = $6 AND proposed_by <> $3 RETURNING id
"""
