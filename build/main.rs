//! What is made once, when the program is built: the manual page of the configuration, and the commit.

mod agent_toml;
mod commit;

use std::error::Error;
use std::path::Path;
use std::{env, fs};

const CONFIGURATION: &str = "docs/configuration.md";

#[expect(
    clippy::disallowed_methods,
    reason = "a build script asks cargo by the environment, and writes for the build alone"
)]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed={CONFIGURATION}");
    let source = format!("agent {}", env::var("CARGO_PKG_VERSION")?);
    let page = agent_toml::page(&fs::read_to_string(CONFIGURATION)?, &source)
        .map_err(|error| format!("{CONFIGURATION}: {error}"))?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("agent.toml.5"), page)?;
    commit::main();
    Ok(())
}
