-- Telling others what happened: webhook endpoints, their deliveries, and how far events were read.

-- Numbers are given out before a transaction commits, and transactions end in another order than
-- they began: who reads by number alone passes by what commits late. So an event carries its
-- transaction as well and is read in the order of both, up to the oldest transaction that still
-- runs: before it, nothing can appear any more.
ALTER TABLE outbox ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
ALTER TABLE outbox DROP CONSTRAINT outbox_pkey, ADD PRIMARY KEY (xid, id);
-- What happened to one customer's payments, since an event the customer saw.
CREATE INDEX outbox_payment ON outbox (payment_id);

-- `fanned_out`: deliveries were made of every event up to here. `pruned`: none up to here is kept.
CREATE TABLE event_positions (
    name text PRIMARY KEY CHECK (name IN ('fanned_out', 'pruned')),
    xid  xid8 NOT NULL,
    id   bigint NOT NULL
);
INSERT INTO event_positions (name, xid, id) VALUES
    -- Nobody was there to be told of what came before.
    ('fanned_out', pg_current_xact_id(), 9223372036854775807), ('pruned', '0', 0);

CREATE TABLE webhook_endpoints (
    id              text COLLATE "C" PRIMARY KEY,
    -- Whose payments it is told of.
    owner           text NOT NULL,
    url             text NOT NULL,
    -- Empty: every type there is and will be.
    events          text[] NOT NULL,
    description     text,
    is_enabled      boolean NOT NULL DEFAULT true,
    -- Why it is not, when we switched it off.
    disabled_reason text,
    -- Sealed by the vault.
    secret_sealed   bytea NOT NULL,
    -- The secret before, which signs as well for a while.
    previous_sealed bytea,
    previous_until  timestamptz,
    -- Since its last success; it then gets one delivery at a time.
    failing_since   timestamptz,
    -- It asked us to wait.
    paused_until    timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_endpoints_owner ON webhook_endpoints (owner, id);

CREATE TABLE webhook_deliveries (
    id          text COLLATE "C" PRIMARY KEY,
    endpoint_id text COLLATE "C" NOT NULL REFERENCES webhook_endpoints (id) ON DELETE CASCADE,
    event_id    text COLLATE "C" NOT NULL,
    payment_id  text COLLATE "C" NOT NULL,
    sequence    integer NOT NULL,
    type        text NOT NULL,
    -- The bytes that are signed and sent, the same at every try.
    body        text NOT NULL,
    status      text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'succeeded', 'failed')),
    -- Begun, of the schedule that runs.
    tries       smallint NOT NULL DEFAULT 0,
    -- While it is sent, until `next_try_at` only its worker may touch it.
    is_sending  boolean NOT NULL DEFAULT false,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    -- What came of the last try.
    tried_at    timestamptz,
    http_status smallint,
    error       text,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX webhook_deliveries_event ON webhook_deliveries (endpoint_id, event_id);
CREATE INDEX webhook_deliveries_list ON webhook_deliveries (endpoint_id, id);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, next_try_at)
    WHERE status = 'pending';
-- Whether an earlier event of the same payment is still to be sent.
CREATE INDEX webhook_deliveries_order ON webhook_deliveries (endpoint_id, payment_id, sequence)
    WHERE status = 'pending';
