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
    -- The decision that it must wait, as the decision log has it.
    ADD COLUMN decision_id  text COLLATE "C" UNIQUE,
    ADD COLUMN record       bytea;
CREATE INDEX step_ups_session ON step_ups (session_id) WHERE confirmation_id IS NULL;
CREATE INDEX step_ups_owner ON step_ups (owner) WHERE confirmation_id IS NULL;
