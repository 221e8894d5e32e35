DROP INDEX postings_posted_at;
DROP TABLE ledger_sums;
DROP TABLE ledger_hours;
