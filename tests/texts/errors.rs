//! How an error is printed, recorded and put into a line: its sentences, causes and hints.

use anyhow::anyhow;
use pmpy::domain::report::error_report::{ErrorReport, join_reasons};
use pmpy::exit::{self, UsageError};

use crate::{Sheet, plain};

#[test]
fn an_error_is_printed_with_its_causes_and_hints() {
    let mut sheet = Sheet::default();
    let causes = anyhow!("no key\nhint: set key_file").context("git.example.org denied access");
    for (title, error) in [
        ("a sentence", anyhow!("there is no tick to wait for")),
        ("a hint", anyhow!("site is held by ann: release day\nhint: agent unhold site")),
        ("causes", causes.context("site: cannot be cloned\nhint: agent check")),
        ("several lines", anyhow!("two things are wrong\nthe first\nthe second\nhint: mend both")),
        ("usage", UsageError("\"tikc\" is no command\nhint: agent tick".into()).into()),
    ] {
        let report = ErrorReport::of_causes(error.chain());
        sheet.add(&format!("{title}: printed"), &plain(&exit::sentence(&error)));
        sheet.add(&format!("{title}: in a line"), &report.to_line());
        sheet.add(&format!("{title}: recorded"), &report.to_reason());
    }
    let reasons = ["a: no answer\nhint: is it up".into(), "b: denied\nhint: set key_file".into()];
    sheet.add("of two remotes", &join_reasons(&reasons));
    sheet.same("errors");
}
