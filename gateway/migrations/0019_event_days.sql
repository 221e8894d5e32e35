-- Events lie in a table a day, UTC: a day that is over and old is dropped whole, where events were
-- deleted one by one and their room cleaned up after them. Payments write by the parent's name and
-- are led to today's table; readers see one table.

ALTER TABLE outbox RENAME TO outbox_before;
ALTER INDEX outbox_payment RENAME TO outbox_before_payment;
-- Numbers of events: a table that becomes a part may not have its own.
CREATE SEQUENCE outbox_numbers;
ALTER TABLE outbox_before
    DROP CONSTRAINT outbox_pkey,
    ALTER COLUMN id DROP IDENTITY,
    ALTER COLUMN id SET DEFAULT nextval('outbox_numbers');

-- A key of all parts must name what they are divided by.
CREATE TABLE outbox (
    LIKE outbox_before INCLUDING DEFAULTS INCLUDING GENERATED,
    PRIMARY KEY (xid, id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX outbox_payment ON outbox (payment_id);
ALTER SEQUENCE outbox_numbers OWNED BY outbox.id;
-- Takes what no day takes: payments go on where days were not made in time.
CREATE TABLE outbox_default PARTITION OF outbox DEFAULT;

-- What is there becomes everything up to the end of the last of its days, and none of it is copied.
DO $$
DECLARE
    last date := (SELECT (greatest(max(created_at), clock_timestamp()) AT TIME ZONE 'UTC')::date
        FROM outbox_before);
    part text := 'outbox_' || to_char(last, 'YYYYMMDD');
BEGIN
    PERFORM setval('outbox_numbers', (SELECT coalesce(max(id), 0) + 1 FROM outbox_before), false);
    IF NOT EXISTS (SELECT FROM outbox_before) THEN
        DROP TABLE outbox_before;
        RETURN;
    END IF;
    ALTER TABLE outbox_before ADD PRIMARY KEY (xid, id, created_at);
    EXECUTE format('ALTER TABLE outbox_before RENAME TO %I', part);
    EXECUTE format('ALTER INDEX outbox_before_pkey RENAME TO %I', part || '_pkey');
    EXECUTE format('ALTER INDEX outbox_before_payment RENAME TO %I', part || '_payment_id_idx');
    EXECUTE format('ALTER TABLE outbox ATTACH PARTITION %I FOR VALUES FROM (MINVALUE) TO (%L)',
        part, (last + 1)::timestamp AT TIME ZONE 'UTC');
END
$$;

-- A part has no sampling of its parent's.
SELECT sample_searched('outbox', '{id, payment_id, created_at, xid}');
SELECT sample_searched('outbox_default', '{id, payment_id, created_at, xid}');

-- Makes the days that are not there, from today on; returns how many. A day's table is named by its
-- date, and whoever removes one goes by its name. Where events of today lie in outbox_default, they
-- stay there and today's table begins now. Readers of events wait half a second at most: then it
-- fails, and is called again; payments wait as long only where they write to outbox_default.
CREATE FUNCTION make_event_days(ahead integer DEFAULT 7) RETURNS integer LANGUAGE plpgsql
SET timezone = 'UTC' SET lock_timeout = '500ms' AS $$
DECLARE
    day date;
    part text;
    since timestamptz;
    made integer := 0;
    -- What was there before there were days has all up to the date it is named by.
    whole date := (
        SELECT to_date(right(c.relname, 8), 'YYYYMMDD')
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'outbox'::regclass AND c.relname ~ '^outbox_[0-9]{8}$'
          AND pg_get_expr(c.relpartbound, c.oid) LIKE '%MINVALUE%');
BEGIN
    -- Who makes or drops days has this one first; payments and readers pass it.
    LOCK TABLE ONLY outbox IN SHARE UPDATE EXCLUSIVE MODE;
    FOR day IN SELECT current_date + n FROM generate_series(0, ahead) AS n LOOP
        part := 'outbox_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN day <= whole OR to_regclass(part) IS NOT NULL;
        LOCK TABLE outbox_default IN ACCESS EXCLUSIVE MODE;
        since := (
            SELECT greatest(clock_timestamp(), max(created_at) + interval '1 microsecond')
            FROM outbox_default WHERE created_at >= day AND created_at < day + 1
            HAVING count(*) > 0);
        -- The clock was ahead once: a day to come that has events has its table when it is today.
        CONTINUE WHEN since IS NOT NULL AND day > current_date;
        EXECUTE format('CREATE TABLE %I (LIKE outbox INCLUDING ALL)', part);
        PERFORM sample_searched(part::regclass, '{id, payment_id, created_at, xid}');
        EXECUTE format('ALTER TABLE outbox ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            part, coalesce(since, day), day + 1);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
