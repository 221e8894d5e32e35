"""The two statements every payment is written by. Each is one round trip and one commit.

A statement either writes its whole batch or nothing: what it finds out of date it names in its
answer, and what changes under it while it runs ends it through `oqim_abort`.
"""

# Shared by both: advance limit states whose versions are still the expected ones.
_STATES = """
states AS (
    INSERT INTO limit_states (subject, version, state)
    SELECT s.subject, s.version + 1, s.state
    FROM unnest({first}::text[], {second}::bigint[], {third}::bytea[])
         AS s (subject, version, state), fit
    WHERE fit.yes
    ORDER BY s.subject
    ON CONFLICT (subject) DO UPDATE SET version = excluded.version, state = excluded.state
        WHERE limit_states.version = excluded.version - 1
    RETURNING 1
)"""

# Intents: payments, their first attempts, their idempotency keys, and what they take from limits.
# Answers (may it be written, scopes seen before, payments whose card changed).
OPEN_PAYMENTS = (
    """
WITH intent AS (
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[],
        $8::bigint[], $9::bigint[], $10::text[], $11::integer[], $12::text[], $13::bytea[],
        $14::text[], $15::boolean[], $16::bigint[], $17::bigint[], $18::text[], $19::text[],
        $20::integer[], $21::text[], $22::text[], $23::bytea[], $24::text[], $25::bytea[],
        $26::bytea[], $27::text[], $28::text[], $29::text[], $30::bigint[], $31::bigint[]
    ) AS t (
        id, owner, client_id, operation, scheme, amount_minor, currency,
        total_debit, total_credit, source_card_id, source_version, destination_card_id,
        destination_pan, merchant_id, is_manual_capture, commission_total, commission_vat,
        commission_payer, commission_plan, commission_version, commission_lines, legs,
        reservation, details, scope, fingerprint,
        attempt_id, connector, kind, sequence, created_at_ms
    )
), replayed AS (
    SELECT k.scope FROM idempotency_keys k JOIN intent USING (scope)
), gone AS (
    SELECT i.id FROM intent i LEFT JOIN cards c ON c.id = i.source_card_id
    WHERE i.source_card_id IS NOT NULL
      AND (c.version IS DISTINCT FROM i.source_version OR c.status <> 'active')
), fit AS (
    SELECT NOT EXISTS (SELECT FROM replayed) AND NOT EXISTS (SELECT FROM gone) AS yes
), """
    + _STATES.format(first="$32", second="$33", third="$34")
    + """, keys AS (
    INSERT INTO idempotency_keys (scope, fingerprint, object_id)
    SELECT scope, fingerprint, id FROM intent, fit WHERE fit.yes ORDER BY scope
    ON CONFLICT (scope) DO NOTHING
    RETURNING 1
), opened AS (
    INSERT INTO payments (
        id, version, owner, client_id, operation, status, scheme, amount_minor, currency,
        total_debit, total_credit, source_card_id, destination_card_id, destination_pan,
        merchant_id, is_manual_capture, commission_total, commission_vat, commission_payer,
        commission_plan, commission_version, commission_lines, legs, reservation, details,
        created_at)
    SELECT id, 1, owner, client_id, operation, 'processing', scheme, amount_minor, currency,
        total_debit, total_credit, source_card_id, destination_card_id, destination_pan,
        merchant_id, is_manual_capture, commission_total, commission_vat, commission_payer,
        commission_plan, commission_version, commission_lines::jsonb, legs::jsonb, reservation,
        details::jsonb, to_timestamp(created_at_ms / 1000.0)
    FROM intent, fit WHERE fit.yes
), sent AS (
    INSERT INTO attempts (
        id, payment_id, leg, connector, kind, state, sequence, created_at_ms, worker)
    SELECT attempt_id, id, 1, connector, kind, 'sent', sequence, created_at_ms, $35
    FROM intent, fit WHERE fit.yes
)
SELECT fit.yes AS is_fit,
    (SELECT array_agg(scope) FROM replayed) AS replayed,
    (SELECT array_agg(id) FROM gone) AS gone,
    CASE WHEN fit.yes AND (SELECT count(*) FROM states) <> cardinality($32::text[])
        THEN oqim_abort('stale') END AS stale,
    CASE WHEN fit.yes AND (SELECT count(*) FROM keys) <> cardinality($1::text[])
        THEN oqim_abort('replayed') END AS raced
FROM fit
"""
)

