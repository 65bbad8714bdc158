//! A run of the agent begins: may it, and from where does it go on.
//!
//! Deliberately not here: by what it is decided (`database::sessions`).

use std::sync::Arc;

use axum::{Json, extract::State};
use jiff::Timestamp;
use mobility_format::{
    Head, MachineId, PublicKey,
    control::{Policy, SessionRequest, SessionStarted},
};

use super::{Said, caller::Caller, said};
use crate::service::{
    database::{Begun, EventKind, Newcomer, Standing, State as MachineState},
    heads,
    refusal::{Answer, Refusal},
    state::Service,
};

/// How often the head is looked for while epochs are taken in.
const TRIES: usize = 5;
/// The longest wait that is asked for at once, in seconds, so that silence is noticed soon.
const LONGEST_WAIT_S: u64 = 20;

pub(super) async fn begin(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Said(request): Said<SessionRequest>,
) -> Answer<Json<SessionStarted>> {
    let (machine, database) = (caller.machine, &service.database);
    let newcomer = Newcomer { session: request.session, boot: &request.boot, inventory: &request.inventory };
    let turn = match database.begin_session(machine, &newcomer, Timestamp::now()).await? {
        Begun::Current { turn, took_over } => {
            if took_over {
                let message = "a new boot or other hardware goes on after the one before fell silent";
                service.event(EventKind::SessionReplaced, Some(machine), message.to_owned()).await;
            }
            turn
        }
        Begun::Wait(millis) => {
            let seconds = u64::try_from(millis).unwrap_or(0).div_ceil(1000).clamp(1, LONGEST_WAIT_S);
            let message = "another boot of this machine was heard a moment ago: it may be a copy";
            return Err(Refusal::not_yet(message, seconds));
        }
        Begun::Fenced => {
            let message = "a copy of the machine asked to go on with its identity, and was refused";
            service.event(EventKind::Fenced, Some(machine), message.to_owned()).await;
            return Err(Refusal::fenced());
        }
        Begun::Held => return Err(held()),
        Begun::Moved => {
            let message = "the machine as it was before it was failed over asked to go on, and was refused";
            service.event(EventKind::Fenced, Some(machine), message.to_owned()).await;
            return Err(Refusal::fenced());
        }
    };
    let (state, head) = head(&service, machine, caller.standing.signing_key).await?;
    said(SessionStarted {
        policy: policy(&service, &caller.standing).await?,
        generation: state.generation,
        head,
        turn,
    })
}

/// Nobody may begin a session now.
pub(super) fn held() -> Refusal {
    Refusal::not_yet("the machine is being failed over: which one goes on is decided later", LONGEST_WAIT_S)
}

/// The machine's state, and its newest commit: what was taken in, and what follows it.
pub(super) async fn head(
    service: &Service,
    machine: MachineId,
    key: PublicKey,
) -> Answer<(MachineState, Option<Head>)> {
    let gone = || Refusal::not_found("machine");
    let mut state = service.database.state(machine).await?.ok_or_else(gone)?;
    for _ in 0..TRIES {
        // What follows something that was refused will not be taken in.
        if state.refused >= state.generation {
            let head = state.head.clone();
            return Ok((state, head));
        }
        let (generation, before) = (state.generation, state.head.clone());
        let head = service
            .blocking(move |stores| Ok(heads::follow(stores, machine, key, generation, before)?))
            .await?;
        let after = service.database.state(machine).await?.ok_or_else(gone)?;
        if (after.taken_in, after.generation, after.refused) == (state.taken_in, generation, state.refused) {
            return Ok((after, head));
        }
        state = after;
    }
    Err(Refusal::not_yet("what was committed is being taken in", 1))
}

/// What a machine has to follow: its policy, and rest where it alone shall.
pub(super) async fn policy(service: &Service, standing: &Standing) -> Answer<Policy> {
    let name = &standing.policy;
    let policy = service.database.policy(name).await?;
    let policy = policy.ok_or_else(|| Refusal::failing(&format!("policy '{name}' is gone")))?;
    Ok(Policy { paused: policy.paused || standing.paused, ..policy })
}
