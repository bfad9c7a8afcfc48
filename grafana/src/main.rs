//! Writes `grafana/dashboards/*.json` and `grafana/expectations.json`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::create_dir_all(root.join("dashboards"))?;
    for (path, text) in paygauge_dashboards::files() {
        std::fs::write(root.join(path), text)?;
    }
    Ok(())
}
