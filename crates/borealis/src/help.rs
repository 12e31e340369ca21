//! What `--help` teaches beside the names of things: what a command is for, what happens, and how it looks.

/// Of the program itself.
pub const ALL: &str = "\
Begin with `borealis up`: it makes a cluster in one directory, starts six storage nodes in three zones and a PostgreSQL
writer, and prints the URL to connect to. `borealis status` shows how everything is, `borealis down` stops it all and keeps
the data. `borealis COMMAND --help` tells more of each.

Names: storage-1 and so on, instance-1 and so on, control, proxy; `writer` is the instance in that role.
PostgreSQL's settings: DIR/postgresql.conf, or BOREALIS_PG_<SETTING> in the environment of `up`, such as
BOREALIS_PG_SHARED_BUFFERS=1GB. PostgreSQL 15's programs: /usr/lib/postgresql/15/bin, or BOREALIS_POSTGRESQL_BIN.
Exit codes: 0 done, 1 failed, 2 misused.";

/// Of `up`.
pub const UP: &str = "\
The directory holds everything: data, logs (DIR/log), settings (DIR/postgresql.conf, DIR/pg_hba.conf), secrets. The first `up`
makes it; the next ones continue where everything was. As root, all daemons run as the user postgres.

Examples:
  borealis up                                        in the default directory, on port 5433
  borealis up --dir ~/test --port 5611               another cluster
  borealis up --ports 20000-20099                    all daemons listen there, but for the cluster endpoint
  BOREALIS_PG_SHARED_BUFFERS=1GB borealis up         with a setting of PostgreSQL, kept for the next `up`
  borealis up --foreground                           for systemd and containers: ends when everything is stopped";

/// Of `down`.
pub const DOWN: &str = "\
The writer ends first, so that it can ship what it has, then the proxy, the storage nodes and the control process. Nothing is
lost when the machine is switched off instead: `borealis up` continues in any case.";

/// Of `status`.
pub const STATUS: &str = "\
States: starting, available, catching-up (a storage node that was away), paused, stopped, failed (it keeps dying).
Writes need four of a group's six copies, an opening of the volume three; `missing` names the nodes whose copies do not count.
A node without copies is a spare: `borealis storage --help` tells more.

Examples:
  borealis status
  borealis status --json | jq .volume.quorum";

/// Of `kill`.
pub const KILL: &str = "\
For trying out what a crash does: whatever is killed comes back by itself, and nothing that was committed is lost.

Examples:
  borealis kill writer        PostgreSQL's postmaster: a new one is there in well under a second, without recovery
  borealis kill instance-1    the process that ships its log; PostgreSQL dies with it
  borealis kill storage-3     a storage node; it catches up from the others";

/// Of `stop`.
pub const STOP: &str = "\
It stays down over `borealis down` and `borealis up`, too. `borealis start NAME` starts it again.";

/// Of `start`.
pub const START: &str = "\
Examples:
  borealis start storage-2    after `borealis stop storage-2` or `borealis pause storage-2`
  borealis start writer       after `borealis stop writer`";

/// Of `pause`.
pub const PAUSE: &str = "\
A paused process answers nobody, as one on a host that hangs. Pause the writer and run `borealis failover` to see that the old
one acknowledges nothing when `borealis start` wakes it.";

