//! Time zones as the system has them: `TZ`, `/etc/localtime`, and the compiled files of zoneinfo.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use jiff::tz::TimeZone;

use crate::domain::repository::window::is_zone_name;
use crate::domain::text::EscapeControls;
use crate::system::{files, host};

/// Where systems keep their zones (tzset(3); the others are those of other C libraries).
const PLACES: [&str; 3] = ["/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/etc/zoneinfo"];
/// The system's own zone (localtime(5)).
const LOCAL: &str = "/etc/localtime";
/// The largest zone file that is read, in bytes; those of the whole world have at most 4 KiB.
const CAP: u64 = 64 * 1024;

/// The zones that one tick has read: each is read once, however many repositories use it, and anew by the next tick.
#[derive(Debug, Default)]
pub struct TimeZones(Mutex<BTreeMap<Option<String>, TimeZone>>);

impl TimeZones {
    /// The zone `name`, such as `Europe/Berlin`; `None`: the system's.
    ///
    /// # Errors
    /// When there is none of this name, or its file cannot be read.
    pub fn get(&self, name: Option<&String>) -> Result<TimeZone> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zone) = known.get(&name.cloned()) {
            return Ok(zone.clone());
        }
        let zone = match name {
            Some(name) => named(name).context("window_zone")?,
            None => system().context("window")?,
        };
        known.insert(name.cloned(), zone.clone());
        Ok(zone)
    }
}

/// The system's time zone: `TZ` where it is set, else `/etc/localtime`, else UTC.
fn system() -> Result<TimeZone> {
    match host::time_zone().filter(|text| !text.is_empty()) {
        Some(text) => {
            let name = text.strip_prefix(':').unwrap_or(&text);
            if Path::new(name).is_absolute() {
                return read(Path::new(name))?.with_context(|| {
                    format!("TZ names {}, which is not there", name.escape_controls())
                });
            }
            named(name).or_else(|error| TimeZone::posix(name).map_err(|_| error))
        }
        None => Ok(read(Path::new(LOCAL))?.unwrap_or(TimeZone::UTC)),
    }
}

/// The zone `name`, such as `Europe/Berlin`.
fn named(name: &str) -> Result<TimeZone> {
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    // The name becomes a part of a path.
    let paths =
        PLACES.iter().filter(|_| is_zone_name(name)).map(|place| Path::new(place).join(name));
    for path in paths.collect::<Vec<PathBuf>>() {
        if let Some(zone) = read(&path)? {
            return Ok(zone);
        }
    }
    bail!(
        "there is no time zone \"{}\" in {}\nhint: timedatectl list-timezones shows all; without the package tzdata \
         there is only UTC",
        name.escape_controls(),
        PLACES.join(", ")
    )
}

fn read(path: &Path) -> Result<Option<TimeZone>> {
    // Distributions make these files, and /etc/localtime, symbolic links; both are the administrator's.
    let Ok(real) = path.canonicalize() else { return Ok(None) };
    let Some(bytes) = files::read_small(&real, CAP)? else { return Ok(None) };
    let name = path.display().to_string();
    let zone = TimeZone::tzif(&name, &bytes);
    zone.map(Some).with_context(|| format!("{name} is no time zone file; see tzfile(5)"))
}
