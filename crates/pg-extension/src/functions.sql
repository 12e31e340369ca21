-- The library's SQL functions. The instance process runs this in each new volume.
CREATE OR REPLACE FUNCTION borealis_version() RETURNS text LANGUAGE C STABLE PARALLEL SAFE AS 'borealis', 'borealis_version';
CREATE OR REPLACE FUNCTION borealis_counters() RETURNS text LANGUAGE C VOLATILE PARALLEL SAFE AS 'borealis', 'borealis_counters';
CREATE OR REPLACE FUNCTION borealis_evict_all() RETURNS bigint LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'borealis', 'borealis_evict_all';
REVOKE EXECUTE ON FUNCTION borealis_evict_all() FROM PUBLIC;
