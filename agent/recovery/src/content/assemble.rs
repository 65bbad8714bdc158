//! Reads a planned window's extents and lays them over one another.
//!
//! Deliberately not here: threads, and where the content goes.

use std::io;

use mobility_format::{BLOCK_SIZE, WINDOW_SIZE, segment::ExtentDecoder};

use super::{ContentError, WindowPlan};

/// Fills windows. Keeps its working memory between calls, so keep one per thread.
pub(crate) struct Assembler {
    decoder: ExtentDecoder,
    stored: Vec<u8>,
}

impl Assembler {
    /// # Errors
    /// When zstd cannot get its working memory.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Assembler { decoder: ExtentDecoder::new()?, stored: Vec::new() })
    }

    /// Fills `window`, which is [`WINDOW_SIZE`] long, with the content that `plan` says. Each extent is read once and
    /// compared with its digest.
    pub(crate) fn fill(&mut self, plan: &WindowPlan, window: &mut [u8]) -> Result<(), ContentError> {
        debug_assert_eq!(window.len(), WINDOW_SIZE);
        // A piece may spill over blocks that a newer one owns: those come later and lay themselves over it.
        for piece in &plan.pieces {
            let start = (piece.entry.start.0 - plan.window.0) as usize * BLOCK_SIZE;
            let plain = &mut window[start..start + piece.entry.count as usize * BLOCK_SIZE];
            let reader = &piece.segment.reader;
            let read = reader.read_extent(&piece.entry, &mut self.decoder, &mut self.stored, plain);
            read.map_err(|err| piece.segment.failed(err))?;
        }
        for (start, count) in (super::Mask::FULL - plan.data).runs() {
            window[start as usize * BLOCK_SIZE..(start + count) as usize * BLOCK_SIZE].fill(0);
        }
        Ok(())
    }
}
