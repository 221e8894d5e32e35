-- Rules as versioned data, changed by two people; what is kept of decisions; who did what.

-- Each change makes the next generation: what a worker decides by, named by one number.
CREATE TABLE rule_generations (
    -- Without gaps: given out under a lock, in the transaction that inserts.
    seq         bigint PRIMARY KEY,
    created_at  timestamptz NOT NULL,
    actor       text NOT NULL,
    -- Null: the first one, or rates.
    proposal_id text COLLATE "C"
);

-- Every version that ever was approved, as it was approved; never changed, never deleted.
CREATE TABLE commission_plans (
    id              text COLLATE "C" NOT NULL,
    version         integer NOT NULL,
    -- With id and version; when it is in force is in rule_ranges.
    body            json NOT NULL,
    generation_from bigint NOT NULL REFERENCES rule_generations (seq),
    created_at      timestamptz NOT NULL,
    PRIMARY KEY (id, version)
);

CREATE TABLE limit_policies (
    id              text COLLATE "C" NOT NULL,
    version         integer NOT NULL,
    body            json NOT NULL,
    generation_from bigint NOT NULL REFERENCES rule_generations (seq),
    created_at      timestamptz NOT NULL,
    PRIMARY KEY (id, version)
);

-- When a version is in force, as the generations [generation_from, generation_to) have it. What a
-- generation holds can be read for ever.
CREATE TABLE rule_ranges (
    kind            text NOT NULL CHECK (kind IN ('plan', 'policy')),
    id              text COLLATE "C" NOT NULL,
    version         integer NOT NULL,
    generation_from bigint NOT NULL REFERENCES rule_generations (seq),
    -- Null: until the newest.
    generation_to   bigint REFERENCES rule_generations (seq),
    -- [effective_from, effective_to); null: since ever, and for ever.
    effective_from  timestamptz,
    effective_to    timestamptz,
    PRIMARY KEY (kind, id, version, generation_from),
    CHECK (generation_to > generation_from),
    CHECK (effective_to > effective_from)
);
-- A version is in one range of a generation.
CREATE UNIQUE INDEX rule_ranges_newest ON rule_ranges (kind, id, version)
    WHERE generation_to IS NULL;

CREATE TABLE rule_proposals (
    id                  text COLLATE "C" PRIMARY KEY,
    kind                text NOT NULL CHECK (kind IN ('plan', 'policy')),
    action              text NOT NULL CHECK (action IN ('put', 'delete')),
    target_id           text COLLATE "C" NOT NULL,
    -- As proposed; null for a deletion.
    body                json,
    -- Null: at approval.
    effective_from      timestamptz,
    -- What it was written against: the version then in force, and the last generation that
    -- touched the target.
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
    -- What its approval made.
    generation          bigint REFERENCES rule_generations (seq),
    version             integer,
    CHECK (status <> 'approved' OR decided_by <> proposed_by)
);

-- Soums per `nominal` units. Once stored, a rate is not changed.
CREATE TABLE exchange_rates (
    currency        text COLLATE "C" NOT NULL,
    date            date NOT NULL,
    rate            text NOT NULL,
    nominal         integer NOT NULL,
    generation_from bigint NOT NULL REFERENCES rule_generations (seq),
    PRIMARY KEY (currency, date)
);
CREATE INDEX exchange_rates_date ON exchange_rates (date);

-- Replays of recorded decisions against a draft.
CREATE TABLE simulations (
    id          text COLLATE "C" PRIMARY KEY,
    -- The proposal that it belongs to, or null.
    proposal_id text COLLATE "C" REFERENCES rule_proposals (id),
    draft       json NOT NULL,
    from_at     timestamptz NOT NULL,
    to_at       timestamptz NOT NULL,
    status      text NOT NULL CHECK (status IN ('running', 'done', 'failed', 'canceled')),
    done        bigint NOT NULL DEFAULT 0,
    -- Decisions to replay; null: not counted yet.
    total       bigint,
    report      json,
    notes       text[] NOT NULL DEFAULT '{}',
    error       text,
    started_by  text NOT NULL,
    created_at  timestamptz NOT NULL,
    finished_at timestamptz,
    -- Who works on it, and until when nobody else does.
    worker      bigint,
    lease_until timestamptz,
    tries       smallint NOT NULL DEFAULT 0
);
CREATE INDEX simulations_open ON simulations (id) WHERE status = 'running';
CREATE INDEX simulations_proposal ON simulations (proposal_id) WHERE proposal_id IS NOT NULL;

-- What operators did, each row in the transaction that did it.
CREATE TABLE audit_log (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL,
    actor  text NOT NULL,
    action text NOT NULL,
    object text NOT NULL,
    detail json NOT NULL
);

-- Decisions -------------------------------------------------------------------------------------

-- Refused, and so without a payment.
CREATE TABLE refusals (
    id          text COLLATE "C" PRIMARY KEY,
    created_at  timestamptz NOT NULL,
    owner       text NOT NULL,
    merchant_id text,
    code        text NOT NULL,
    -- In the core's layout.
    record      bytea NOT NULL
);

-- The stored decision, in the core's layout; empty for payments of before.
ALTER TABLE payments ADD COLUMN record bytea NOT NULL DEFAULT '';

-- By which generation a worker decides, and since when.
ALTER TABLE workers
    ADD COLUMN applied_generation bigint NOT NULL DEFAULT 0,
    ADD COLUMN applied_at timestamptz;
