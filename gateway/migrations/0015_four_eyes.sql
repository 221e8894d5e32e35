-- Sessions tell how they ended, and take with them what waits for their confirmation; whatever two
-- people must agree on is a row of one table.

ALTER TABLE sessions
    ADD COLUMN end_reason   text,
    ADD COLUMN ended_by     text,
    -- Kept as it ends: its refresh tokens are deleted once they have expired.
    ADD COLUMN last_used_at timestamptz;
CREATE INDEX sessions_of_user ON sessions (user_id, id);
CREATE INDEX sessions_of_client ON sessions (client_id, id);
-- Sessions that have ended by themselves are found by the token that nobody used.
CREATE INDEX refresh_tokens_expiry ON refresh_tokens (expires_at);

ALTER TABLE step_ups
    -- The session that asked; null for what was asked before.
    ADD COLUMN session_id   text COLLATE "C",
    -- What else the code is bound to: nobody can work it out from the payment.
    ADD COLUMN nonce        text NOT NULL DEFAULT '',
    -- A keyed hash of the code with everything that it confirms.
    ADD COLUMN binding_hash bytea,
    -- Given for something else than it confirms: it is good for nothing any more.
    ADD COLUMN burnt_at     timestamptz,
    -- Canceled: nobody needs to look at it any more.
    ADD COLUMN ended_at     timestamptz,
    -- The decision that it must wait, as the decision log has it.
    ADD COLUMN decision_id  text COLLATE "C" UNIQUE,
    ADD COLUMN record       bytea;
UPDATE step_ups s SET ended_at = now() FROM payments p
WHERE p.id = s.payment_id AND p.status <> 'requires_action' AND s.confirmation_id IS NULL;
DROP INDEX step_ups_open;
CREATE INDEX step_ups_open ON step_ups (expires_at)
    WHERE confirmation_id IS NULL AND ended_at IS NULL;
CREATE INDEX step_ups_session ON step_ups (session_id) WHERE confirmation_id IS NULL;
CREATE INDEX step_ups_owner ON step_ups (owner) WHERE confirmation_id IS NULL;

-- Whatever two people must agree on, of every kind.
CREATE TABLE proposals (
    id           text COLLATE "C" PRIMARY KEY,
    kind         text NOT NULL,
    -- What it would change, and what that was when it was proposed.
    subject      text COLLATE "C" NOT NULL,
    base_version text NOT NULL,
    -- What it would become.
    diff         json NOT NULL,
    note         text NOT NULL,
    status       text NOT NULL
        CHECK (status IN ('proposed', 'approved', 'rejected', 'withdrawn', 'replaced')),
    proposed_by  text NOT NULL,
    proposed_at  timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    decided_by   text,
    decided_at   timestamptz,
    -- Why it ended without effect.
    reason       text,
    -- What its approval made.
    outcome      json,
    -- What was answered under an idempotency key, byte for byte.
    answer       text,
    CHECK (status <> 'approved' OR decided_by <> proposed_by),
    CHECK ((status = 'proposed') = (decided_at IS NULL))
);
CREATE INDEX proposals_subject ON proposals (kind, subject, id);
CREATE INDEX proposals_open ON proposals (id) WHERE status = 'proposed';

INSERT INTO proposals (id, kind, subject, base_version, diff, note, status, proposed_by,
    proposed_at, expires_at, decided_by, decided_at, outcome)
SELECT p.id, 'roles', p.operator_id,
    array_to_string(o.roles, ',') || '|' || (o.disabled_at IS NOT NULL)::text,
    json_build_object('roles', p.roles, 'is_disabled', p.is_disabled), p.note,
    CASE p.status WHEN 'active' THEN 'approved' ELSE p.status END,
    p.proposed_by, p.proposed_at, now() + interval '7 days', p.decided_by, p.decided_at,
    CASE WHEN p.status = 'active' THEN '{}'::json END
FROM operator_proposals p JOIN operators o ON o.id = p.operator_id;
DROP TABLE operator_proposals;

INSERT INTO proposals (id, kind, subject, base_version, diff, note, status, proposed_by,
    proposed_at, expires_at, decided_by, decided_at, reason, outcome)
SELECT id, kind, target_id, based_on_generation::text,
    json_build_object('action', action, 'body', body,
        'effective_from_ms', floor(extract(epoch FROM effective_from) * 1000)::bigint,
        'based_on_version', based_on_version, 'warnings', warnings),
    '', status, proposed_by, proposed_at, now() + interval '7 days', decided_by, decided_at, reason,
    CASE WHEN status = 'approved' THEN json_build_object('generation', generation,
        'version', version,
        'effective_from_ms', floor(extract(epoch FROM effective_from) * 1000)::bigint) END
FROM rule_proposals;
ALTER TABLE simulations DROP CONSTRAINT simulations_proposal_id_fkey;
DROP TABLE rule_proposals;
ALTER TABLE simulations ADD CONSTRAINT simulations_proposal_id_fkey
    FOREIGN KEY (proposal_id) REFERENCES proposals (id);
-- The proposals of rules, as rules read them.
CREATE VIEW rule_proposals AS
SELECT id, kind, diff ->> 'action' AS action, subject AS target_id,
    CASE WHEN json_typeof(diff -> 'body') <> 'null' THEN diff -> 'body' END AS body,
    to_timestamp((coalesce(outcome ->> 'effective_from_ms', diff ->> 'effective_from_ms'))::bigint
        / 1000.0) AS effective_from,
    (diff ->> 'based_on_version')::integer AS based_on_version,
    base_version::bigint AS based_on_generation,
    ARRAY(SELECT json_array_elements_text(diff -> 'warnings')) AS warnings,
    status, proposed_by, proposed_at, decided_by, decided_at, reason,
    (outcome ->> 'generation')::bigint AS generation, (outcome ->> 'version')::integer AS version
