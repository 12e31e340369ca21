-- What a skeleton has to bring back, in every kind that lives outside relation files.
CREATE EXTENSION amcheck;
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
INSERT INTO accounts SELECT id, 100 FROM generate_series(1, 3000) id;
CREATE INDEX ON accounts (balance);
CREATE SEQUENCE tickets;
SELECT nextval('tickets') FROM generate_series(1, 3);
CREATE UNLOGGED TABLE notes (id int PRIMARY KEY, words text);
INSERT INTO notes SELECT id, repeat('x', 100) FROM generate_series(1, 500) id;
CREATE DATABASE second;

-- Prepared before the checkpoint: its file is in pg_twophase.
BEGIN;
INSERT INTO accounts VALUES (10001, 1);
SELECT FROM accounts WHERE id = 7 FOR SHARE;
PREPARE TRANSACTION 'before';
CHECKPOINT;

-- Prepared after it: it is in the log alone. The row has two lockers now, so it has a multixact.
BEGIN;
INSERT INTO accounts VALUES (10002, 2);
SAVEPOINT inner_one;
INSERT INTO accounts VALUES (10003, 3);
SELECT FROM accounts WHERE id = 7 FOR SHARE;
PREPARE TRANSACTION 'after';
BEGIN;
INSERT INTO accounts VALUES (10004, 4);
PREPARE TRANSACTION 'finished';
COMMIT PREPARED 'finished';

-- Moves a mapped relation: the relation maps change.
VACUUM FULL pg_class;
VACUUM FULL pg_database;
UPDATE accounts SET balance = balance + 1 WHERE id % 10 = 0;
BEGIN;
INSERT INTO accounts VALUES (20000, 1000000);
ROLLBACK;
