//! The disk of the database is full or read-only: a small memory file system that a test fills and remounts.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::support::cluster::{OwnCluster, Place};
use crate::support::load::{HANGS, Load};
use crate::support::shop::{Shop, ShopOptions, invariants_client};
use crate::support::{eventually, invariants, panics, programs, ready};

/// What the whole disk holds: a fresh cluster takes two thirds of it.
const SIZE: &str = "size=150m";

/// A small disk, unmounted at the end.
struct Disk {
    mount: PathBuf,
    umount: PathBuf,
    at: Place,
}

impl Disk {
    /// Mounts one; `None`, told at the end of the run, where that is not allowed. With `CI=true` a failure.
    fn mount() -> Option<Self> {
        let (mount, umount) = (programs::wanted("mount")?, programs::wanted("umount")?);
        let at = Place::new("disk");
        let done = Command::new(&mount).args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(&at.0).output().expect("mount");
        if !done.status.success() {
            programs::do_without("the right to mount a tmpfs (root)");
            return None;
        }
        Some(Self { mount, umount, at })
    }

    fn path(&self) -> &Path {
        &self.at.0
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        let file = OpenOptions::new().create(true).append(true).open(self.ballast()).expect("a file");
        for size in [1 << 20, 1 << 12] {
            let block = vec![7; size];
            while (&file).write_all(&block).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast");
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    fn remount(&self, how: &str) {
        let done = Command::new(&self.mount).args(["-o", how]).arg(self.path()).output().expect("mount");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let done = Command::new(&self.umount).arg("--lazy").arg(self.path()).output();
        if !done.is_ok_and(|done| done.status.success()) {
            eprintln!("{} stays mounted", self.path().display());
        }
    }
}

async fn the_books_agree(load: Load, shop: Arc<Shop>) {
    load.goes_on(4).await;
    let memory = load.stop().await;
    invariants::hold(&shop).await;
    memory.is_true(&shop).await;
    println!("{} answers, {} of them \"try again\"", memory.answers(), memory.failures());
    assert_eq!(panics::seen(), Vec::<String>::new());
    let Ok(shop) = Arc::try_unwrap(shop) else { panic!("every buyer has left") };
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_a_plain_503_and_no_payment_is_lost_or_half_written() {
    let Some(disk) = Disk::mount() else { return };
    panics::watch();
    let mut cluster = OwnCluster::start(disk.path()).await;
    let shop = Arc::new(Shop::on(cluster.config(), ShopOptions::default()).await);
    let product = Load::product(&shop).await;
    let load = Load::start(&shop, &product);
    load.goes_on(6).await;

    // First no table can grow. Who has space in the pages at hand goes on, everybody else is told to try again.
    disk.fill();
    load.fails(10).await;
    disk.free();
    load.goes_on(4).await;

    // Then the write-ahead log has no room either: PostgreSQL panics, and cannot come back.
    disk.fill();
    let client = invariants_client(&shop.database).await;
    eventually("the log has no room", HANGS, async || {
        client.batch_execute("select pg_switch_wal(); update stock set available = available").await.err()
    })
    .await;
    load.fails(10).await;
    disk.free();
    cluster.restart_if_dead().await;
    ready::becomes_ready(&shop.running).await;
    the_books_agree(load, shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_a_plain_503_and_no_payment_is_lost_or_half_written() {
    let Some(disk) = Disk::mount() else { return };
    panics::watch();
    let mut cluster = OwnCluster::start(disk.path()).await;
    let shop = Arc::new(Shop::on(cluster.config(), ShopOptions::default()).await);
    let product = Load::product(&shop).await;
    let load = Load::start(&shop, &product);
    load.goes_on(6).await;

    // The server is there and takes no changes, as a standby after a switch of roles.
    let client = invariants_client(&shop.database).await;
    let to = |state: &str| {
        format!(
            "alter database paygauge set default_transaction_read_only = {state}; set default_transaction_read_only = off;
             select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()"
        )
    };
    client.batch_execute(&to("on")).await.expect("SQL");
    load.fails(10).await;
    client.batch_execute(&to("off")).await.expect("SQL");
    load.goes_on(4).await;

    // The file system went read-only under it, and it died of that.
    cluster.kill().await;
    eventually("nobody writes any more", HANGS, async || {
        let done = Command::new(&disk.mount).args(["-o", "remount,ro"]).arg(disk.path()).output().expect("mount");
        done.status.success().then_some(())
    })
    .await;
    assert!(!cluster.try_start().await, "it cannot start on a read-only disk");
    ready::says_that_the_database_is_away(&shop.running).await;
    load.fails(6).await;
    disk.remount("remount,rw");
    cluster.restart_if_dead().await;
    ready::becomes_ready(&shop.running).await;
    the_books_agree(load, shop).await;
}
