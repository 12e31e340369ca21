VACUUM (FREEZE) counters; VACUUM parents; VACUUM queue;
SELECT count(*) FROM keyed; SELECT count(*) FROM queue WHERE taken IS NULL;
