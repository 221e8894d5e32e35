-- Where a session was begun, and how its customer was authenticated.
ALTER TABLE sessions
    ADD COLUMN address text,
    ADD COLUMN level text NOT NULL DEFAULT 'otp';
CREATE INDEX sessions_client ON sessions (client_id) WHERE ended_at IS NULL;

-- Workers that accept tokens, each with the last revocation it refuses by. A beat is said before
-- each reading of the log: a worker whose beat stands still has read nothing since.
CREATE TABLE revocation_followers (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Host and process.
    name        text NOT NULL,
    applied_seq bigint NOT NULL,
    beat        bigint NOT NULL DEFAULT 0,
    heard_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- Which worker applied which revocation, and when by the database's clock.
CREATE TABLE revocation_acks (
    seq        bigint NOT NULL,
    follower   bigint NOT NULL,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL,
    PRIMARY KEY (seq, follower)
);
