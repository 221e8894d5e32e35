"""The two statements every payment is written by. Each is one round trip and one commit.

Of each there is one for all that may be in a batch, and one for what nearly every batch is: the
server makes ready all that a statement says, each time, whether there are rows for it or not.

A statement either writes its whole batch or nothing. What intents find out of date they name in
their answer; what facts do, and what changes under either while it runs, ends it by `oqim_abort`.

A batch travels as JSON, an array of rows a table: one text costs the driver and the server less
than an array a column. Bytes travel in base64.
"""

from gateway.kernel.audit.chain import LINK

# Shared by both: advance limit states whose versions are still the expected ones.
_STATES = """
states AS (
    INSERT INTO limit_states (subject, version, state)
    SELECT s.subject, s.version + 1, s.state
    FROM unnest({first}::text[], {second}::bigint[], {third}::bytea[])
         AS s (subject, version, state){where}
    ORDER BY s.subject
    ON CONFLICT (subject) DO UPDATE SET version = excluded.version, state = excluded.state
        WHERE limit_states.version = excluded.version - 1
    RETURNING 1
)"""

_COLUMNS = """
        id, created_at, owner, client_id, operation, scheme, amount_minor, currency,
        source_card_id, destination_card_id, destination_pan, merchant_id, is_manual_capture,
        commission_payer, commission_plan, commission_version, legs, record, details,
        version, status, total_debit, total_credit, commission_total, commission_vat,
        commission_lines, commission_split"""
_VALUES = """
        id, to_timestamp(created_at_ms / 1000.0), owner, client_id, operation, scheme,
        amount_minor, currency, source_card_id, destination_card_id,
        decode(destination_pan, 'base64'), merchant_id, is_manual_capture, commission_payer,
        commission_plan, commission_version, legs, decode(record, 'base64'), details,
        version, status, total_debit, total_credit, commission_total, commission_vat,
        commission_lines::json, commission_split"""
_ROW = """
        id text, created_at_ms bigint, owner text, client_id text, operation text, scheme text,
        amount_minor bigint, currency text, source_card_id text, destination_card_id text,
        destination_pan text, merchant_id text, is_manual_capture boolean,
        commission_payer text, commission_plan text, commission_version integer, legs json,
        record text, details json, version integer, status text, total_debit bigint,
        total_credit bigint, commission_total bigint, commission_vat bigint,
        commission_lines text, commission_split json"""

# A payment that waits for a stronger authentication, with the answer that is told of it.
# $1 one payment, $2 the status, $3 the body.
INSERT_WAITING = (
    "INSERT INTO payments ("
    + _COLUMNS
    + ", response_status, response_body) SELECT "
    + _VALUES
    + ", $2, $3 FROM json_to_recordset($1::json) AS t ("
    + _ROW
    + ")"
)

# A payment that waited for a stronger authentication goes on.
_REOPENED = """ON CONFLICT (id) DO UPDATE SET
        version = excluded.version, status = excluded.status, details = excluded.details,
        destination_pan = excluded.destination_pan, record = excluded.record,
        commission_payer = excluded.commission_payer,
        commission_total = excluded.commission_total,
        commission_vat = excluded.commission_vat,
        commission_plan = excluded.commission_plan,
        commission_version = excluded.commission_version,
        commission_lines = excluded.commission_lines,
        commission_split = excluded.commission_split
        WHERE payments.status = 'requires_action' AND payments.version = excluded.version - 1"""

# Confirmed, and meanwhile confirmed by another or canceled.
_OVERTAKEN = """UNION ALL
    SELECT key.payment_id FROM key JOIN payments p ON p.id = key.payment_id
    WHERE key.object_id <> key.payment_id AND p.status <> 'requires_action'
"""
_CONFIRMED = """), confirmed AS (
    UPDATE step_ups s SET confirmation_id = key.object_id
    FROM key, fit
    WHERE fit.yes AND key.object_id <> key.payment_id AND s.payment_id = key.payment_id
"""

