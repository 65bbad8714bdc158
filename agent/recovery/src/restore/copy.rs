//! Copies a disk out of target storage into an image, and reads the image back, to see that both are the same.
//!
//! The one way by which all formats and all destinations go. Deliberately not here: which disk, and where to.

use std::{
    ops::{ControlFlow, Range},
    sync::{Arc, mpsc::RecvTimeoutError},
    thread,
};

use mobility_format::{ByteCount, WINDOW_SIZE};

use super::{
    Destination, Differing, Phase, Progress, RestoreError,
    layout::{Content, Layout, OpenError},
    medium::{Medium, Settling},
    pipeline::{self, FILLERS, Filler, IDLE, Sink, Window},
    proof::{Proof, Proven},
};
use crate::{
    content::{Assembler, Layer, Sweep, WindowPlan},
    storage::{StorageError, Stores},
};

/// Asks the caller whether to go on.
pub(super) struct Reporter<'a> {
    pub(super) to: &'a Destination,
    pub(super) at: Progress,
    pub(super) ask: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
}

impl Reporter<'_> {
    fn ask(&mut self) -> Result<(), RestoreError> {
        match (self.ask)(self.at) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(RestoreError::cancelled(self.to)),
        }
    }

    fn enter(&mut self, phase: Phase) -> Result<(), RestoreError> {
        self.at = Progress { phase, done: ByteCount(0), total: self.at.total };
        self.ask()
    }

    /// All windows before `window` are done.
    fn reach(&mut self, window: u64) -> Result<(), RestoreError> {
        self.at.done = ByteCount((window * WINDOW_SIZE as u64).min(self.at.total.0));
        self.ask()
    }

    /// Runs what may take long in a thread of its own.
    pub(super) fn wait_for(&mut self, work: Settling) -> Result<(), RestoreError> {
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || tell.send(work()).ok());
        loop {
            match told.recv_timeout(IDLE) {
                Ok(done) => return done,
                Err(RecvTimeoutError::Timeout) => self.ask()?,
                Err(RecvTimeoutError::Disconnected) => {
                    let source = std::io::Error::other("the thread that does it has ended");
                    return Err(StorageError::new("finish", &self.to.path(), source).into());
                }
            }
        }
    }
}

/// What was copied.
pub(super) struct Copied {
    pub(super) written: ByteCount,
    pub(super) read: ByteCount,
    pub(super) proven: Proven,
}

struct Copying<'a, 'b> {
    layout: &'a mut dyn Layout,
    medium: &'a mut dyn Medium,
    reporter: &'a mut Reporter<'b>,
    proof: Proof,
    written: u64,
    read: u64,
}

impl Sink<WindowPlan> for Copying<'_, '_> {
    fn zeros(&mut self, windows: Range<u64>) -> Result<(), RestoreError> {
        self.proof.zeros_until(windows.end);
        self.layout.zeros(self.medium, windows.clone())?;
        self.reporter.reach(windows.end)
    }

    fn window(&mut self, window: &Window<WindowPlan>) -> Result<(), RestoreError> {
        while !self.medium.room()? {
            self.reporter.ask()?;
        }
        self.proof.window(window.digest);
        self.written += self.layout.window(self.medium, window.number, window.plan.data, &window.bytes)?;
        self.read += window.plan.pieces.iter().map(|piece| u64::from(piece.entry.length)).sum::<u64>();
        self.reporter.reach(window.number + 1)
    }

    fn idle(&mut self) -> Result<(), RestoreError> {
        self.reporter.ask()
    }
}

/// Copies the disk of `size` that `layers` make up to `medium`, until all of it is durable.
pub(super) fn copy(
    stores: &Stores,
    layers: Vec<Layer>,
    size: ByteCount,
    layout: &mut dyn Layout,
    medium: &mut dyn Medium,
    reporter: &mut Reporter<'_>,
) -> Result<Copied, RestoreError> {
    reporter.enter(Phase::Copying)?;
    let numbered = |plan: WindowPlan| (plan.window.byte_offset() / WINDOW_SIZE as u64, plan);
    let plans = Sweep::new(stores, layers, size.blocks())
        .filter(|plan| plan.as_ref().map_or(true, |plan| !plan.pieces.is_empty()))
        .map(move |plan| plan.map(numbered).map_err(RestoreError::from));
    let fillers = (0..FILLERS).map(|_| {
        let mut assembler = Assembler::new().map_err(|err| {
            StorageError::new("get working memory to decompress", &stores.target().place(""), err)
        })?;
        Ok::<_, RestoreError>(Box::new(move |plan: &WindowPlan, bytes: &mut [u8]| {
            Ok(assembler.fill(plan, bytes)?)
        }) as Filler<WindowPlan>)
    });
    let fillers = fillers.collect::<Result<Vec<_>, _>>()?;
    let mut copying = Copying { layout, medium, reporter, proof: Proof::new(size), written: 0, read: 0 };
    pipeline::run(size, plans, fillers, &mut copying)?;
    let Copying { layout, medium, reporter, proof, written, read } = copying;
    layout.finish(medium)?;
    reporter.wait_for(medium.settle())?;
    Ok(Copied { written: ByteCount(written), read: ByteCount(read), proven: proof.finish() })
}

struct Checking<'a, 'b> {
    reporter: &'a mut Reporter<'b>,
    proof: Proof,
}

impl Sink<u64> for Checking<'_, '_> {
    fn zeros(&mut self, windows: Range<u64>) -> Result<(), RestoreError> {
        self.proof.zeros_until(windows.end);
        self.reporter.reach(windows.end)
    }

    fn window(&mut self, window: &Window<u64>) -> Result<(), RestoreError> {
        self.proof.window(window.digest);
        self.reporter.reach(window.number + 1)
    }

    fn idle(&mut self) -> Result<(), RestoreError> {
        self.reporter.ask()
    }
}

/// Reads back what was written and compares it with what was copied.
pub(super) fn check(
    layout: &dyn Layout,
    medium: &dyn Medium,
    size: ByteCount,
    expected: &Proven,
    reporter: &mut Reporter<'_>,
) -> Result<(), RestoreError> {
    reporter.enter(Phase::Checking)?;
    let path = reporter.to.path();
    let differs = |differing| RestoreError::Differs { path: path.clone(), differing };
    let content = match layout.open(medium.stored()?) {
        Ok(content) => content,
        Err(OpenError::Storage(err)) => return Err(err.into()),
        Err(OpenError::Damaged(what)) => {
            return Err(differs(Differing { structure: Some(what), ..Differing::default() }));
        }
    };
    let fillers = (0..FILLERS).map(|_| {
        let content = content.clone();
        Box::new(move |window: &u64, bytes: &mut [u8]| Ok(content.fill(*window, bytes)?)) as Filler<u64>
    });
    let mut checking = Checking { reporter, proof: Proof::new(size) };
    pipeline::run(size, data_windows(content.clone()), fillers.collect(), &mut checking)?;
    let found = checking.proof.finish();
    let differing = expected.differing(&found);
    if found.root == expected.root && differing.is_none() { Ok(()) } else { Err(differs(differing)) }
}

/// The windows that may be other than zero.
fn data_windows(content: Arc<dyn Content>) -> impl Iterator<Item = Result<(u64, u64), RestoreError>> + Send {
    let (mut from, mut ended) = (0, false);
    std::iter::from_fn(move || {
        let next = if ended { None } else { content.next_data(from).transpose() };
        ended = !matches!(next, Some(Ok(_)));
        if let Some(Ok(window)) = &next {
            from = window + 1;
        }
        next.map(|window| window.map(|window| (window, window)).map_err(RestoreError::from))
    })
}
