-- Everything that must not be lost. Ids are text with a prefix, sortable by time; amounts are
-- bigint minor units; times are timestamptz.

-- People, merchants, clients ---------------------------------------------------------------

CREATE TABLE users (
    id         text COLLATE "C" PRIMARY KEY,
    phone      text NOT NULL UNIQUE,
    tier       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE merchants (
    id          text COLLATE "C" PRIMARY KEY,
    name        text NOT NULL,
    city        text NOT NULL,
    country     text NOT NULL,
    mcc         text NOT NULL,
    acceptor_id text NOT NULL,
    terminal_id text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE clients (
    id          text COLLATE "C" PRIMARY KEY,
    channel     text NOT NULL,
    -- Whom a client acts for by its own credentials; null for one that only carries users.
    subject     text,
    secret_hash text,
    scopes      text[] NOT NULL
);

CREATE TABLE operators (
    id         text COLLATE "C" PRIMARY KEY,
    name       text NOT NULL,
    scopes     text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Identity ----------------------------------------------------------------------------------

CREATE TABLE signing_keys (
    kid         text COLLATE "C" PRIMARY KEY,
    -- Ed25519, sealed by the vault's key.
    private_key bytea NOT NULL,
    public_key  bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE sessions (
    id          text COLLATE "C" PRIMARY KEY,
    user_id     text NOT NULL REFERENCES users (id),
    client_id   text NOT NULL REFERENCES clients (id),
    device_id   text NOT NULL,
    device_name text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz
);
CREATE INDEX sessions_user ON sessions (user_id) WHERE ended_at IS NULL;

CREATE TABLE refresh_tokens (
    -- SHA-256 of the token.
    token_hash     bytea PRIMARY KEY,
    session_id     text NOT NULL REFERENCES sessions (id),
    device_id      text NOT NULL,
    -- Sealed successor, so that the same one can be given again for a few seconds.
    successor      bytea,
    used_at        timestamptz,
    expires_at     timestamptz NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);

CREATE TABLE revocations (
    -- Without gaps: given out under a lock, in the transaction that inserts.
    seq        bigint PRIMARY KEY,
    kind       text NOT NULL CHECK (kind IN ('jti', 'sid', 'sub', 'client')),
    value      text NOT NULL,
    not_before timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Cards -------------------------------------------------------------------------------------

CREATE TABLE cards (
    id            text COLLATE "C" PRIMARY KEY,
    owner         text NOT NULL,
    scheme        text NOT NULL,
    bin           text NOT NULL,
    last4         text NOT NULL,
    -- YYMM.
    expiry        text NOT NULL,
    -- Hex of the keyed hash of the number.
    lookup        text NOT NULL,
    -- The number, sealed: key version, nonce, AES-256-GCM ciphertext bound to the card's id.
    pan_sealed    bytea NOT NULL,
    -- The processor's token for the card, sealed the same way.
    token_sealed  bytea,
    status        text NOT NULL CHECK (status IN ('pending_verification', 'active', 'deleted')),
    version       integer NOT NULL DEFAULT 1,
    -- What verification waits for: the processor's challenge, or a keyed hash of our own code.
    challenge     text,
    code_hash     bytea,
    code_tries    smallint NOT NULL DEFAULT 0,
    code_expires_at timestamptz,
    -- Codes sent since it was added or since the last lock ended.
    code_sends    smallint NOT NULL DEFAULT 0,
    locked_until  timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    deleted_at    timestamptz
);
CREATE INDEX cards_owner ON cards (owner, id) WHERE status <> 'deleted';
-- Deleted cards whose number is still needed to settle and refund what they paid.
CREATE INDEX cards_to_purge ON cards (deleted_at) WHERE status = 'deleted' AND pan_sealed <> '';
CREATE UNIQUE INDEX cards_owner_lookup ON cards (owner, lookup) WHERE status <> 'deleted';

-- Payments ----------------------------------------------------------------------------------

CREATE TABLE workers (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now()
);

-- Attempts are numbered in blocks of a thousand, one block a worker at a time.
CREATE SEQUENCE attempt_blocks;

-- What never changes comes first: an update then logs only what follows.
CREATE TABLE payments (
    id                  text COLLATE "C" PRIMARY KEY,
    created_at          timestamptz NOT NULL,
    owner               text NOT NULL,
    client_id           text NOT NULL,
    operation           text NOT NULL,
    scheme              text NOT NULL,
    amount_minor        bigint NOT NULL,
    currency            text NOT NULL,
    source_card_id      text,
    destination_card_id text,
    destination_pan     bytea,
    merchant_id         text,
    is_manual_capture   boolean NOT NULL,
    commission_payer    text NOT NULL,
    commission_plan     text NOT NULL,
    commission_version  integer NOT NULL,
    -- [[connector, kind], ...] in the order they are sent.
    legs                json NOT NULL,
    -- What it took from limits, in the core's layout.
    reservation         bytea NOT NULL,
    -- Description, purpose, the client's metadata.
    details             json NOT NULL,
    -- Computed anew on what is captured of a hold.
    commission_lines    json NOT NULL,
    version             integer NOT NULL,
    status              text NOT NULL,
    total_debit         bigint NOT NULL,
    total_credit        bigint NOT NULL,
    commission_total    bigint NOT NULL,
    commission_vat      bigint NOT NULL,
    amount_capturable   bigint NOT NULL DEFAULT 0,
    amount_received     bigint NOT NULL DEFAULT 0,
    amount_refunded     bigint NOT NULL DEFAULT 0,
    -- Refunded, and being refunded: what no further refund may take.
    amount_refunding    bigint NOT NULL DEFAULT 0,
    decline_code        text,
    -- The answer that was given, byte for byte.
    response_status     smallint,
    response_body       text,
    updated_at          timestamptz NOT NULL DEFAULT now(),
    CHECK (amount_refunding <= amount_received AND amount_refunded <= amount_refunding)
-- Room for every row's outcome on its own page, and no time spent on compressing it.
) WITH (fillfactor = 40, toast_tuple_target = 4080);
CREATE INDEX payments_owner ON payments (owner, id);

CREATE TABLE attempts (
    -- The payment's own characters and the leg's digit.
    id             text COLLATE "C" PRIMARY KEY,
    payment_id     text NOT NULL,
    leg            smallint NOT NULL,
    connector      text NOT NULL,
    kind           text NOT NULL,
    state          text NOT NULL,
    -- What STAN and RRN are made from.
    sequence       bigint NOT NULL,
    created_at_ms  bigint NOT NULL,
    rrn            text,
    approval_code  text,
    processor_code text,
    processor_references json,
    outcome_source text,
    worker         bigint NOT NULL,
    tries          smallint NOT NULL DEFAULT 0,
    -- Until then only the worker that sends it may touch it.
    next_try_at    timestamptz NOT NULL DEFAULT now() + interval '30 seconds'
) WITH (fillfactor = 70);
CREATE INDEX attempts_open ON attempts (next_try_at)
    WHERE state IN ('sent', 'unknown', 'reversing');

-- Captures, cancels and refunds.
CREATE TABLE actions (
    id              text COLLATE "C" PRIMARY KEY,
    payment_id      text NOT NULL REFERENCES payments (id),
    kind            text NOT NULL CHECK (kind IN ('capture', 'cancel', 'refund')),
    state           text NOT NULL CHECK (state IN ('pending', 'unknown', 'succeeded', 'failed')),
    amount_minor    bigint NOT NULL,
    reason          text,
    decline_code    text,
    sequence        bigint NOT NULL,
    worker          bigint NOT NULL,
    tries           smallint NOT NULL DEFAULT 0,
    next_try_at     timestamptz NOT NULL DEFAULT now() + interval '30 seconds',
    response_status smallint,
    response_body   text,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX actions_payment ON actions (payment_id);
CREATE INDEX actions_open ON actions (next_try_at) WHERE state IN ('pending', 'unknown');
-- A hold ends once: one capture or cancel may be alive or done.
CREATE UNIQUE INDEX actions_end ON actions (payment_id)
    WHERE kind IN ('capture', 'cancel') AND state <> 'failed';

CREATE TABLE idempotency_keys (
    -- Half a SHA-256 of client, subject, route and key.
    scope       bytea PRIMARY KEY,
    fingerprint bytea NOT NULL,
    -- The payment or action whose stored answer is the answer.
    object_id   text NOT NULL
);

CREATE TABLE limit_states (
    subject text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    state   bytea NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE postings (
    entry_id     text COLLATE "C" NOT NULL,
    line         smallint NOT NULL,
    account      text COLLATE "C" NOT NULL,
    -- Debit positive, credit negative; the lines of an entry sum to zero per currency.
    amount_minor bigint NOT NULL,
    currency     text NOT NULL,
    posted_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (entry_id, line)
);

CREATE TABLE outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    payment_id text NOT NULL,
    -- The payment's version: the order of its events.
    sequence   integer NOT NULL,
    type       text NOT NULL,
    data       json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE callbacks (
    connector   text NOT NULL,
    event_id    text NOT NULL,
    body_hash   bytea NOT NULL,
    body        bytea NOT NULL,
    state       text NOT NULL CHECK (state IN ('received', 'applied', 'ignored', 'parked', 'conflict')),
    attempt_id  text,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (connector, event_id)
);
CREATE INDEX callbacks_open ON callbacks (received_at) WHERE state IN ('received', 'parked');

-- Two facts that cannot both be true: for an operator.
CREATE TABLE conflicts (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    payment_id text NOT NULL,
    attempt_id text,
    detail     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Ends a statement, and with it everything the statement wrote, with a reason of ours.
CREATE FUNCTION oqim_abort(reason text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', reason USING ERRCODE = 'OQ001';
END
$$;
