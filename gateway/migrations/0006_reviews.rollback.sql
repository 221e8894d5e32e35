ALTER TABLE callbacks DROP COLUMN event;
DROP TABLE reviews;
