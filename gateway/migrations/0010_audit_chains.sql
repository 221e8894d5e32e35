-- What operators did becomes a chain, and what was decided of payments another one a writer.
ALTER TABLE audit_log
    ADD COLUMN record text,
    ADD COLUMN seq    bigint,
    ADD COLUMN hash   bytea;
UPDATE audit_log SET record = json_build_object(
    'action', action, 'actor', actor, 'at', (extract(epoch FROM at) * 1000)::bigint,
    'detail', detail, 'object', object)::text;
ALTER TABLE audit_log ALTER COLUMN record SET NOT NULL;

-- Links one row to the one before it. It runs as the transaction commits, when nothing else is
-- waited for any more, so that the order of numbers is the order of commits.
CREATE FUNCTION link_audit_log(row_id bigint, row_record text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before record;
BEGIN
    PERFORM pg_advisory_xact_lock(7276545810);
    SELECT a.seq, a.hash INTO before FROM audit_log a
        WHERE a.seq IS NOT NULL ORDER BY a.seq DESC LIMIT 1;
    UPDATE audit_log SET seq = coalesce(before.seq, 0) + 1, hash = sha256(
        coalesce(before.hash, sha256(convert_to('oqim audit acts', 'UTF8')))
        || convert_to(row_record, 'UTF8'))
    WHERE id = row_id;
END $$;
DO $$ BEGIN
    PERFORM link_audit_log(id, record) FROM (SELECT id, record FROM audit_log ORDER BY id) AS known;
END $$;
CREATE UNIQUE INDEX audit_log_seq ON audit_log (seq);

CREATE FUNCTION on_audit_log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM link_audit_log(NEW.id, NEW.record);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER audit_log_linked AFTER INSERT ON audit_log
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION on_audit_log();

-- Decisions of payments: one record a batch, in the batch's own commit. A shard has one writer.
CREATE TABLE decision_log (
    shard  text COLLATE "C" NOT NULL,
    seq    bigint NOT NULL,
    at     timestamptz NOT NULL DEFAULT now(),
    record text NOT NULL,
    hash   bytea NOT NULL,
    PRIMARY KEY (shard, seq)
);
CREATE INDEX decision_log_at ON decision_log USING brin (at) WITH (pages_per_range = 16);

CREATE TABLE audit_roots (
    seq       bigint PRIMARY KEY,
    at        timestamptz NOT NULL,
    record    text NOT NULL,
    hash      bytea NOT NULL,
    signature bytea NOT NULL
);

-- Nobody changes what is written by accident. Whoever may do it on purpose is found out by the
-- chains.
CREATE FUNCTION only_added() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION '% is only ever added to', TG_TABLE_NAME;
END $$;
CREATE TRIGGER audit_log_only_added BEFORE UPDATE ON audit_log FOR EACH ROW
    WHEN (OLD.hash IS NOT NULL) EXECUTE FUNCTION only_added();
CREATE TRIGGER audit_log_not_deleted BEFORE DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION only_added();
CREATE TRIGGER decision_log_only_added BEFORE UPDATE OR DELETE OR TRUNCATE ON decision_log
    FOR EACH STATEMENT EXECUTE FUNCTION only_added();
CREATE TRIGGER audit_roots_only_added BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_roots
    FOR EACH STATEMENT EXECUTE FUNCTION only_added();
