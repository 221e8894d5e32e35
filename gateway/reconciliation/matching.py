"""Matching as SQL, whole sets at a time: a report's lines beside what was done here.

Everything happens in temporary tables of one transaction. A line is known by our reference, else by
what was undone as a whole under that reference, else by the processor's own; a line that gives back
and is known by none of these is held against the payment it names. Reads the tables of payments,
writes none of them.
"""

# For the transaction alone: elsewhere every statement looks rows up by an index, a batch at most.
SETTINGS = """
SET LOCAL enable_seqscan = on;
SET LOCAL enable_hashjoin = on;
SET LOCAL enable_mergejoin = on;
SET LOCAL plan_cache_mode = 'force_custom_plan';
SET LOCAL work_mem = '128MB';
"""
# One import or rematch of a connector at a time, over all workers.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('reconciliation:' || $1, 0))"

TABLES = """
CREATE TEMP TABLE report_lines (
    number integer, movement text, side text, is_approved boolean, reference text COLLATE "C",
    processor_reference text COLLATE "C", amount bigint, commission bigint, fee bigint, net bigint,
    currency text, day date
) ON COMMIT DROP;
CREATE TEMP TABLE ours (
    ord integer GENERATED ALWAYS AS IDENTITY, subject text COLLATE "C", side text,
    reference text COLLATE "C", alternative text COLLATE "C", rrn text COLLATE "C", amount bigint,
    commission bigint, currency text, status text, day date, payment_id text COLLATE "C",
    known_at timestamptz, sequence bigint, created_at_ms bigint
) ON COMMIT DROP;
CREATE TEMP TABLE matched (
    LIKE report_lines, ord integer, subject text COLLATE "C", is_crossed boolean,
    key text COLLATE "C", copy integer, o_amount bigint, o_commission bigint, o_currency text,
    o_status text, o_day date, payment_id text COLLATE "C"
) ON COMMIT DROP;
CREATE TEMP TABLE found_breaks (
    kind text, name text COLLATE "C", side text, subject text COLLATE "C",
    payment_id text COLLATE "C", line_number integer, ours jsonb, theirs jsonb
) ON COMMIT DROP;
"""
LINE_COLUMNS = (
    "number",
    "movement",
    "side",
    "is_approved",
    "reference",
    "processor_reference",
    "amount",
    "commission",
    "fee",
    "net",
    "currency",
    "day",
)
SPAN = "SELECT min(day) AS first, max(day) AS last, count(*) AS lines FROM report_lines"
STORED_LINES = """
INSERT INTO report_lines
SELECT number, movement, side, is_approved, reference, processor_reference, amount_minor,
    commission_minor, fee_minor, net_minor, currency, day
FROM reconciliation_lines WHERE import_id = $1
"""

# $1 connector, $2 and $3 attempts from and before, $4 and $5 captures, $6 and $7 refunds.
_MONEY = """
    CASE WHEN a.kind IN ('credit', 'transfer') THEN p.total_credit ELSE p.total_debit END"""
_DAY = "(({moment}) AT TIME ZONE 'UTC' + interval '5 hours')::date"
_ATTEMPT_DAY = _DAY.format(moment="to_timestamp(a.created_at_ms / 1000.0)")
_ACTION_DAY = _DAY.format(moment="c.created_at")
_RRN = "coalesce(a.rrn, a.processor_references ->> 'rrn')"
_FIRST_ATTEMPT = "JOIN attempts a ON a.id = 'att_' || substr(c.payment_id, 5) || '1'"
# What a refund brought back to the card: with it the commission that the sender had paid.
_PAID_BACK = """c.amount_minor
    + CASE WHEN p.commission_payer = 'sender' THEN c.commission_returned ELSE 0 END"""

_COLUMNS = """subject, side, reference, alternative, rrn, amount, commission, currency, status,
    day, payment_id, known_at, sequence, created_at_ms"""
