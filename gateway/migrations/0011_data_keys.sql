-- What seals card numbers and secrets, wrapped by a key-encryption key that is not here.
CREATE TABLE data_keys (
    -- The first byte of everything it sealed.
    id         smallint PRIMARY KEY CHECK (id BETWEEN 1 AND 255),
    state      text NOT NULL CHECK (state IN ('new', 'sealing', 'opening', 'destroyed')),
    -- The name of the key-encryption key that wrapped it.
    kek        text NOT NULL,
    wrapped    bytea CHECK ((wrapped IS NULL) = (state = 'destroyed')),
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX data_keys_sealing ON data_keys ((true)) WHERE state = 'sealing';
CREATE UNIQUE INDEX data_keys_new ON data_keys ((true)) WHERE state = 'new';
