# Sourced by the scripts beside it: what pg_waldump says of records, without their descriptions:
# manager/operation, bytes, transaction, start, previous, blocks.
names() {
    sed -E 's/^rmgr: +([A-Za-z0-9]+) +len \(rec\/tot\): +[0-9]+\/ *([0-9]+), tx: +([0-9]+), lsn: ([^,]+), prev ([^,]+), desc: ([^ ]+)(.*)$/\1\/\6 \2 \3 \4 \5\7/' \
        | awk '{
            line = $1 " " $2 " " $3 " " $4 " " $5
            for (i = 6; i <= NF; i++)
                if ($i == "blkref") {
                    key = $(i + 3)
                    i += 4
                    if ($i == "fork") { key = key "_" $(i + 1); i += 2 }
                    line = line " " key ":" $(i + 1)
                }
            gsub(",", "", line)
            print line
        }'
}
