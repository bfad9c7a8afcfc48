//! `paygauge keys`: make, list and revoke API keys.

use clap::Subcommand;
use paygauge::crash::CrashSwitch;
use paygauge::db::Db;
use paygauge::db::connect::{self, DbConfig};
use paygauge::domain::ids::KeyId;
use paygauge::http::auth::keys::{self, Role};
use secrecy::ExposeSecret;

/// What to do with keys.
#[derive(Subcommand)]
pub enum KeysAction {
    /// Make a key and show it once.
    Create {
        /// `secret` (the shop's server) or `publishable` (the browser).
        #[arg(long)]
        role: String,
        /// What you call it.
        #[arg(long)]
        label: String,
    },
    /// List the keys; never their secret halves.
    List,
    /// Revoke a key at once (running servers follow within seconds).
    Revoke {
        /// Its id, `key_…`.
        id: String,
    },
}

/// Does it.
pub async fn run(config: DbConfig, action: KeysAction) -> anyhow::Result<()> {
    let db = Db::new(connect::pool(&config).await?, config.pool_connections_max, CrashSwitch::default());
    match action {
        KeysAction::Create { role, label } => {
            let Some(role) = Role::parse(&role) else {
                anyhow::bail!("--role can be secret or publishable, not {role:?}");
            };
            anyhow::ensure!((1..=100).contains(&label.chars().count()), "--label takes 1 to 100 characters");
            let (id, key) = keys::create(&db, role, &label).await?;
            println!("{id}\n{}\nKeep it safe: it is not shown again.", key.expose_secret());
        }
        KeysAction::List => {
            for key in keys::list(&db).await? {
                let state = key.revoked_at.map_or_else(|| "active".to_owned(), |at| format!("revoked {at}"));
                println!("{}  {:<11}  {}  {state}  {}", key.id, key.role, key.created_at, key.label);
            }
        }
        KeysAction::Revoke { id } => {
            let id: KeyId = id.parse()?;
            anyhow::ensure!(keys::revoke(&db, id).await?, "there is no active key {id}");
            println!("revoked {id}");
        }
    }
    Ok(())
}