# Intents: payments, their first attempts, their idempotency keys, and what they take from limits.
# $1 payments, $2 keys, $3 attempts, $4 to $6 states, $7 the worker, $8 to $11 the audit record.
# Answers (may it be written, scopes seen before, payments whose card changed).
OPEN_OR_CONFIRM = (
    """
WITH key AS MATERIALIZED (
    SELECT decode(scope, 'base64') AS scope, decode(fingerprint, 'base64') AS fingerprint,
        payment_id, object_id, source_card_id, source_version, destination_card_id
    FROM json_to_recordset($2::json) AS t (
        scope text, fingerprint text, payment_id text, object_id text, source_card_id text,
        source_version integer, destination_card_id text)
), replayed AS (
    SELECT k.scope FROM idempotency_keys k JOIN key USING (scope)
), gone AS (
    SELECT key.payment_id FROM key LEFT JOIN cards c ON c.id = key.source_card_id
    WHERE key.source_card_id IS NOT NULL
      AND (c.version IS DISTINCT FROM key.source_version OR c.status <> 'active')
    UNION ALL
    SELECT key.payment_id FROM key LEFT JOIN cards c ON c.id = key.destination_card_id
    WHERE key.destination_card_id IS NOT NULL AND c.status IS DISTINCT FROM 'active'
"""
    + _OVERTAKEN
    + """), fit AS (
    SELECT NOT EXISTS (SELECT FROM replayed) AND NOT EXISTS (SELECT FROM gone) AS yes
), """
    + _STATES.format(first="$4", second="$5", third="$6", where=", fit WHERE fit.yes")
    + """, keys AS (
    INSERT INTO idempotency_keys (scope, fingerprint, object_id)
    SELECT scope, fingerprint, object_id FROM key, fit WHERE fit.yes ORDER BY scope
    ON CONFLICT (scope) DO NOTHING
    RETURNING 1
), opened AS (
    INSERT INTO payments ("""
    + _COLUMNS
    + """)
    SELECT """
    + _VALUES
    + """
    FROM json_to_recordset($1::json) AS t ("""
    + _ROW
    + """), fit
    WHERE fit.yes
    """
    + _REOPENED
    + """
    RETURNING 1
"""
    + _CONFIRMED
    + """), sent AS (
    INSERT INTO attempts (
        id, payment_id, leg, connector, kind, sequence, created_at_ms, worker, state)
    SELECT id, payment_id, leg, connector, kind, sequence, created_at_ms, $7, 'sent'
    FROM json_to_recordset($3::json) AS t (
        id text, payment_id text, leg smallint, connector text, kind text, sequence bigint,
        created_at_ms bigint), fit
    WHERE fit.yes
), audited AS ("""
    + LINK.format(shard="$8", seq="$9", record="$10", hash="$11")
    + """
    FROM fit WHERE fit.yes
)
SELECT fit.yes AS is_fit,
    (SELECT array_agg(scope) FROM replayed) AS replayed,
    (SELECT array_agg(payment_id) FROM gone) AS gone,
    CASE WHEN fit.yes AND (SELECT count(*) FROM states) <> cardinality($4::text[])
        THEN oqim_abort('stale') END AS stale,
    CASE WHEN fit.yes AND (SELECT count(*) FROM keys) <> (SELECT count(*) FROM key)
        THEN oqim_abort('replayed') END AS raced,
    CASE WHEN fit.yes AND (SELECT count(*) FROM opened) <> (SELECT count(*) FROM key)
        THEN oqim_abort('confirmed') END AS overtaken
FROM fit
"""
)
# The same where all are new: whether one is there, or waits, need not be looked for.
OPEN_PAYMENTS = (
    OPEN_OR_CONFIRM.replace(_REOPENED, "").replace(_OVERTAKEN, "").replace(_CONFIRMED, "")
)