/// Of `az`.
pub const ZONE: &str = "\
Zone a begins with storage-1 and storage-2, b with storage-3 and storage-4, c with storage-5 and storage-6; `borealis storage
list` shows those that were added. Without one zone everything goes on; without two, commits and new connections wait
until one is back.

Examples:
  borealis az fail b
  borealis az restore b";

/// Of `storage`.
pub const STORAGE: &str = "\
Six copies of everything, two in each zone, stand on storage nodes. Nodes beyond the first six are spares: when a node of their
zone is lost, or leaves, a copy is made on one of them while everything goes on. The writer does that, at most a few at once;
what is asked for goes on when the command is interrupted, and when the writer is replaced.

Examples:
  borealis storage add --zone b       a spare, storage-7
  borealis storage replace storage-3  its copies are made anew on storage-7
  borealis storage list";

/// Of `storage list`.
pub const STORAGE_LIST: &str = "\
Wishes: keep (nothing is wanted), replace (its copies are being made elsewhere), drain (it is being emptied, and gets none).
`borealis status` shows how the copies themselves are.";

/// Of `storage add`.
pub const STORAGE_ADD: &str = "\
It belongs to the cluster from then on: `down` stops it, `up` starts it. Copies move to it when a node of its zone is lost for
long enough, or when somebody asks: `borealis storage replace`, `borealis storage drain`.

Examples:
  borealis storage add
  borealis storage add --zone c";

/// Of `storage replace`.
pub const STORAGE_REPLACE: &str = "\
The new copies are made on other nodes of its zone, from the five that are left; if NAME has come back without its files and
there is no other, on NAME itself. If NAME was away and comes back with its copies before the new ones are whole, it keeps them.
By itself the same happens once a node has been silent for long enough: `borealis up --replace-after`. Where only three of six
copies are left, too few to write, the volume is opened anew for it: give up each of the nodes that are lost for good.

Examples:
  borealis storage replace storage-3
  borealis storage replace storage-3 --no-wait";

/// Of `storage drain`.
pub const STORAGE_DRAIN: &str = "\
Before a disk or a host is taken away. It needs another node in the same zone; `borealis storage add` makes one.

Examples:
  borealis storage drain storage-3
  borealis storage remove storage-3   when it is empty";

/// Of `storage keep`.
pub const STORAGE_KEEP: &str = "\
A copy that is whole by then has taken its place already, and stays; one that is not is given up, and NAME goes on with its own.
`borealis storage list` shows what is wanted of each node.";

/// Of `storage scrub`.
pub const STORAGE_SCRUB: &str = "\
By itself each node reads everything at rest again once a day. What is damaged costs a copy its vote at once, and it gives no
pages until it is mended from the other copies. What cannot be mended, such as log that was lost while the node was stopped,
needs `borealis storage replace`. With --wait the exit code is 0 only if everything is sound in the end.

Examples:
  borealis storage scrub --all --wait
  borealis storage scrub storage-3";

/// Of `storage remove`.
pub const STORAGE_REMOVE: &str = "\
Refused while it holds a copy, even one that is lost: `borealis storage drain NAME` moves them first.";

/// Of `retention`.
pub const RETENTION: &str = "\
Everything that was durable within this time can still be read as it was then: every version of every page, and the log itself. It
costs disk: on each copy about what is written within the time. Longer windows begin to fill from now on; with a shorter one, what
is older goes with the next compactions. The window belongs to the volume and survives restarts. At most 72h.

Examples:
  borealis retention        shows it
  borealis retention 10m
  borealis retention 0      only the newest version of each page is kept";

/// Of `log export`.
pub const LOG_EXPORT: &str = "\
Each storage node keeps a share of the log; this puts the shares together again, byte for byte as PostgreSQL wrote them, and
checks that every record is sound and names the one before it. Only storage nodes are read, one whole copy of each group that is
concerned: the cluster may be in use, and the writer may be down.

Log is kept as long as old versions are: `borealis retention` shows and sets it, `borealis status --json` says from where on it is
kept (`floor_lsn`). The first file begins with filler up to the first record that is kept. Log of earlier writers is part of
it as far as it became durable.

Examples:
  borealis log export --into /tmp/wal
  borealis log export --from 0/3000000 --to 0/5000000 --into /tmp/wal
  pg_waldump --path /tmp/wal --start 0/3000028     the LSN that `log export` prints";

/// Of `failover`.
pub const FAILOVER: &str = "\
A new instance takes the next epoch, from where the storage nodes refuse the old one. Clients of the cluster endpoint are cut off
and can connect again at once: the endpoint holds them until the new writer is there.";

/// Of `psql`.
pub const PSQL: &str = "\
Examples:
  borealis psql
  borealis psql -- -c 'SELECT version()'
  borealis psql -- -d template1";

/// Of `logs`.
pub const LOGS: &str = "\
PostgreSQL's own log is part of its instance's. The files are DIR/log/NAME.log, and NAME.log.1 to NAME.log.4, the older ones.
BOREALIS_LOG in the environment of `up` sets how much is logged: `info` (the default), `debug`, or `debug,page_store=warn`.

Examples:
  borealis logs writer
  borealis logs -f storage-1";

/// Of `version`.
pub const VERSION: &str = "\
A build refuses a directory of another format and names `pg_dump` as the way to move the data.";