_ATTEMPTS = f"""
SELECT a.id, 'payment', a.id, NULL, {_RRN}, {_MONEY},
    CASE a.kind WHEN 'transfer' THEN p.total_debit - p.total_credit ELSE 0 END, p.currency,
    CASE WHEN a.state IN ('declined', 'reversed') THEN a.state
        WHEN a.kind = 'hold' THEN 'held'
        WHEN a.state IN ('authorized', 'captured') THEN 'approved'
        ELSE 'unknown' END,
    {_ATTEMPT_DAY}, p.id, p.updated_at, a.sequence, a.created_at_ms
FROM attempts a JOIN payments p ON p.id = a.payment_id
WHERE a.connector = $1 AND {{which}} AND (a.kind <> 'hold' OR NOT EXISTS (
    SELECT FROM actions c
    WHERE c.payment_id = a.payment_id AND c.kind = 'capture' AND c.state <> 'failed'))
UNION ALL
SELECT a.id, 'refund', a.id, NULL, {_RRN}, {_MONEY}, NULL, p.currency, 'reversed',
    {_ATTEMPT_DAY}, p.id, p.updated_at, a.sequence, a.created_at_ms
FROM attempts a JOIN payments p ON p.id = a.payment_id
WHERE a.connector = $1 AND {{which}} AND a.state IN ('reversing', 'reversed')"""
OURS = f"""
INSERT INTO ours ({_COLUMNS})
{_ATTEMPTS.format(which="a.id >= $2 AND a.id < $3")}
UNION ALL
SELECT c.id, 'payment', c.id, a.id, {_RRN},
    CASE c.state WHEN 'succeeded' THEN p.total_debit END, 0, p.currency,
    CASE c.state WHEN 'succeeded' THEN 'approved' ELSE 'unknown' END,
    {_ACTION_DAY}, p.id, p.updated_at, a.sequence, a.created_at_ms
FROM actions c JOIN payments p ON p.id = c.payment_id {_FIRST_ATTEMPT}
WHERE c.kind = 'capture' AND c.state <> 'failed' AND c.id >= $4 AND c.id < $5
  AND a.connector = $1
UNION ALL
SELECT c.id, 'refund', c.id,
    CASE WHEN c.state <> 'failed' AND {_PAID_BACK} = p.total_debit
        THEN coalesce(a.processor_references ->> 'capture_ref', a.id) END,
    NULL, {_PAID_BACK}, NULL, p.currency,
    CASE c.state WHEN 'succeeded' THEN 'approved' WHEN 'failed' THEN 'declined'
        ELSE 'unknown' END,
    {_ACTION_DAY}, p.id, p.updated_at, c.sequence, a.created_at_ms
FROM actions c JOIN payments p ON p.id = c.payment_id {_FIRST_ATTEMPT}
WHERE c.kind = 'refund' AND c.id >= $6 AND c.id < $7 AND a.connector = $1
"""
# What was done long before it was reported, such as what was reversed by hand days later.
# $2 attempts by our name; $3 and $4 others from and before, by $5 the processor's names.
OLDER = f"""
INSERT INTO ours ({_COLUMNS})
SELECT * FROM ({
    _ATTEMPTS.format(
        which=f"(a.id = ANY($2::text[]) OR a.id >= $3 AND a.id < $4 AND {_RRN} = ANY($5::text[]))"
    )
}) AS older ({_COLUMNS})
WHERE NOT EXISTS (SELECT FROM ours o WHERE o.subject = older.subject)
"""
LAST_OF_OURS = "SELECT coalesce(max(ord), 0) FROM ours"
# Messages of which the processor's name is not stored, but follows from what made them.
UNNAMED = """
SELECT ord, sequence, created_at_ms FROM ours WHERE rrn IS NULL AND sequence IS NOT NULL
"""
NAME = """
UPDATE ours o SET rrn = t.rrn FROM unnest($1::integer[], $2::text[]) AS t (ord, rrn)
WHERE o.ord = t.ord
"""
ANALYZE = "ANALYZE report_lines; ANALYZE ours"

# A name that two of ours have tells neither.
_BY_RRN = """(
    SELECT side, rrn, min(ord) AS ord FROM ours WHERE rrn IS NOT NULL
    GROUP BY 1, 2 HAVING count(*) = 1)"""
_BY_ALTERNATIVE = """(
    SELECT side, alternative, min(ord) AS ord FROM ours WHERE alternative IS NOT NULL
    GROUP BY 1, 2 HAVING count(*) = 1)"""
_OURS_OF = """ord = o.ord, subject = o.subject, o_amount = o.amount, o_commission = o.commission,
    o_currency = o.currency, o_status = o.status, o_day = o.day, payment_id = o.payment_id"""