FROM proposals WHERE kind IN ('plan', 'policy');

-- What became of a proposal, as it is told at a moment: an open one expires, and an approved rule
-- begins and ends.
CREATE FUNCTION proposal_status(p proposals, at timestamptz) RETURNS text LANGUAGE sql STABLE
AS $$
    SELECT CASE
        WHEN p.status = 'proposed' AND p.expires_at <= at THEN 'expired'
        WHEN p.status <> 'approved' OR p.kind NOT IN ('plan', 'policy') THEN p.status
        WHEN p.diff ->> 'action' = 'put' AND NOT EXISTS (
            SELECT FROM rule_ranges r
            WHERE r.kind = p.kind AND r.id = p.subject
              AND r.version = (p.outcome ->> 'version')::integer AND r.generation_to IS NULL
              AND (r.effective_to IS NULL OR r.effective_to > at)) THEN 'superseded'
        WHEN to_timestamp((p.outcome ->> 'effective_from_ms')::bigint / 1000.0) > at
            THEN 'scheduled'
        ELSE 'active'
    END
$$;

-- What operators found out of payments in doubt, and how they would close breaks.
INSERT INTO proposals (id, kind, subject, base_version, diff, note, status, proposed_by,
    proposed_at, expires_at, decided_by, decided_at, outcome)
SELECT 'prp_' || substr(r.id, 5), 'review', r.id, coalesce(
        CASE r.kind
            WHEN 'attempt' THEN (SELECT replace(state, 'sent', 'unknown') FROM attempts a
                                 WHERE a.id = r.subject_id)
            WHEN 'action' THEN (SELECT replace(state, 'pending', 'unknown') FROM actions a
                                WHERE a.id = r.subject_id)
        END, ''),
    json_build_object('outcome', r.outcome), r.note,
    CASE r.status WHEN 'proposed' THEN 'proposed' WHEN 'settled' THEN 'approved' ELSE 'replaced' END,
    r.proposed_by, r.proposed_at, now() + interval '7 days', r.decided_by,
    CASE WHEN r.status <> 'proposed' THEN coalesce(r.decided_at, now()) END,
    CASE WHEN r.status = 'settled' THEN '{}'::json END
FROM reviews r WHERE r.proposed_by IS NOT NULL;
DROP INDEX reviews_open;
ALTER TABLE reviews
    DROP CONSTRAINT reviews_status_check,
    DROP COLUMN outcome, DROP COLUMN note, DROP COLUMN proposed_by, DROP COLUMN proposed_at,
    DROP COLUMN decided_by, DROP COLUMN decided_at;
UPDATE reviews SET status = 'open' WHERE status = 'proposed';
-- `approved`: two have agreed, and the payment is not told yet.
ALTER TABLE reviews ADD CONSTRAINT reviews_status_check
    CHECK (status IN ('open', 'approved', 'settled', 'closed'));
CREATE INDEX reviews_open ON reviews (id) WHERE status IN ('open', 'approved');

INSERT INTO proposals (id, kind, subject, base_version, diff, note, status, proposed_by,
    proposed_at, expires_at, decided_by, decided_at, outcome)
SELECT 'prp_' || lpad(substr(b.id, 5), 26, '0'), 'break', b.id,
    md5(coalesce(b.ours::text, '') || '|' || coalesce(b.theirs::text, '')),
    json_build_object('action', b.action, 'postings', coalesce(b.postings, '[]'::jsonb)), b.note,
    CASE WHEN b.status = 'proposed' THEN 'proposed'
        WHEN b.status IN ('accepted', 'posted') THEN 'approved' ELSE 'replaced' END,
    b.proposed_by, b.proposed_at, now() + interval '7 days', b.decided_by,
    CASE WHEN b.status <> 'proposed' THEN coalesce(b.decided_at, b.resolved_at, now()) END,
    CASE WHEN b.status IN ('accepted', 'posted') THEN json_build_object('action', b.action,
        'entry', b.entry_id, 'payment', b.payment_id, 'connector', b.connector,
        'business_day', b.business_day) END
FROM reconciliation_breaks b WHERE b.proposed_by IS NOT NULL;
DROP INDEX reconciliation_breaks_name, reconciliation_breaks_open;
ALTER TABLE reconciliation_breaks
    DROP CONSTRAINT reconciliation_breaks_status_check,
    DROP COLUMN action, DROP COLUMN note, DROP COLUMN postings, DROP COLUMN proposed_by,
    DROP COLUMN proposed_at, DROP COLUMN decided_by, DROP COLUMN decided_at;
UPDATE reconciliation_breaks SET status = 'open' WHERE status = 'proposed';
ALTER TABLE reconciliation_breaks ADD CONSTRAINT reconciliation_breaks_status_check
    CHECK (status IN ('open', 'resolved', 'accepted', 'posted'));
CREATE UNIQUE INDEX reconciliation_breaks_name
    ON reconciliation_breaks (connector, business_day, kind, name) WHERE status = 'open';
CREATE INDEX reconciliation_breaks_open ON reconciliation_breaks (id) WHERE status = 'open';