# Facts: what became of payments, with postings and events.
# $1 payments, $2 attempts that changed, $3 entries, $4 events.
# Ends with `moved` when a payment is not at the version it was read at: whoever wrote finds out
# which. That is rare, and looking for it before would cost every payment a lookup.
_FACTS = """
WITH fact AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS t (
        id text, version integer, status text, total_debit bigint, total_credit bigint,
        commission_total bigint, commission_vat bigint, commission_lines text,
        commission_split json, commission_returned bigint, commission_returning bigint,
        amount_capturable bigint, amount_received bigint, amount_refunded bigint,
        amount_refunding bigint, decline_code text, response_status smallint,
        response_body text)
), updated AS (
    UPDATE payments p SET
        version = f.version + 1, status = f.status, total_debit = f.total_debit,
        total_credit = f.total_credit, commission_total = f.commission_total,
        commission_vat = f.commission_vat,
        commission_lines = COALESCE(f.commission_lines::json, p.commission_lines),
        commission_split = COALESCE(f.commission_split, p.commission_split),
        commission_returned = f.commission_returned,
        commission_returning = f.commission_returning,
        amount_capturable = f.amount_capturable, amount_received = f.amount_received,
        amount_refunded = f.amount_refunded, amount_refunding = f.amount_refunding,
        decline_code = f.decline_code,
        response_status = COALESCE(p.response_status, f.response_status),
        response_body = COALESCE(p.response_body, f.response_body),
        updated_at = now()
    FROM fact f
    WHERE p.id = f.id AND p.version = f.version
    RETURNING 1
), concluded AS (
    UPDATE attempts a SET
        state = t.state, rrn = t.rrn, approval_code = t.approval_code,
        processor_code = t.processor_code, processor_references = t.processor_references,
        outcome_source = t.outcome_source, tries = t.tries,
        next_try_at = now() + t.wait_s * interval '1 second'
    FROM json_to_recordset($2::json) AS t (
        id text, state text, rrn text, approval_code text, processor_code text,
        processor_references json, outcome_source text, tries smallint, wait_s float8)
    WHERE a.id = t.id
), posted AS (
    INSERT INTO entries (entry_id, currency, accounts, amounts_minor)
    SELECT * FROM json_to_recordset($3::json) AS t (
        entry_id text, currency text, accounts text[], amounts_minor bigint[])
), announced AS (
    INSERT INTO outbox (payment_id, sequence, type, data)
    SELECT * FROM json_to_recordset($4::json) AS t (
        payment_id text, sequence integer, type text, data json)
)"""
# $5 attempts about to be sent, $6 actions, $7 keys to forget, $8 to $10 states, $11 the worker.
# Ends with `stale` as well, when a limit state is not at the version it was read at.
_MORE_FACTS = """, sent AS (
    INSERT INTO attempts (
        id, payment_id, leg, connector, kind, sequence, created_at_ms, worker, state)
    SELECT *, $11, 'sent' FROM json_to_recordset($5::json) AS t (
        id text, payment_id text, leg smallint, connector text, kind text, sequence bigint,
        created_at_ms bigint)
), acted AS (
    UPDATE actions a SET
        state = t.state, decline_code = t.decline_code, tries = t.tries,
        next_try_at = now() + t.wait_s * interval '1 second',
        response_status = COALESCE(a.response_status, t.response_status),
        response_body = COALESCE(a.response_body, t.response_body)
    FROM json_to_recordset($6::json) AS t (
        id text, state text, decline_code text, tries smallint, wait_s float8,
        response_status smallint, response_body text)
    WHERE a.id = t.id
), freed AS (
    DELETE FROM idempotency_keys k USING unnest($7::bytea[]) AS given (scope)
    WHERE k.scope = given.scope
), """ + _STATES.format(first="$8", second="$9", third="$10", where="")
_ALL_UPDATED = """
SELECT CASE WHEN (SELECT count(*) FROM updated) <> (SELECT count(*) FROM fact)
    THEN oqim_abort('moved') END"""
_ALL_STATES = """,
CASE WHEN (SELECT count(*) FROM states) <> cardinality($8::text[])
    THEN oqim_abort('stale') END"""
# Most batches are outcomes of what was sent, and nothing else.
RECORD_OUTCOMES = _FACTS + _ALL_UPDATED
RECORD_FACTS = _FACTS + _MORE_FACTS + _ALL_UPDATED + _ALL_STATES

# Which of these payments were written: after a connection was lost in its commit.
FIND_OPENED = "SELECT id FROM payments WHERE id = ANY($1::text[])"
FIND_VERSIONS = "SELECT id, version FROM payments WHERE id = ANY($1::text[])"

# The stored answers under keys.
FIND_ANSWERS = """
SELECT k.scope, k.fingerprint, k.object_id,
    COALESCE(p.response_status, a.response_status, s.response_status,
        CASE WHEN q.answer IS NOT NULL THEN 202 END) AS response_status,
    COALESCE(p.response_body, a.response_body, s.response_body, q.answer) AS response_body
FROM idempotency_keys k
LEFT JOIN payments p ON p.id = k.object_id
LEFT JOIN actions a ON a.id = k.object_id
LEFT JOIN step_ups s ON s.confirmation_id = k.object_id
LEFT JOIN proposals q ON q.id = k.object_id
WHERE k.scope = ANY($1::bytea[])
"""