MATCH = f"""
INSERT INTO matched
SELECT l.*, o.ord, o.subject, false,
    coalesce(o.subject, nullif(l.reference, ''), l.processor_reference), 0,
    o.amount, o.commission, o.currency, o.status, o.day, o.payment_id
FROM report_lines l
LEFT JOIN ours r ON r.side = l.side AND r.reference = l.reference
LEFT JOIN {_BY_ALTERNATIVE} x ON r.ord IS NULL AND x.side = l.side AND x.alternative = l.reference
LEFT JOIN {_BY_RRN} n
    ON r.ord IS NULL AND x.ord IS NULL AND n.side = l.side AND n.rrn = l.processor_reference
LEFT JOIN ours o ON o.ord = coalesce(r.ord, x.ord, n.ord)
"""
# Lines that are nobody's so far. $1 at most.
UNMATCHED = """
SELECT side, reference, processor_reference FROM matched
WHERE ord IS NULL AND is_approved LIMIT $1
"""
# $1: ours from there on.
MATCH_OLDER = tuple(
    f"""
UPDATE matched m SET key = o.subject, {_OURS_OF}
FROM ours o
WHERE o.ord > $1 AND m.ord IS NULL AND o.side = m.side AND o.{ours} = m.{theirs}
"""
    for ours, theirs in (("reference", "reference"), ("rrn", "processor_reference"))
)
# What they gave back, and stands here: held against the payment that the line names.
CROSS = tuple(
    f"""
UPDATE matched m SET is_crossed = true, key = o.subject, {_OURS_OF}
FROM ours o
WHERE m.ord IS NULL AND m.side = 'refund' AND o.side = 'payment' AND o.{ours} = m.{theirs}
"""
    for ours, theirs in (
        ("reference", "reference"),
        ("alternative", "reference"),
        ("rrn", "processor_reference"),
    )
)
# The second line and every later one about the same.
COPIES = """
WITH several AS (
    SELECT side, key FROM matched WHERE is_approved GROUP BY 1, 2 HAVING count(*) > 1
), ranked AS (
    SELECT m.number,
        row_number() OVER (PARTITION BY m.side, m.key ORDER BY m.number) - 1 AS copy
    FROM matched m JOIN several s ON s.side = m.side AND s.key = m.key
    WHERE m.is_approved
)
UPDATE matched m SET copy = r.copy FROM ranked r WHERE r.number = m.number AND r.copy > 0
"""
# What the report of an earlier day said already. The same operation has the same date in both, so
# that at most one of the two is of its own day. $1 connector, $2 day.
COPIES_OF_EARLIER = (
    """
UPDATE matched m SET copy = -1
WHERE m.copy = 0 AND m.is_approved AND m.subject IS NOT NULL AND m.day <> $2 AND EXISTS (
    SELECT FROM reconciliation_lines l
    WHERE l.subject = m.subject AND l.side = m.side AND l.is_approved AND l.connector = $1
      AND l.business_day < $2)
""",
    """
UPDATE matched m SET copy = -1 FROM (
    SELECT DISTINCT subject, side FROM reconciliation_lines
    WHERE is_off_day AND is_approved AND connector = $1 AND business_day < $2) l
WHERE m.copy = 0 AND m.is_approved AND l.subject = m.subject AND l.side = m.side
""",
)
# Reports of other days that this one has changed the meaning of: later ones that repeat it, those
# that told one half of what came and went, and those whose missing lines an earlier revision of it
# had. They are matched again.
MARK_LATER_COPIES = """
UPDATE reconciliation_imports i SET is_stale = true
WHERE i.is_current AND i.connector = $1 AND i.business_day > $2 AND EXISTS (
    SELECT FROM reconciliation_lines l JOIN matched m ON m.subject = l.subject AND m.side = l.side
    WHERE l.is_off_day AND l.is_approved AND m.is_approved AND l.import_id = i.id)
"""
MARK_OTHER_HALVES = """
UPDATE reconciliation_imports i SET is_stale = true
WHERE i.is_current AND i.connector = $1 AND i.business_day <> $2 AND EXISTS (
    SELECT FROM reconciliation_breaks b JOIN matched m ON m.subject = b.subject
    WHERE b.connector = $1 AND b.business_day = i.business_day AND b.kind = 'status'
      AND b.status = 'open' AND m.is_approved)
"""
MARK_EXPLAINED = """
UPDATE reconciliation_imports i SET is_stale = true
WHERE i.is_current AND i.connector = $1 AND i.business_day <> $2 AND EXISTS (
    SELECT FROM reconciliation_breaks b JOIN reconciliation_lines l ON l.subject = b.subject
    WHERE b.connector = $1 AND b.business_day = i.business_day AND b.kind = 'missing_there'
      AND b.status = 'resolved' AND l.import_id = $3)
"""

_OURS_JSON = """jsonb_build_object('reference', {o}.subject, 'status', {o}.{status},
        'amount', {o}.{amount}, 'commission', {o}.{commission}, 'currency', {o}.{currency},
        'day', {o}.{day})"""
_OF_LINE = _OURS_JSON.format(
    o="m",
    status="o_status",
    amount="o_amount",
    commission="o_commission",
    currency="o_currency",
    day="o_day",
)
_OF_OURS = _OURS_JSON.format(
    o="o",
    status="status",
    amount="amount",
    commission="commission",
    currency="currency",
    day="day",
)
_THEIRS = """jsonb_build_object('movement', m.movement, 'reference', nullif(m.reference, ''),
        'processor_reference', nullif(m.processor_reference, ''),
        'status', CASE WHEN m.is_approved THEN 'approved' ELSE 'declined' END,
        'amount', m.amount, 'commission', m.commission, 'fee', m.fee, 'currency', m.currency,
        'day', m.day)"""
