-- What processors report of a business day, beside what was done here.

CREATE TABLE reconciliation_imports (
    id            text COLLATE "C" PRIMARY KEY,
    connector     text NOT NULL,
    business_day  date NOT NULL,
    -- A report that comes again corrected is the next revision, and takes the place of the one before.
    revision      integer NOT NULL,
    is_current    boolean NOT NULL,
    -- SHA-256 of the report: the same one again changes nothing.
    content_hash  bytea NOT NULL,
    source        text NOT NULL CHECK (source IN ('processor', 'file')),
    imported_by   text NOT NULL,
    imported_at   timestamptz NOT NULL,
    -- As of the last time it was matched.
    lines         integer NOT NULL,
    matched       integer NOT NULL,
    -- [{currency, debits, credits, net, fees}], minor units of all that was approved.
    sums          jsonb NOT NULL,
    matched_at    timestamptz NOT NULL,
    -- What another day's report said since may change what this one means: it is matched again.
    is_stale      boolean NOT NULL DEFAULT false,
    UNIQUE (connector, business_day, revision)
);
CREATE UNIQUE INDEX reconciliation_imports_current
    ON reconciliation_imports (connector, business_day) WHERE is_current;

-- The lines of current imports alone: an earlier revision's are in its file.
CREATE TABLE reconciliation_lines (
    -- No foreign key: a million checks an import, of rows that only imports write.
    import_id           text COLLATE "C" NOT NULL,
    number              integer NOT NULL,
    connector           text NOT NULL,
    business_day        date NOT NULL,
    -- Whether the line, or what it is about, is of another day than its report.
    is_off_day          boolean NOT NULL,
    movement            text NOT NULL,
    side                text NOT NULL CHECK (side IN ('payment', 'refund')),
    is_approved         boolean NOT NULL,
    reference           text COLLATE "C" NOT NULL,
    processor_reference text COLLATE "C" NOT NULL,
    amount_minor        bigint NOT NULL,
    commission_minor    bigint,
    fee_minor           bigint NOT NULL,
    -- What the processor owes us for it, its fee left aside.
    net_minor           bigint NOT NULL,
    currency            text NOT NULL,
    day                 date NOT NULL,
    -- The attempt or action it is about.
    subject             text COLLATE "C",
    PRIMARY KEY (import_id, number)
);
CREATE INDEX reconciliation_lines_subject ON reconciliation_lines (subject)
    WHERE subject IS NOT NULL;
-- What may be said twice: by the report of the day, and by that of another.
CREATE INDEX reconciliation_lines_off_day ON reconciliation_lines (subject, side)
    WHERE is_off_day;

CREATE SEQUENCE reconciliation_break_numbers;

CREATE TABLE reconciliation_breaks (
    -- Numbered in the order in which they were opened.
    id           text COLLATE "C" PRIMARY KEY
        DEFAULT 'brk_' || lpad(nextval('reconciliation_break_numbers')::text, 12, '0'),
    connector    text NOT NULL,
    business_day date NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('missing_here', 'missing_there', 'amount',
        'commission', 'status', 'currency', 'duplicate', 'day')),
    -- What it is about: one break of a kind at a time.
    name         text COLLATE "C" NOT NULL,
    side         text NOT NULL,
    subject      text COLLATE "C",
    payment_id   text COLLATE "C",
    line_number  integer,
    ours         jsonb,
    theirs       jsonb,
    status       text NOT NULL DEFAULT 'open'
        CHECK (status IN ('open', 'proposed', 'resolved', 'accepted', 'posted')),
    -- Whether what the report says was told to the payment.
    is_told      boolean NOT NULL DEFAULT false,
    opened_at    timestamptz NOT NULL DEFAULT now(),
    resolved_at  timestamptz,
    action       text CHECK (action IN ('accept', 'post')),
    note         text,
    postings     jsonb,
    proposed_by  text,
    proposed_at  timestamptz,
    decided_by   text,
    decided_at   timestamptz,
    entry_id     text,
    CHECK (decided_by IS NULL OR decided_by <> proposed_by)
);
CREATE UNIQUE INDEX reconciliation_breaks_name
    ON reconciliation_breaks (connector, business_day, kind, name)
    WHERE status IN ('open', 'proposed');
CREATE INDEX reconciliation_breaks_day ON reconciliation_breaks (connector, business_day);
CREATE INDEX reconciliation_breaks_open ON reconciliation_breaks (id)
    WHERE status IN ('open', 'proposed');
CREATE INDEX reconciliation_breaks_posted ON reconciliation_breaks (subject)
    WHERE status = 'posted';

-- What was posted of a day's settlement; a correction posts the difference.
CREATE TABLE reconciliation_settlements (
    entry_id     text COLLATE "C" PRIMARY KEY,
    connector    text NOT NULL,
    business_day date NOT NULL,
    currency     text NOT NULL,
    net_minor    bigint NOT NULL,
    fee_minor    bigint NOT NULL,
    posted_at    timestamptz NOT NULL
);
CREATE INDEX reconciliation_settlements_day
    ON reconciliation_settlements (connector, business_day);