# Facts: what became of payments, with postings, events, and headroom given back.
# Answers (may it be written, payments whose version moved).
RECORD_FACTS = (
    """
WITH fact AS (
    SELECT * FROM unnest(
        $1::text[], $2::integer[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
        $7::bigint[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
        $13::text[], $14::smallint[], $15::bytea[]
    ) AS t (
        id, version, status, total_debit, total_credit, commission_total, commission_vat,
        commission_lines, amount_capturable, amount_received, amount_refunded,
        amount_refunding, decline_code, response_status, response_body
    )
), moved AS (
    SELECT f.id FROM fact f LEFT JOIN payments p ON p.id = f.id
    WHERE p.version IS DISTINCT FROM f.version
), fit AS (
    SELECT NOT EXISTS (SELECT FROM moved) AS yes
), """
    + _STATES.format(first="$16", second="$17", third="$18")
    + """, updated AS (
    UPDATE payments p SET
        version = f.version + 1, status = f.status, total_debit = f.total_debit,
        total_credit = f.total_credit, commission_total = f.commission_total,
        commission_vat = f.commission_vat,
        commission_lines = COALESCE(f.commission_lines::jsonb, p.commission_lines),
        amount_capturable = f.amount_capturable, amount_received = f.amount_received,
        amount_refunded = f.amount_refunded, amount_refunding = f.amount_refunding,
        decline_code = f.decline_code,
        response_status = COALESCE(p.response_status, f.response_status),
        response_body = COALESCE(p.response_body, f.response_body),
        updated_at = now()
    FROM fact f, fit
    WHERE fit.yes AND p.id = f.id AND p.version = f.version
    RETURNING p.id
), freed AS (
    DELETE FROM idempotency_keys k USING unnest($44::bytea[]) AS given (scope), fit
    WHERE fit.yes AND k.scope = given.scope
), concluded AS (
    UPDATE attempts a SET
        state = t.state, rrn = t.rrn, approval_code = t.approval_code,
        processor_code = t.processor_code, processor_references = t.refs::jsonb,
        outcome_source = t.source, tries = t.tries,
        next_try_at = now() + t.wait_s * interval '1 second'
    FROM unnest($19::text[], $20::text[], $21::text[], $22::text[], $23::text[], $24::text[],
                $25::text[], $26::smallint[], $27::float8[])
         AS t (id, state, rrn, approval_code, processor_code, refs, source, tries, wait_s), fit
    WHERE fit.yes AND a.id = t.id
), sent AS (
    INSERT INTO attempts (
        id, payment_id, leg, connector, kind, state, sequence, created_at_ms, worker)
    SELECT t.id, t.payment_id, t.leg, t.connector, t.kind, 'sent', t.sequence, t.created_at_ms, $45
    FROM unnest($28::text[], $29::text[], $30::smallint[], $31::text[], $32::text[],
                $33::bigint[], $34::bigint[])
         AS t (id, payment_id, leg, connector, kind, sequence, created_at_ms), fit
    WHERE fit.yes
), posted AS (
    INSERT INTO postings (entry_id, line, account, amount_minor, currency)
    SELECT t.entry_id, t.line, t.account, t.amount_minor, t.currency
    FROM unnest($35::text[], $36::smallint[], $37::text[], $38::bigint[], $39::text[])
         AS t (entry_id, line, account, amount_minor, currency), fit
    WHERE fit.yes
), announced AS (
    INSERT INTO outbox (payment_id, sequence, type, data)
    SELECT t.payment_id, t.sequence, t.type, t.data::jsonb
    FROM unnest($40::text[], $41::integer[], $42::text[], $43::text[])
         AS t (payment_id, sequence, type, data), fit
    WHERE fit.yes
), acted AS (
    UPDATE actions a SET
        state = t.state, decline_code = t.decline_code, tries = t.tries,
        next_try_at = now() + t.wait_s * interval '1 second',
        response_status = COALESCE(a.response_status, t.response_status),
        response_body = COALESCE(a.response_body, t.response_body)
    FROM unnest($46::text[], $47::text[], $48::text[], $49::smallint[], $50::float8[],
                $51::smallint[], $52::bytea[])
         AS t (id, state, decline_code, tries, wait_s, response_status, response_body), fit
    WHERE fit.yes AND a.id = t.id
)
SELECT fit.yes AS is_fit, (SELECT array_agg(id) FROM moved) AS moved,
    CASE WHEN fit.yes AND (SELECT count(*) FROM states) <> cardinality($16::text[])
        THEN oqim_abort('stale') END AS stale,
    CASE WHEN fit.yes AND (SELECT count(*) FROM updated) <> cardinality($1::text[])
        THEN oqim_abort('moved') END AS raced
FROM fit
"""
)

# Which of these payments were written: after a connection was lost in its commit.
FIND_OPENED = "SELECT id FROM payments WHERE id = ANY($1::text[])"
FIND_VERSIONS = "SELECT id, version FROM payments WHERE id = ANY($1::text[])"

# The stored answers under keys.
FIND_ANSWERS = """
SELECT k.scope, k.fingerprint, k.object_id,
    COALESCE(p.response_status, a.response_status) AS response_status,
    COALESCE(p.response_body, a.response_body) AS response_body
FROM idempotency_keys k
LEFT JOIN payments p ON p.id = k.object_id
LEFT JOIN actions a ON a.id = k.object_id
WHERE k.scope = ANY($1::bytea[])
"""
