-- Clients that authenticate by keys of their own, and tokens that are bound to a key.
ALTER TABLE clients
    -- Public keys (RFC 7517), of one that authenticates by assertions instead of a secret.
    ADD COLUMN jwks       text,
    ADD COLUMN dpop       text NOT NULL DEFAULT 'off' CHECK (dpop IN ('off', 'optional', 'required')),
    ADD COLUMN created_at timestamptz NOT NULL DEFAULT now(),
    ADD CONSTRAINT clients_one_credential CHECK (secret_hash IS NULL OR jwks IS NULL);

-- Thumbprint (RFC 7638) of the key that must be proven to renew a session.
ALTER TABLE sessions
    ADD COLUMN jkt   text,
    -- What was granted at login, of what the client may have; null for all of that.
    ADD COLUMN scope text[];

-- Assertions of clients that were used, until none could be used again.
CREATE TABLE client_assertions (
    client_id  text COLLATE "C" NOT NULL REFERENCES clients (id),
    jti_hash   bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (client_id, jti_hash)
);
CREATE INDEX client_assertions_expires_at ON client_assertions (expires_at);
