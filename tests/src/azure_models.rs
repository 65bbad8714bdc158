//! Microsoft's own models of what Azure's resource manager takes, to which `tests/azure_models/checker.py` holds templates.
//!
//! Deliberately not here: what is looked for, and the frame around resources, which is held to a schema (`golden/azure.rs`).

#![allow(clippy::unwrap_used, reason = "for tests, which fail by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::{python, requirement::Requirement};

/// A program that holds templates to the models, with a Python that has them.
pub struct AzureModels {
    python: PathBuf,
    scratch: TempDir,
}

/// What came of it.
#[derive(Debug, Deserialize)]
pub struct Judgement {
    /// What the models do not allow: where, and why.
    pub wrong: Vec<String>,
    /// Each kind of resource at the version that the template names, and the package and version that it was held to.
    pub held_to: BTreeMap<String, String>,
}

fn checker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("azure_models/checker.py")
}

impl AzureModels {
    /// The test is skipped or fails where the packages are lacking.
    ///
    /// # Panics
    /// Where they are a must and lacking, or there is no room for files.
    #[must_use]
    #[track_caller]
    pub fn find() -> Option<AzureModels> {
        let python = Requirement::Python.or_skip(python::with_packages_of(&checker()))?;
        Some(AzureModels { python, scratch: TempDir::new().unwrap() })
    }

    /// What they make of a template, with the values of its parameters where there are others than its own.
    ///
    /// # Panics
    /// When the program does not run.
    #[must_use]
    pub fn judge(&self, template: &Value, parameters: Option<&Value>) -> Judgement {
        let mut command = Command::new(&self.python);
        command.arg("-B").arg(checker()).arg("check");
        for (name, value) in [("template", Some(template)), ("parameters", parameters)] {
            if let Some(value) = value {
                let path = self.scratch.path().join(name);
                fs::write(&path, value.to_string()).unwrap();
                command.arg(path);
            }
        }
        let output = command.output().unwrap();
        let judgement: Judgement = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|err| panic!("{err}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(output.status.success(), judgement.wrong.is_empty(), "{output:?}");
        judgement
    }

    /// Demands that they find nothing wrong with a template.
    ///
    /// # Panics
    /// When they do.
    #[track_caller]
    pub fn allow(&self, template: &Value, parameters: Option<&Value>) {
        let judgement = self.judge(template, parameters);
        assert_eq!(judgement.wrong, Vec::<String>::new(), "{template:#}");
        let kinds = template["resources"].as_array().map_or(0, Vec::len);
        assert!(kinds > 0 && !judgement.held_to.is_empty(), "nothing was looked at: {template:#}");
    }
}
