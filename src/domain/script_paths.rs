//! The paths of the scripts that may run, in the order they run. Pure.

/// The set of scripts: for a new clone, or for each action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptKind {
    /// `bin/init/…/init.sh`: once per clone that the agent made.
    Init,
    /// `bin/work/…/work.sh`: each action.
    Work,
    /// `bin/health/…/health.sh`: after the scripts of each action.
    Health,
}

/// The script paths for a machine of this part and stack, most general first. `stacktype/` is another
/// spelling of `stack/`.
pub fn candidates(script_kind: ScriptKind, part: Option<&str>, stack: Option<&str>) -> Vec<String> {
    let (dir, file) = match script_kind {
        ScriptKind::Init => ("bin/init", "init.sh"),
        ScriptKind::Work => ("bin/work", "work.sh"),
        ScriptKind::Health => ("bin/health", "health.sh"),
    };
    let mut candidates = vec![format!("{dir}/common/{file}")];
    if let Some(part) = part {
        candidates.push(format!("{dir}/part/{part}/{file}"));
    }
    if let Some(stack) = stack {
        let spelled = |tail: &str| {
            ["stack", "stacktype"].map(|word| format!("{dir}/{word}/{stack}/{tail}{file}"))
        };
        candidates.extend(spelled(""));
        if let Some(part) = part {
            candidates.extend(spelled(&format!("part/{part}/")));
        }
    }
    candidates
}

/// The script at the top of the repository, which runs when none of these paths exists; `None`: there is none of
/// this kind.
pub fn fallback(script_kind: ScriptKind) -> Option<&'static str> {
    match script_kind {
        ScriptKind::Init => Some("init.sh"),
        ScriptKind::Work => Some("work.sh"),
        ScriptKind::Health => None,
    }
}

/// The sentence for a machine of this part and stack for which a repository has no work script.
pub fn nothing_to_run(part: Option<&str>, stack: Option<&str>) -> String {
    let candidates = candidates(ScriptKind::Work, part, stack);
    let last = fallback(ScriptKind::Work).unwrap_or_default();
    format!("no script for this machine: looked for {} and {last}", candidates.join(", "))
}

#[cfg(test)]
mod tests {
    use crate::domain::script_paths::*;

    #[test]
    fn the_ladder_goes_from_common_to_the_part_of_the_stack() {
        assert_eq!(candidates(ScriptKind::Init, None, None), ["bin/init/common/init.sh"]);
        assert_eq!(
            candidates(ScriptKind::Work, Some("web"), Some("shop")),
            [
                "bin/work/common/work.sh",
                "bin/work/part/web/work.sh",
                "bin/work/stack/shop/work.sh",
                "bin/work/stacktype/shop/work.sh",
                "bin/work/stack/shop/part/web/work.sh",
                "bin/work/stacktype/shop/part/web/work.sh",
            ]
        );
    }
}
