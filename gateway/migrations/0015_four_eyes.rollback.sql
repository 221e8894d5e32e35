DROP INDEX reconciliation_breaks_name, reconciliation_breaks_open;
ALTER TABLE reconciliation_breaks
    DROP CONSTRAINT reconciliation_breaks_status_check,
    ADD COLUMN action text CHECK (action IN ('accept', 'post')), ADD COLUMN note text,
    ADD COLUMN postings jsonb, ADD COLUMN proposed_by text, ADD COLUMN proposed_at timestamptz,
    ADD COLUMN decided_by text, ADD COLUMN decided_at timestamptz;
UPDATE reconciliation_breaks b SET
    status = CASE WHEN b.status = 'open' THEN 'proposed' ELSE b.status END,
    action = p.diff ->> 'action', note = p.note, postings = (p.diff -> 'postings')::jsonb,
    proposed_by = p.proposed_by, proposed_at = p.proposed_at, decided_by = p.decided_by,
    decided_at = p.decided_at
FROM proposals p
WHERE p.kind = 'break' AND p.subject = b.id AND p.status IN ('proposed', 'approved');
ALTER TABLE reconciliation_breaks
    ADD CONSTRAINT reconciliation_breaks_status_check
        CHECK (status IN ('open', 'proposed', 'resolved', 'accepted', 'posted')),
    ADD CHECK (decided_by IS NULL OR decided_by <> proposed_by);
CREATE UNIQUE INDEX reconciliation_breaks_name
    ON reconciliation_breaks (connector, business_day, kind, name)
    WHERE status IN ('open', 'proposed');
CREATE INDEX reconciliation_breaks_open ON reconciliation_breaks (id)
    WHERE status IN ('open', 'proposed');

ALTER TABLE reviews
    DROP CONSTRAINT reviews_status_check,
    ADD COLUMN outcome text, ADD COLUMN note text, ADD COLUMN proposed_by text,
    ADD COLUMN proposed_at timestamptz, ADD COLUMN decided_by text, ADD COLUMN decided_at timestamptz;
DROP INDEX reviews_open;
UPDATE reviews r SET status = CASE WHEN r.status = 'open' THEN 'proposed' ELSE r.status END,
    outcome = p.diff ->> 'outcome', note = p.note, proposed_by = p.proposed_by,
    proposed_at = p.proposed_at, decided_by = p.decided_by, decided_at = p.decided_at
FROM proposals p
WHERE p.kind = 'review' AND p.subject = r.id AND p.status IN ('proposed', 'approved');
UPDATE reviews SET status = 'settled' WHERE status = 'approved';
ALTER TABLE reviews
    ADD CONSTRAINT reviews_status_check CHECK (status IN ('open', 'proposed', 'settled', 'closed')),
    ADD CHECK (decided_by IS NULL OR decided_by <> proposed_by);
CREATE INDEX reviews_open ON reviews (id) WHERE status IN ('open', 'proposed');

DROP FUNCTION proposal_status(proposals, timestamptz);

CREATE TABLE rule_proposals_kept AS SELECT * FROM rule_proposals;
DROP VIEW rule_proposals;
CREATE TABLE rule_proposals (
    id                  text COLLATE "C" PRIMARY KEY,
    kind                text NOT NULL CHECK (kind IN ('plan', 'policy')),
    action              text NOT NULL CHECK (action IN ('put', 'delete')),
    target_id           text COLLATE "C" NOT NULL,
    body                json,
    effective_from      timestamptz,
    based_on_version    integer,
    based_on_generation bigint NOT NULL,
    warnings            text[] NOT NULL,
    status              text NOT NULL
        CHECK (status IN ('proposed', 'approved', 'rejected', 'withdrawn')),
    proposed_by         text NOT NULL,
    proposed_at         timestamptz NOT NULL,
    decided_by          text,
    decided_at          timestamptz,
    reason              text,
    generation          bigint REFERENCES rule_generations (seq),
    version             integer,
    CHECK (status <> 'approved' OR decided_by <> proposed_by)
);
INSERT INTO rule_proposals (id, kind, action, target_id, body, effective_from, based_on_version,
    based_on_generation, warnings, status, proposed_by, proposed_at, decided_by, decided_at, reason,
    generation, version)
SELECT id, kind, action, target_id, body, effective_from, based_on_version, based_on_generation,
    warnings, status, proposed_by, proposed_at, decided_by, decided_at, reason, generation, version
FROM rule_proposals_kept;
DROP TABLE rule_proposals_kept;
ALTER TABLE simulations DROP CONSTRAINT simulations_proposal_id_fkey;
ALTER TABLE simulations ADD CONSTRAINT simulations_proposal_id_fkey
    FOREIGN KEY (proposal_id) REFERENCES rule_proposals (id);

CREATE TABLE operator_proposals (
    id          text COLLATE "C" PRIMARY KEY,
    operator_id text NOT NULL REFERENCES operators (id),
    roles       text[] NOT NULL,
    is_disabled boolean NOT NULL,
    note        text NOT NULL,
    status      text NOT NULL CHECK (status IN ('proposed', 'active', 'rejected')),
    proposed_by text NOT NULL,
    proposed_at timestamptz NOT NULL,
    decided_by  text,
    decided_at  timestamptz
);
INSERT INTO operator_proposals
SELECT id, subject, ARRAY(SELECT json_array_elements_text(diff -> 'roles')),
    (diff ->> 'is_disabled')::boolean, note,
    CASE status WHEN 'approved' THEN 'active' WHEN 'proposed' THEN 'proposed' ELSE 'rejected' END,
    proposed_by, proposed_at, decided_by, decided_at
FROM proposals WHERE kind = 'roles';
DROP TABLE proposals;

DROP INDEX step_ups_owner, step_ups_session, step_ups_open;
CREATE INDEX step_ups_open ON step_ups (expires_at) WHERE confirmation_id IS NULL;
ALTER TABLE step_ups
    DROP COLUMN session_id, DROP COLUMN nonce, DROP COLUMN binding_hash, DROP COLUMN burnt_at,
    DROP COLUMN ended_at, DROP COLUMN decision_id, DROP COLUMN record;

DROP INDEX refresh_tokens_expiry, sessions_of_client, sessions_of_user;
ALTER TABLE sessions
    DROP COLUMN end_reason, DROP COLUMN ended_by, DROP COLUMN last_used_at;
