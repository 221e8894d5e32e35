-- A journal entry in one row a currency: four lines took four rows and four places in an index.

CREATE TABLE entries (
    entry_id      text COLLATE "C" NOT NULL,
    -- The first line's place in the entry; the others follow it.
    line          smallint NOT NULL DEFAULT 1,
    currency      text NOT NULL,
    accounts      text[] COLLATE "C" NOT NULL,
    -- Debit positive, credit negative; the lines of an entry sum to zero per currency.
    amounts_minor bigint[] NOT NULL,
    posted_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (entry_id, line),
    CHECK (cardinality(accounts) = cardinality(amounts_minor))
);

-- Lines of a currency that follow each other become one row.
INSERT INTO entries (entry_id, line, currency, accounts, amounts_minor, posted_at)
SELECT entry_id, min(line), currency, array_agg(account ORDER BY line),
    array_agg(amount_minor ORDER BY line), min(posted_at)
FROM (
    SELECT *, line - row_number() OVER (PARTITION BY entry_id, currency ORDER BY line) AS run
    FROM postings
) AS numbered
GROUP BY entry_id, currency, run
ORDER BY min(posted_at), entry_id;
DROP TABLE postings;
-- Entries are only ever added, so that an hour's lie together.
CREATE INDEX entries_posted_at ON entries USING brin (posted_at) WITH (pages_per_range = 16);

-- The lines, as they are read.
CREATE VIEW postings AS
SELECT e.entry_id, (e.line + l.place - 1)::smallint AS line, l.account, l.amount_minor,
    e.currency, e.posted_at
FROM entries e
CROSS JOIN LATERAL unnest(e.accounts, e.amounts_minor)
    WITH ORDINALITY AS l (account, amount_minor, place);

-- Workers of the version before write line by line while they are replaced.
CREATE FUNCTION post_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO entries (entry_id, line, currency, accounts, amounts_minor, posted_at)
    VALUES (NEW.entry_id, NEW.line, NEW.currency, ARRAY[NEW.account], ARRAY[NEW.amount_minor],
        coalesce(NEW.posted_at, now()));
    RETURN NEW;
END
$$;
CREATE TRIGGER postings_line INSTEAD OF INSERT ON postings
    FOR EACH ROW EXECUTE FUNCTION post_line();
