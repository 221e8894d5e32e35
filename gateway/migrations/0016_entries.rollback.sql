ALTER VIEW postings RENAME TO lines;
CREATE TABLE postings (
    entry_id     text COLLATE "C" NOT NULL,
    line         smallint NOT NULL,
    account      text COLLATE "C" NOT NULL,
    amount_minor bigint NOT NULL,
    currency     text NOT NULL,
    posted_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (entry_id, line)
);
INSERT INTO postings (entry_id, line, account, amount_minor, currency, posted_at)
SELECT entry_id, line, account, amount_minor, currency, posted_at FROM lines
ORDER BY posted_at, entry_id, line;
DROP VIEW lines;
DROP FUNCTION post_line;
DROP TABLE entries;
CREATE INDEX postings_posted_at ON postings USING brin (posted_at) WITH (pages_per_range = 16);
