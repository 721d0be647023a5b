//! `/api/whoami`

use axum::response::Response;
use serde::Serialize;

use crate::answer;
use crate::caller::Caller;

#[derive(Serialize)]
struct User<'a> {
    name: &'a str,
    tags: [&'static str; 1],
    is_internal_user: bool,
}

/// Every user may do everything: there are no rights yet that could be kept from one.
pub(crate) async fn show(caller: Caller) -> Response {
    answer::ok(&User { name: &caller.name, tags: ["administrator"], is_internal_user: true })
}
