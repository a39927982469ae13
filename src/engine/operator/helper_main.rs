//! The main function of a helper: it runs as another user, carries out one request of root and prints the
//! results. Does not know how the helper was started.

use anyhow::{Result, bail};

use crate::engine::context::Context;
use crate::engine::operator::{self, check};
use crate::engine::run::scripts;
use crate::engine::tick;
use crate::engine::tick::user_helper::{HelperRequest, print_reply};

/// Carries out root's request and prints each result as a JSON line as soon as it is known.
///
/// # Errors
/// When the request is not for this function.
pub fn run(context: &Context, helper_request: &HelperRequest) -> Result<()> {
    match helper_request {
        HelperRequest::Look(options) => {
            tick::helper_request(context, options.as_ref(), &scripts::emit, &print_reply)
        }
        HelperRequest::Check(scope) => check::helper_request(context, *scope, &print_reply),
        HelperRequest::History => {
            operator::histories(context, &[])?.iter().for_each(print_reply);
            Ok(())
        }
        HelperRequest::Command => bail!("no request to carry out"),
    }
}
