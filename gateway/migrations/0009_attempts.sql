-- When an attempt was made, by the one clock that every worker shares. Whether a processor that has
-- never heard of it may still do so must not depend on whose clock is wrong.
ALTER TABLE attempts ADD COLUMN sent_at timestamptz NOT NULL DEFAULT now();
