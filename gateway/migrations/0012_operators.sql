-- Operators log in by password and one-time code, and have roles; what a role may do is in
-- config/roles.toml.
ALTER TABLE operators
    ADD COLUMN login         text UNIQUE,
    ADD COLUMN password_hash text,
    ADD COLUMN totp_sealed   bytea,
    -- Of the last code that was taken: none is taken twice.
    ADD COLUMN totp_step     bigint NOT NULL DEFAULT 0,
    ADD COLUMN roles         text[] NOT NULL DEFAULT '{}',
    ADD COLUMN tries         integer NOT NULL DEFAULT 0,
    ADD COLUMN locked_until  timestamptz,
    ADD COLUMN disabled_at   timestamptz;
UPDATE operators SET roles = '{administrator}';
ALTER TABLE operators DROP COLUMN scopes;

CREATE TABLE operator_sessions (
    id               text COLLATE "C" PRIMARY KEY,
    operator_id      text NOT NULL REFERENCES operators (id),
    created_at       timestamptz NOT NULL,
    -- When password or code were last given.
    authenticated_at timestamptz NOT NULL,
    renewed_at       timestamptz NOT NULL,
    ended_at         timestamptz
);
CREATE INDEX operator_sessions_alive ON operator_sessions (operator_id) WHERE ended_at IS NULL;

-- Roles asked for by one operator and given by another.
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
