DROP FUNCTION oqim_abort;
DROP TABLE conflicts, callbacks, outbox, postings, limit_states, idempotency_keys, actions,
    attempts, payments, workers, cards, revocations, refresh_tokens, sessions, signing_keys,
    operators, clients, merchants, users;
DROP SEQUENCE attempt_blocks;
