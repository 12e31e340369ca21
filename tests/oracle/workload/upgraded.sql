-- Index files as pg_upgrade brings them from old versions, made here by writing such pages into files while no buffer
-- holds them: a move to another tablespace leaves none, and the move back logs the pages as it finds them.
CREATE EXTENSION pageinspect;
CREATE TABLESPACE upgraded LOCATION '';
CREATE FUNCTION get_16(file bytea, at int) RETURNS int LANGUAGE sql IMMUTABLE AS $$
  SELECT get_byte(file, at) + 256 * get_byte(file, at + 1) $$;
CREATE FUNCTION put_16(file bytea, at int, value int) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
  SELECT set_byte(set_byte(file, at, value & 255), at + 1, value >> 8) $$;
CREATE PROCEDURE rewrite_file(index regclass, rewrite regproc) LANGUAGE plpgsql AS $$
DECLARE path text; object oid; file bytea;
BEGIN
  EXECUTE format('ALTER INDEX %s SET TABLESPACE upgraded', index);
  COMMIT;
  path := pg_relation_filepath(index);
  EXECUTE format('SELECT %s($1)', rewrite) INTO file USING pg_read_binary_file(path);
  object := lo_from_bytea(0, file);
  PERFORM lo_export(object, path);
  PERFORM lo_unlink(object);
  EXECUTE format('ALTER INDEX %s SET TABLESPACE pg_default', index);
END $$;
-- A leaf of a posting tree as 9.3 had it: tuple ids as they are, their number, and a header that does not say where they end.
-- One that holds more than fitted then stays as it is, as if it had been changed since.
CREATE FUNCTION old_leaf(page bytea) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE at int := 32; count int := 0; id bigint; items bytea := ''; segment_end int; bits int; byte int; distance bigint;
BEGIN
  WHILE at < get_16(page, 12) LOOP
    id := ((get_16(page, at)::bigint << 16) + get_16(page, at + 2)) * 2048 + get_16(page, at + 4);
    segment_end := at + 8 + get_16(page, at + 6);
    at := at + 8;
    LOOP
      items := items || put_16(put_16(put_16('\x000000000000', 0, (id >> 27)::int), 2, (id >> 11)::int & 65535), 4, id::int & 2047);
      count := count + 1;
      EXIT WHEN at = segment_end;
      distance := 0; bits := 0;
      LOOP
        byte := get_byte(page, at); at := at + 1;
        distance := distance + ((byte & 127)::bigint << bits); bits := bits + 7;
        EXIT WHEN byte < 128;
      END LOOP;
      id := id + distance;
    END LOOP;
    at := at + at % 2;
  END LOOP;
  IF count > 1358 THEN RETURN page; END IF;
  page := overlay(page PLACING items FROM 33);
  RETURN put_16(put_16(put_16(page, 12, 24), 8188, count), 8190, get_16(page, 8190) & ~128);
END $$;
CREATE FUNCTION old_gin(file bytea) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE result bytea := ''; page bytea; flags int;
BEGIN
  FOR block IN 0 .. length(file) / 8192 - 1 LOOP
    page := substr(file, 1 + 8192 * block, 8192);
    flags := get_16(page, 8190);
    IF flags = 131 THEN page := old_leaf(page); END IF;
    -- Neither inner pages of posting trees nor the metapage said where their contents end.
    IF flags = 1 OR flags = 8 THEN page := put_16(page, 12, 24); END IF;
    result := result || page;
  END LOOP;
  RETURN result;
END $$;
CREATE FUNCTION old_brin(file bytea) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$ SELECT put_16(file, 12, 24) $$;

CREATE FUNCTION expect_old_leaves(at_least int, at_most int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE found int;
BEGIN
  SELECT count(*) INTO found FROM generate_series(1, pg_relation_size('lists_keys') / 8192 - 1) block,
    gin_page_opaque_info(get_raw_page('lists_keys', block::int)) WHERE flags = '{data,leaf}';
  IF found NOT BETWEEN at_least AND at_most THEN RAISE EXCEPTION '% leaves are as of old', found; END IF;
END $$;

CREATE TABLE lists (id int, keys int[]) WITH (autovacuum_enabled = off);
-- Trees of one leaf, some of them left with nothing, and one of many leaves.
INSERT INTO lists SELECT i, ARRAY[1 + i % 4] FROM generate_series(1, 28000) i;
INSERT INTO lists SELECT i, ARRAY[0] FROM generate_series(28001, 68000) i;
CREATE INDEX lists_keys ON lists USING gin (keys) WITH (fastupdate = off);
DELETE FROM lists WHERE id % 13 <> 0 OR keys = '{4}'; CALL oracle.settle(); VACUUM lists;
CALL rewrite_file('lists_keys', 'old_gin'); SELECT expect_old_leaves(5, 20);
-- What each leaf gets first: a few items, many, and the loss of some, of most, of all.
INSERT INTO lists SELECT i, ARRAY[1, 4] FROM generate_series(100001, 100010) i;
INSERT INTO lists SELECT i, ARRAY[2] FROM generate_series(100011, 107000) i;
DELETE FROM lists WHERE keys = '{3}' OR id BETWEEN 36000 AND 52000 OR id % 3 = 0 OR (id > 100010 AND id % 10 <> 0); CALL oracle.settle(); VACUUM lists;
CALL rewrite_file('lists_keys', 'old_gin'); SELECT expect_old_leaves(5, 20);
INSERT INTO lists SELECT i, ARRAY[0, 1, 2, 3, 4] FROM generate_series(107001, 112000) i;
DELETE FROM lists WHERE id % 5 <> 0; CALL oracle.settle(); VACUUM lists;
SELECT expect_old_leaves(0, 0);

CREATE TABLE ranges (id int, filler text) WITH (autovacuum_enabled = off);
ALTER TABLE ranges ALTER filler SET STORAGE PLAIN;
CREATE INDEX ranges_id ON ranges USING brin (id) WITH (pages_per_range = 1);
INSERT INTO ranges SELECT i, repeat('f', 7000) FROM generate_series(1, 1000) i; VACUUM ranges;
CALL rewrite_file('ranges_id', 'old_brin');
INSERT INTO ranges SELECT i, repeat('f', 7000) FROM generate_series(1001, 1500) i; VACUUM ranges;
DROP TABLESPACE upgraded;