# $1 connector, $2 day, $3 the oldest day a line may be of.
LINE_BREAKS = f"""
INSERT INTO found_breaks
SELECT kind,
    m.side || ':' || m.key || CASE WHEN m.copy > 0 THEN '#' || m.copy ELSE '' END,
    m.side, m.subject, m.payment_id, m.number,
    CASE WHEN m.subject IS NOT NULL THEN {_OF_LINE} END, {_THEIRS}
FROM matched m, LATERAL (
    SELECT CASE
        WHEN m.copy <> 0 THEN ARRAY['duplicate']
        WHEN m.is_approved AND (m.day > $2 OR m.day < $3) THEN ARRAY['day']
        WHEN m.subject IS NULL THEN CASE WHEN m.is_approved THEN ARRAY['missing_here'] END
        WHEN NOT m.is_approved THEN
            CASE WHEN m.o_status IN ('approved', 'unknown') AND NOT EXISTS (
                SELECT FROM matched t
                WHERE t.side = m.side AND t.subject = m.subject
                  AND (t.is_approved OR t.number < m.number))
            THEN ARRAY['status'] END
        WHEN m.is_crossed OR m.o_status IN ('declined', 'held', 'unknown') THEN ARRAY['status']
        -- What came and went: either both were reported, on whatever days, or neither.
        WHEN m.o_status = 'reversed' AND NOT EXISTS (
            SELECT FROM matched t
            WHERE t.is_approved AND t.side <> m.side AND t.subject = m.subject)
          AND NOT EXISTS (
            SELECT FROM reconciliation_lines l
            WHERE l.is_approved AND l.side <> m.side AND l.subject = m.subject
              AND l.connector = $1 AND l.business_day <> $2)
        THEN ARRAY['status']
        WHEN m.currency <> m.o_currency THEN ARRAY['currency']
        ELSE array_remove(ARRAY[
            CASE WHEN m.amount <> m.o_amount THEN 'amount' END,
            CASE WHEN m.commission <> m.o_commission THEN 'commission' END], NULL)
    END AS kinds
) AS looked, unnest(looked.kinds) AS kind
"""
# $1 connector, $2 day, $3 what was not known by then is not expected yet.
MISSING_THERE = f"""
INSERT INTO found_breaks
SELECT 'missing_there', o.side || ':' || o.subject, o.side, o.subject, o.payment_id, NULL::integer,
    {_OF_OURS}, NULL::jsonb
FROM ours o
WHERE o.day = $2 AND o.status = 'approved' AND o.known_at <= $3
  AND NOT EXISTS (
    SELECT FROM matched m
    WHERE m.subject = o.subject AND m.side = o.side AND NOT m.is_crossed)
  AND NOT EXISTS (
    SELECT FROM reconciliation_lines l
    WHERE l.subject = o.subject AND l.side = o.side AND l.is_approved AND l.connector = $1
      AND l.business_day <> $2)
"""
INDEX = "CREATE INDEX ON matched (subject, side); ANALYZE matched"
ANALYZE_FOUND = "ANALYZE found_breaks"

# $1 the import, $2 connector, $3 day.
KEEP_LINES = """
INSERT INTO reconciliation_lines (import_id, number, connector, business_day, is_off_day, movement,
    side, is_approved, reference, processor_reference, amount_minor, commission_minor, fee_minor,
    net_minor, currency, day, subject)
SELECT $1, number, $2, $3, day <> $3, movement, side, is_approved, reference, processor_reference,
    amount, commission, fee, net, currency, day, subject
FROM matched
"""
KEEP_SUBJECTS = """
UPDATE reconciliation_lines l SET subject = m.subject FROM matched m
WHERE l.import_id = $1 AND l.number = m.number AND l.subject IS DISTINCT FROM m.subject
"""

_IS_CLEAN = """m.subject IS NOT NULL AND m.copy = 0
    AND NOT EXISTS (SELECT FROM found_breaks b WHERE b.line_number = m.number)"""
MATCHED_COUNT = f"SELECT count(*) FROM matched m WHERE {_IS_CLEAN}"
# What is to be settled: approved lines without a break, but for those that operators have posted.
SETTLED = f"""
SELECT m.currency, sum(m.net)::bigint AS net, sum(m.fee)::bigint AS fee
FROM matched m
WHERE m.is_approved AND {_IS_CLEAN} AND NOT EXISTS (
    SELECT FROM reconciliation_breaks p
    WHERE p.status = 'posted' AND p.kind <> 'duplicate' AND p.subject = m.subject
      AND p.side = m.side)
GROUP BY 1
"""
SUMS = """
SELECT currency, sum(greatest(net, 0))::bigint AS debits, sum(greatest(-net, 0))::bigint AS credits,
    sum(net)::bigint AS net, sum(fee)::bigint AS fees
FROM matched WHERE is_approved GROUP BY 1 ORDER BY 1
"""
