//! Runs the second reader. Deliberately not here: any knowledge of the format.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use mobility_format::{DiskId, Epoch, MachineId, PublicKey};
use mobility_tests::{python, requirement::Requirement};
use serde_json::Value;
use tempfile::TempDir;

/// The second reader, and the Python that has the packages it needs.
pub(crate) struct SecondReader {
    python: PathBuf,
    scratch: TempDir,
}

impl SecondReader {
    /// The test is skipped or fails where no Python can run it.
    pub(crate) fn find() -> Option<SecondReader> {
        let python = Requirement::Python.or_skip(python::with_packages_of(&script()))?;
        Some(SecondReader { python, scratch: TempDir::new().unwrap() })
    }

    /// What it says about a segment, or why it refuses it.
    pub(crate) fn segment(&self, bytes: &[u8]) -> Result<Value, String> {
        self.show("segment", bytes)
    }

    /// What it says about a manifest or a run, or why it refuses it.
    pub(crate) fn envelope(&self, bytes: &[u8]) -> Result<Value, String> {
        self.show("envelope", bytes)
    }

    fn show(&self, command: &str, bytes: &[u8]) -> Result<Value, String> {
        let file = self.scratch.path().join("object");
        std::fs::write(&file, bytes).unwrap();
        let output = self.run(Command::new(&self.python).arg(script()).arg(command).arg(&file))?;
        Ok(serde_json::from_slice(&output).unwrap())
    }

    /// The image it makes of a disk at a point, or why it refuses to.
    pub(crate) fn restore(
        &self,
        vault: &Path,
        machine: MachineId,
        disk: DiskId,
        epoch: Epoch,
        key: PublicKey,
    ) -> Result<Vec<u8>, String> {
        let image = self.scratch.path().join("image");
        let mut command = Command::new(&self.python);
        command.arg(script()).arg("restore").arg("--vault").arg(vault).arg("--output").arg(&image);
        command.args(["--machine", &machine.to_string(), "--disk", &disk.to_string()]);
        command.args(["--epoch", &epoch.to_string(), "--key", &key.to_string()]);
        self.run(&mut command)?;
        Ok(std::fs::read(&image).unwrap())
    }

    fn run(&self, command: &mut Command) -> Result<Vec<u8>, String> {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("Traceback"), "the second reader must refuse in words:\n{said}");
        if output.status.success() { Ok(output.stdout) } else { Err(said) }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("format_reader/reader.py")
}
