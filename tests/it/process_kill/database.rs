//! PostgreSQL itself dies under load.

use std::sync::Arc;

use crate::support::cluster::{OwnCluster, Place};
use crate::support::load::Load;
use crate::support::shop::{Shop, ShopOptions};
use crate::support::{invariants, panics, ready};

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_killed_under_load_loses_no_payment_and_is_found_again() {
    panics::watch();
    let place = Place::new("killed-database");
    let mut cluster = OwnCluster::start(&place.0).await;
    let shop = Arc::new(Shop::on(cluster.config(), ShopOptions::default()).await);
    let product = Load::product(&shop).await;
    let load = Load::start(&shop, &product);
    for _ in 0..2 {
        load.goes_on(6).await;
        cluster.kill().await;
        ready::says_that_the_database_is_away(&shop.running).await;
        load.fails(6).await;
        assert!(cluster.try_start().await, "it starts again");
        ready::becomes_ready(&shop.running).await;
    }
    load.goes_on(6).await;
    let memory = load.stop().await;
    invariants::hold(&shop).await;
    memory.is_true(&shop).await;
    println!("{} answers, {} of them \"try again\"", memory.answers(), memory.failures());
    assert_eq!(panics::seen(), Vec::<String>::new());
    let Ok(shop) = Arc::try_unwrap(shop) else { panic!("every buyer has left") };
    shop.close().await;
}
