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
WHERE b.connector = $1 AND b.business_day = $2 AND b.status = 'open'
  AND NOT EXISTS (SELECT FROM found_breaks f WHERE f.kind = b.kind AND f.name = b.name)
"""
# What is proposed about one side that has changed is proposed about something else: its version is.
REFRESH = """
UPDATE reconciliation_breaks b SET line_number = f.line_number, ours = f.ours, theirs = f.theirs,
    is_told = b.is_told AND b.theirs IS NOT DISTINCT FROM f.theirs
FROM found_breaks f
WHERE b.connector = $1 AND b.business_day = $2 AND b.status = 'open'
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
      AND (b.status = 'open'
        OR b.status IN ('accepted', 'posted') AND b.ours IS NOT DISTINCT FROM f.ours
          AND b.theirs IS NOT DISTINCT FROM f.theirs))
ORDER BY f.line_number NULLS LAST, f.name
"""
# What another day's report was without, this one has.
RESOLVE_ELSEWHERE = """
UPDATE reconciliation_breaks b SET status = 'resolved', resolved_at = now()
WHERE b.connector = $1 AND b.business_day <> $2 AND b.kind = 'missing_there'
  AND b.status = 'open' AND EXISTS (
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
INSERT INTO entries (entry_id, line, currency, accounts, amounts_minor, posted_at)
SELECT $1, min(t.line), t.currency, array_agg(t.account ORDER BY t.line),
    array_agg(t.amount_minor ORDER BY t.line), clock_timestamp()
FROM unnest($2::smallint[], $3::text[], $4::bigint[], $5::text[])
    AS t (line, account, amount_minor, currency)
GROUP BY t.currency
"""

# What the report says and payments do not know yet, or contradict. $1 at most.
UNTOLD = """
SELECT id, connector, business_day, side, subject, payment_id, ours, theirs
FROM reconciliation_breaks
WHERE kind = 'status' AND status = 'open' AND NOT is_told AND subject IS NOT NULL
ORDER BY id LIMIT $1
"""
TOLD = "UPDATE reconciliation_breaks SET is_told = true WHERE id = $1"
# Days whose doubts have ended since, or that another day's report has changed the meaning of.
TO_MATCH = """
SELECT connector, business_day AS day FROM reconciliation_imports WHERE is_current AND is_stale
UNION
SELECT b.connector, b.business_day AS day FROM reconciliation_breaks b
WHERE b.kind = 'status' AND b.status = 'open' AND b.ours ->> 'status' = 'unknown'
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
WHERE status = 'open' GROUP BY 1
"""
OPEN_OF_DAY = """
SELECT kind, count(*) AS count FROM reconciliation_breaks
WHERE connector = $1 AND business_day = $2 AND status = 'open' GROUP BY 1 ORDER BY 1
"""
GET_IMPORT = "SELECT revision, lines, matched FROM reconciliation_imports WHERE id = $1"

# Screens.
LIST_DAYS = """
SELECT i.*,
    (SELECT coalesce(jsonb_object_agg(kind, count), '{}') FROM (
        SELECT kind, count(*) AS count FROM reconciliation_breaks b
        WHERE b.connector = i.connector AND b.business_day = i.business_day
          AND b.status = 'open'
        GROUP BY 1) AS counted) AS breaks,
    (SELECT array_agg(entry_id ORDER BY posted_at) FROM reconciliation_settlements s
        WHERE s.connector = i.connector AND s.business_day = i.business_day) AS entries
FROM reconciliation_imports i
WHERE i.is_current AND ($1::text IS NULL OR i.connector = $1)
  AND ($2::date IS NULL OR i.business_day = $2)
  AND (i.business_day, i.connector) < ($3::date, $4::text)
ORDER BY i.business_day DESC, i.connector DESC LIMIT $5
"""
# What a proposal was made about; and the one that stands: approved, or open and about what the
# break says by now.
_VERSION = "md5(coalesce(b.ours::text, '') || '|' || coalesce(b.theirs::text, ''))"
_BREAKS = f"""
SELECT b.id, b.connector, b.business_day, b.kind, b.side, b.subject, b.payment_id, b.line_number,
    b.ours, b.theirs, b.opened_at, b.resolved_at, b.entry_id,
    o.diff ->> 'action' AS action, o.note, o.diff -> 'postings' AS postings, o.proposed_by,
    o.proposed_at, o.decided_by, o.decided_at,
    CASE WHEN b.status = 'open' AND o.status = 'proposed' THEN 'proposed' ELSE b.status END
        AS status
FROM reconciliation_breaks b LEFT JOIN LATERAL (
    SELECT * FROM proposals n
    WHERE n.kind = 'break' AND n.subject = b.id
      AND (n.status = 'approved' OR n.status = 'proposed' AND n.expires_at > now()
        AND n.base_version = {_VERSION})
    ORDER BY n.id DESC LIMIT 1) o ON true
"""
LIST_BREAKS = f"""
SELECT * FROM ({_BREAKS} WHERE b.id > $1 AND ($2::text IS NULL OR b.kind = $2)
    AND ($3::text IS NULL OR b.connector = $3) AND ($5::date IS NULL OR b.business_day = $5)) shown
WHERE $4::text IS NULL OR status = $4 ORDER BY id LIMIT $6
"""
GET_BREAK = f"{_BREAKS} WHERE b.id = $1"
HOLD_BREAK = f"""
SELECT status, {_VERSION} AS version FROM reconciliation_breaks b WHERE id = $1 FOR UPDATE
"""
CLOSE_BREAK = "UPDATE reconciliation_breaks SET status = $2, entry_id = $3 WHERE id = $1"
