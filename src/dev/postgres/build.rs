//! Tells the embedded PostgreSQL where the server binaries from crates.io
//! were unpacked, and compiles the shim they need on an older glibc. Does
//! nothing without the feature `bundled-postgres`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

const SHIM: &str = "glibc_shim.c";

fn main() -> Result<(), Box<dyn Error>> {
    // Relative to this file, wherever the package puts it.
    let here = Path::new(file!()).parent().map(Path::to_owned).unwrap_or_default();
    println!("cargo::rerun-if-changed={}", here.join("build.rs").display());
    if env::var_os("CARGO_FEATURE_BUNDLED_POSTGRES").is_none() {
        return Ok(());
    }
    println!("cargo::rerun-if-changed={}", here.join(SHIM).display());
    let shim = PathBuf::from(env::var("OUT_DIR")?).join("glibc_shim.so");
    if env::var("CARGO_CFG_TARGET_OS")? == "linux" && env::var("CARGO_CFG_TARGET_ENV")? == "gnu" {
        compile(&here.join(SHIM), &shim);
    } else {
        fs::write(&shim, [])?;
    }
    match runtime() {
        Some(runtime) => announce(&runtime),
        // No such crate for this target: an installed server has to do.
        None => Ok(()),
    }
}

/// The artifact crate says by its `links` key where its manifest is.
fn runtime() -> Option<PathBuf> {
    ["LINUX_X64_GNU", "LINUX_ARM64_GNU", "MACOS_ARM64"]
        .into_iter()
        .map(|target| format!("DEP_OLIPHAUNT_ARTIFACT_LIBOLIPHAUNT_NATIVE_{target}_MANIFEST"))
        .find_map(env::var_os)
        .and_then(|manifest| Some(Path::new(&manifest).parent()?.join("payload/runtime")))
}

fn announce(runtime: &Path) -> Result<(), Box<dyn Error>> {
    let checksum = fs::read_to_string(runtime.join(".oliphaunt-postgres-runtime.sha256"))?;
    println!("cargo::rustc-env=PAYGAUGE_BUNDLED_POSTGRES={}", runtime.display());
    println!("cargo::rustc-env=PAYGAUGE_BUNDLED_POSTGRES_ID={}", checksum.trim());
    Ok(())
}

/// A machine with a recent glibc does not need the shim, so a failure is only
/// a warning here; an old one says at the start what is missing.
fn compile(source: &Path, shim: &Path) {
    let built = cc::Build::new().opt_level(2).try_get_compiler().map(|compiler| {
        compiler
            .to_command()
            .args(["-std=c99", "-fno-builtin", "-shared", "-fPIC", "-o"])
            .arg(shim)
            .arg(source)
            .arg("-lm")
            .status()
            .is_ok_and(|status| status.success())
    });
    if !matches!(built, Ok(true)) {
        println!("cargo::warning=the glibc shim of the bundled PostgreSQL was not compiled: {built:?}");
        let _written = fs::write(shim, []);
    }
}
