-- Balances without adding up everything that was ever posted: sums of whole hours, made once an
-- hour has ended and can get no more postings.
CREATE TABLE ledger_hours (
    -- The hour's beginning.
    hour     timestamptz PRIMARY KEY,
    rolled_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE ledger_sums (
    hour     timestamptz NOT NULL,
    account  text COLLATE "C" NOT NULL,
    currency text NOT NULL,
    -- Both positive.
    debit    numeric NOT NULL,
    credit   numeric NOT NULL,
    PRIMARY KEY (hour, account, currency)
);
-- Postings are only ever added, so that an hour's lie together.
CREATE INDEX postings_posted_at ON postings USING brin (posted_at) WITH (pages_per_range = 16);
