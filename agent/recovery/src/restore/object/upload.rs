//! Sends an object's parts, several at once, beside who fills them.
//!
//! Memory: the parts under way, [`UNDER_WAY`] or one of them, the one being filled, and a few windows. Deliberately not here: what is in
//! them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use object_store::WriteMultipart;
use tokio::{
    runtime::Handle,
    select,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::super::pipeline::IDLE;
use crate::{Remote, storage::StorageError};

/// How much is under way at once, where a part is not longer than that.
const UNDER_WAY: usize = 64 << 20;
/// How many parts are.
const AT_ONCE: usize = 8;
/// Windows that wait to become parts.
const WAITING: usize = 4;
/// How long to wait until what is stopped has ended.
const END: Duration = Duration::from_secs(10);

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// What an object goes on with.
pub(super) enum Step {
    /// So many zeros.
    Zeros(u64),
    /// These bytes.
    Bytes(Vec<u8>),
}

enum Message {
    Steps(Vec<Step>),
    End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    UnderWay,
    /// The object is there.
    Whole,
    /// It is not, and nothing of it.
    Over,
}

/// An object that is being sent. It goes again when this is dropped before its end.
pub(super) struct Upload {
    runtime: Handle,
    messages: mpsc::Sender<Message>,
    stage: watch::Receiver<Stage>,
    failure: Arc<Mutex<Option<StorageError>>>,
    /// Whether it is to go on.
    go_on: Option<oneshot::Sender<()>>,
}

impl Upload {
    /// Begins with an object in parts that are so long.
    pub(super) fn begin(remote: &Remote, key: &str, part: usize) -> Result<Upload, StorageError> {
        let writer = remote.begin_parts(key, part)?;
        let (messages, taken) = mpsc::channel(WAITING);
        let (tell, stage) = watch::channel(Stage::UnderWay);
        let (go_on, stopped) = oneshot::channel();
        let failure = Arc::new(Mutex::new(None));
        let (told, remote, key) = (failure.clone(), remote.clone(), key.to_owned());
        let runtime = remote.runtime().clone();
        runtime.spawn(async move {
            let at_once = (UNDER_WAY / part).clamp(1, AT_ONCE);
            let ended = send(writer, taken, stopped, at_once).await;
            let stage = match ended {
                Ok(stage) => stage,
                Err(err) => {
                    *told.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(remote.failed("put", &key, &err));
                    Stage::Over
                }
            };
            tell.send_replace(stage);
        });
        Ok(Upload { runtime, messages, stage, failure, go_on: Some(go_on) })
    }

    /// Waits a moment for room, and takes the steps if there is some. What has failed meanwhile is told here.
    pub(super) fn add(&self, steps: &mut Vec<Step>) -> Result<bool, StorageError> {
        let reserve = async { timeout(IDLE, self.messages.reserve()).await };
        match self.runtime.block_on(reserve) {
            Err(_) => Ok(false),
            Ok(Ok(place)) => {
                place.send(Message::Steps(std::mem::take(steps)));
                Ok(true)
            }
            Ok(Err(_)) => Err(failed(&self.failure)),
        }
    }

    /// What waits until the object is there, which ends with these steps.
    pub(super) fn end(&self, steps: Vec<Step>) -> impl FnOnce() -> Result<(), StorageError> + Send + 'static {
        let (runtime, messages, failure) =
            (self.runtime.clone(), self.messages.clone(), self.failure.clone());
        let mut stage = self.stage.clone();
        move || {
            let whole = runtime.block_on(async {
                for message in [Message::Steps(steps), Message::End] {
                    // Where nobody listens any more the stage says why.
                    messages.send(message).await.ok();
                }
                stage
                    .wait_for(|stage| *stage != Stage::UnderWay)
                    .await
                    .is_ok_and(|stage| *stage == Stage::Whole)
            });
            if whole { Ok(()) } else { Err(failed(&failure)) }
        }
    }

    /// Sends nothing more, and waits a moment until that is so; whether the object is there all the same.
    pub(super) fn stop(&mut self) -> bool {
        self.go_on = None;
        let ended = self.stage.wait_for(|stage| *stage != Stage::UnderWay);
        let ended =
            self.runtime.block_on(async { timeout(END, ended).await.map(|ended| ended.map(|stage| *stage)) });
        matches!(ended, Ok(Ok(Stage::Whole)))
    }
}

fn failed(failure: &Mutex<Option<StorageError>>) -> StorageError {
    let failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure.unwrap_or_else(|| {
        let source = std::io::Error::other("what sends it has ended");
        StorageError { action: "put", path: "the object".into(), source }
    })
}

/// Sends all parts, and makes an object of them.
async fn send(
    mut writer: WriteMultipart,
    mut taken: mpsc::Receiver<Message>,
    stopped: oneshot::Receiver<()>,
    at_once: usize,
) -> object_store::Result<Stage> {
    let filled = select! {
        filled = fill(&mut writer, &mut taken, at_once) => filled,
        _ = stopped => Ok(false),
    };
    match filled {
        Ok(true) => writer.finish().await.map(|_| Stage::Whole),
        Ok(false) => writer.abort().await.map(|()| Stage::Over),
        Err(err) => {
            // It is for the store to forget it then.
            writer.abort().await.ok();
            Err(err)
        }
    }
}

/// Fills the parts until the end; whether there was one.
async fn fill(
    writer: &mut WriteMultipart,
    taken: &mut mpsc::Receiver<Message>,
    at_once: usize,
) -> object_store::Result<bool> {
    while let Some(message) = taken.recv().await {
        let Message::Steps(steps) = message else { return Ok(true) };
        for step in steps {
            match step {
                Step::Bytes(bytes) => {
                    writer.wait_for_capacity(at_once).await?;
                    writer.write(&bytes);
                }
                Step::Zeros(mut left) => {
                    while left > 0 {
                        let now = left.min(ZEROS.len() as u64);
                        writer.wait_for_capacity(at_once).await?;
                        writer.write(&ZEROS[..now as usize]);
                        left -= now;
                    }
                }
            }
        }
    }
    Ok(false)
}
