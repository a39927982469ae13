//! Which scripts there may be, in the order they run. Pure.

/// What a ladder is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ladder {
    /// `bin/init/…/init.sh`: once per clone that the agent made.
    Init,
    /// `bin/work/…/work.sh`: each action.
    Work,
}

/// The rungs for a machine of this part and stack, most general first. `stacktype/` is another
/// spelling of `stack/`.
pub fn rungs(ladder: Ladder, part: Option<&str>, stack: Option<&str>) -> Vec<String> {
    let (folder, file) = match ladder {
        Ladder::Init => ("bin/init", "init.sh"),
        Ladder::Work => ("bin/work", "work.sh"),
    };
    let mut rungs = vec![format!("{folder}/common/{file}")];
    if let Some(part) = part {
        rungs.push(format!("{folder}/part/{part}/{file}"));
    }
    if let Some(stack) = stack {
        let spelled = |tail: &str| {
            ["stack", "stacktype"].map(|word| format!("{folder}/{word}/{stack}/{tail}{file}"))
        };
        rungs.extend(spelled(""));
        if let Some(part) = part {
            rungs.extend(spelled(&format!("part/{part}/")));
        }
    }
    rungs
}

/// What runs when no rung exists: the script at the top.
pub fn fallback(ladder: Ladder) -> &'static str {
    match ladder {
        Ladder::Init => "init.sh",
        Ladder::Work => "work.sh",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_goes_from_common_to_the_part_of_the_stack() {
        assert_eq!(rungs(Ladder::Init, None, None), ["bin/init/common/init.sh"]);
        assert_eq!(
            rungs(Ladder::Work, Some("web"), Some("shop")),
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
