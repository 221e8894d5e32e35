-- What processors leave in doubt for too long, and facts that contradict: for two operators.
CREATE TABLE reviews (
    id          text COLLATE "C" PRIMARY KEY,
    payment_id  text COLLATE "C" NOT NULL REFERENCES payments (id),
    kind        text NOT NULL CHECK (kind IN ('attempt', 'action', 'conflict')),
    -- The attempt, the action, or the conflict's number.
    subject_id  text COLLATE "C" NOT NULL,
    reason      text NOT NULL,
    status      text NOT NULL CHECK (status IN ('open', 'proposed', 'settled', 'closed')),
    opened_at   timestamptz NOT NULL DEFAULT now(),
    outcome     text,
    note        text,
    proposed_by text,
    proposed_at timestamptz,
    decided_by  text,
    decided_at  timestamptz,
    CHECK (decided_by IS NULL OR decided_by <> proposed_by)
);
CREATE UNIQUE INDEX reviews_subject ON reviews (kind, subject_id);
CREATE INDEX reviews_open ON reviews (id) WHERE status IN ('open', 'proposed');

-- What a callback said, as it was verified: enough to apply it later, by any worker.
ALTER TABLE callbacks ADD COLUMN event json;
