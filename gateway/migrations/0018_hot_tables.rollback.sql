DROP FUNCTION sample_searched;
ALTER TABLE payments SET (fillfactor = 40);
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attrelid = ANY(
            '{payments, attempts, idempotency_keys, limit_states, entries, outbox, decision_log}'
                ::regclass[])
    LOOP
        EXECUTE format('ALTER TABLE %I ALTER COLUMN %I SET STATISTICS DEFAULT',
            one.relname, one.attname);
    END LOOP;
END
$$;
