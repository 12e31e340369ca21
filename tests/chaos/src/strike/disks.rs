//! Faults of disks: full, read-only, slow, failing; bits that flip, files that are gone. And what mends them.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Done, Hand, POLL, SLOW_SYNC, Undo, VICTIM_LIMIT};
use crate::fault::{Fault, Files, Node, Rot};
use crate::machine::{SmallDisk, Trace, run};
use crate::rot;

const FULL: &str = "pwrite64,pwritev,pwritev2,fallocate,ftruncate:error=ENOSPC";
const READ_ONLY: &str = "pwrite64,pwritev,pwritev2,fallocate,ftruncate,rename,renameat,renameat2,unlink,unlinkat,mkdir,\
                         mkdirat:error=EROFS";
/// What fills a small disk.
const BALLAST: &str = "ballast";
/// How long a pass over what a node has at rest may take, with the mending of what it finds.
const SCRUB_LIMIT: Duration = Duration::from_secs(180);
/// How long it may take to make the copies of a node anew.
const REPLACE_LIMIT: Duration = Duration::from_secs(180);

/// How damaged copies became whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mended {
    /// What was lost came from the others.
    InPlace,
    /// The copies were made anew, on a new disk.
    Anew,
}

impl Hand<'_> {
    /// Moves a node's files to a small disk of its own.
    pub fn give_small_disk(&mut self, node: Node, bytes: u64) -> Result<()> {
        let name = node.to_string();
        self.must(&["stop", &name])?;
        let folder = self.folder(node);
        let aside = folder.with_extension("aside");
        fs::rename(&folder, &aside)?;
        fs::create_dir(&folder)?;
        let disk = SmallDisk::mount(&folder, bytes)?;
        // Owner and mode as before, too.
        let copied = [&aside, &folder].map(|path| format!("{}/.", path.display()));
        run("cp", &["-a", &copied[0], &copied[1]])?;
        fs::remove_dir_all(&aside)?;
        self.small = Some((node, disk));
        self.must(&["start", &name])?;
        Ok(())
    }

    /// Takes the small disk away again; its files go to the disk of the others, for whoever looks at them later. Nothing of
    /// the cluster may run.
    pub fn take_small_disk(&mut self) -> Result<()> {
        let Some((_, disk)) = self.small.take() else {
            return Ok(());
        };
        let folder = disk.folder().to_owned();
        let aside = folder.with_extension("aside");
        run("cp", &["-a", &folder.to_string_lossy(), &aside.to_string_lossy()])?;
        drop(disk);
        fs::remove_dir(&folder)?;
        fs::rename(&aside, &folder)?;
        Ok(())
    }

    fn folder(&self, node: Node) -> PathBuf {
        self.cluster.directory().join("storage").join(node.to_string())
    }

    /// Has everything damaged mended while the load goes on, and tells how, and how long it took. What a pass over everything at
    /// rest cannot have mended is made anew: a copy whose log was lost while its node was down, or that lost everything.
    pub fn mend(&mut self) -> Result<Vec<(Node, Mended, Duration)>> {
        let mut mended = Vec::new();
        while let Some((node, files)) = self.rotten.first_key_value().map(|(node, files)| (*node, *files)) {
            let started = Instant::now();
            let how = if files != Files::All && self.scrub(node, files)? {
                Mended::InPlace
            } else {
                self.replace(node)?;
                Mended::Anew
            };
            self.rotten.remove(&node);
            let now = self.book.now();
            for strike in &mut self.strikes {
                if matches!(strike.fault, Fault::BitFlipped(of, _) if of == node) {
                    strike.ended.get_or_insert(now);
                }
            }
            mended.push((node, how, started.elapsed()));
        }
        Ok(mended)
    }

    /// Whether a pass leaves everything sound. If only a layer was hit, it has to.
    fn scrub(&self, node: Node, files: Files) -> Result<bool> {
        let started = Instant::now();
        loop {
            match self.order_within(&["storage", "scrub", &node.to_string(), "--wait"], SCRUB_LIMIT) {
                Ok(_) => return Ok(true),
                Err(said) if said.contains("no vote until") && files == Files::Journal => return Ok(false),
                Err(said) if SCRUB_LIMIT < started.elapsed() => bail!("{node} is not mended: {said}"),
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    fn replace(&mut self, node: Node) -> Result<()> {
        let name = node.to_string();
        self.must(&["stop", &name])?;
        // A new disk, and no small one: nobody moves a copy to a disk that is almost full.
        self.small.take_if(|(small, _)| *small == node);
        self.wipe(node)?;
        self.must(&["start", &name])?;
        self.must_within(&["storage", "replace", &name], REPLACE_LIMIT)
    }

    /// Removes all files of a node that is stopped.
    fn wipe(&self, node: Node) -> Result<()> {
        let folder = self.folder(node);
        let above = fs::metadata(folder.parent().context("a node's folder is in another one")?)?;
        match fs::remove_dir_all(&folder) {
            // A disk of its own is mounted there: it stays, empty.
            Err(error) if error.kind() == ErrorKind::ResourceBusy => return Ok(()),
            removed => removed?,
        }
        fs::create_dir(&folder)?;
        Ok(chown(&folder, Some(above.uid()), Some(above.gid()))?)
    }

    pub(super) fn fill(&mut self, number: usize, node: Node) -> Result<Done> {
        let Some((_, disk)) = self.small.as_ref().filter(|(small, _)| *small == node) else {
            return self.trace(number, node, FULL);
        };
        let path = disk.folder().join(BALLAST);
        self.undo.insert(number, Undo::RemoveBallast(path.clone()));
        let mut ballast = fs::File::create(&path)?;
        let mut bytes = 0;
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![0x5A; size];
            loop {
                match ballast.write(&block) {
                    Ok(0) => break,
                    Ok(written) => bytes += written as u64,
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("fill a small disk"),
                }
            }
        }
        Ok(Done::So(format!("{} MiB of ballast on its small disk", bytes >> 20)))
    }

    pub(super) fn make_read_only(&mut self, number: usize, node: Node) -> Result<Done> {
        if number.is_multiple_of(2) && self.machine.traces.is_ok() {
            return self.trace(number, node, READ_ONLY);
        }
        let mut modes = Vec::new();
        let taken = take_write_rights(&self.folder(node), &mut modes);
        self.undo.insert(number, Undo::Modes(modes, node));
        taken?;
        self.try_order(&["kill", &node.to_string()]);
        Ok(Done::So("it starts on files that it may not change".to_owned()))
    }

    pub(super) fn trace(&mut self, number: usize, node: Node, injection: &str) -> Result<Done> {
        if let Err(why) = &self.machine.traces {
            return Ok(Done::Missed(format!("NOT POSSIBLE ON THIS MACHINE: {why}")));
        }
        let started = Instant::now();
        let stops_before = (injection != SLOW_SYNC).then(|| self.stops_count(node));
        loop {
            let pid = self.pid_of(&node.to_string());
            let tried = pid.context("it does not run").and_then(|pid| {
                let pid = u32::try_from(pid.as_raw_nonzero().get()).context("pids are positive")?;
                Trace::start(pid, injection)
            });
            match tried {
                Ok(trace) => {
                    self.undo.insert(number, Undo::Trace(trace, node, stops_before));
                    let error = injection.split(':').nth(1).unwrap_or_default();
                    return Ok(Done::So(format!("strace {error}")));
                }
                Err(error) if VICTIM_LIMIT < started.elapsed() => return Ok(Done::Missed(format!("{error:#}"))),
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }

    pub(super) fn flip(&mut self, node: Node, rot: &Rot) -> Result<Done> {
        let name = node.to_string();
        let while_down = rot.while_down || rot.files == Files::All;
        if while_down {
            self.must(&["stop", &name])?;
        }
        let flipped = match rot.files {
            Files::All => self.wipe(node).map(|()| Some("all of its files are gone".to_owned())),
            Files::Journal | Files::Layer => rot::flip(&self.folder(node), rot),
        };
        if while_down {
            self.must(&["start", &name])?;
        } else if rot.place.is_multiple_of(2) {
            // What it has read already it reads again only at its next start, or when it scrubs.
            self.try_order(&["kill", &name]);
        }
        let Some(what) = flipped? else {
            return Ok(Done::Missed("it has no such file yet".to_owned()));
        };
        self.rotten.insert(node, rot.files);
        Ok(Done::So(what))
    }

    /// How often a node's log tells that its journal took nothing more.
    pub(super) fn stops_count(&self, node: Node) -> usize {
        let log = self.cluster.log(&node.to_string()).unwrap_or_default();
        log.lines().filter(|line| line.contains("journal.stop")).count()
    }
}

/// Takes the right to write from everybody, remembering the modes. A folder comes before what is in it.
fn take_write_rights(path: &Path, modes: &mut Vec<(PathBuf, u32)>) -> Result<()> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        // Gone since its folder was listed.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mode = found.permissions().mode();
    modes.push((path.to_owned(), mode));
    match fs::set_permissions(path, fs::Permissions::from_mode(mode & !0o222)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        changed => changed?,
    }
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            take_write_rights(&entry?.path(), modes)?;
        }
    }
    Ok(())
}
