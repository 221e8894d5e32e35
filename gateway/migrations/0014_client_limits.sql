-- What a client may ask for, where it differs from what its channel may (config/settings.toml).
CREATE TABLE client_limits (
    client_id       text PRIMARY KEY REFERENCES clients (id),
    -- NULL: as the channel.
    rate_per_s      integer CHECK (rate_per_s BETWEEN 1 AND 100000),
    burst           integer CHECK (burst BETWEEN 1 AND 1000000),
    -- 0: as many as come.
    concurrency_max integer CHECK (concurrency_max BETWEEN 0 AND 100000),
    -- Empty: from anywhere.
    networks        cidr[] NOT NULL DEFAULT '{}',
    -- Of the last change, over all clients: workers read what is newer than what they know.
    seq             bigint NOT NULL UNIQUE,
    changed_at      timestamptz NOT NULL,
    changed_by      text NOT NULL
);
