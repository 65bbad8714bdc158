//! What administrators ask of failovers and plan runs alike: which one, and that something becomes of it.
//!
//! Deliberately not here: beginning and listing them (`failovers`, `plan_runs`).

use mobility_format::control::ErrorCode;

use crate::service::{
    database::Kept,
    refusal::{Answer, Refusal},
    state::Service,
    stepwise::Stepwise,
};

/// The one of that id.
pub(super) async fn find<T: Stepwise>(service: &Service, id: &str) -> Answer<Kept<T>> {
    service.database.record(id).await?.ok_or_else(|| Refusal::not_found(T::WHAT))
}

/// Asks something of the one of that id, if it can be done now.
pub(super) async fn ask<T: Stepwise>(service: &Service, id: &str, action: &T::Action) -> Answer<()> {
    let kept = find::<T>(service, id).await?;
    kept.record.may(action).map_err(|err| Refusal::new(ErrorCode::Conflict, err.to_string()))?;
    match service.database.ask_record::<T>(id, action).await? {
        true => Ok(()),
        false => {
            Err(Refusal::new(ErrorCode::Conflict, "something else was asked of it a moment ago: look again"))
        }
    }
}
