//! The archive: what is in it, that it is the same each time, and that what describes it can be read.

use std::{fs, path::Path};

use boon::{Compiler, Schemas};
use mobility_tests::{
    requirement::Requirement,
    scratch::{Scratch, compare, run, try_run},
};
use serde_json::Value;

use crate::{
    guest_agent::guest_agent,
    rig::{archive, package, repository},
};

#[test]
fn the_same_input_gives_the_same_archive() {
    let scratch = Scratch::new();
    let made = [scratch.path("a"), scratch.path("b")].map(|dir| {
        fs::create_dir(&dir).unwrap();
        // Packages are not made here: one serves both.
        archive(&dir, "1.2.3.0", "0.1.0")
    });
    let content = |path: &Path| {
        run(
            "python3",
            &[
                "-c",
                "import sys,zipfile\nfor i in zipfile.ZipFile(sys.argv[1]).infolist(): print(i.filename, oct(i.external_attr >> 16), i.date_time[0])",
                path.to_str().unwrap(),
            ],
        )
    };
    let shown = content(&made[0]);
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines[0], "HandlerManifest.json 0o100644 1980", "{shown}");
    assert!(
        lines.contains(&"bin/handler 0o100755 1980")
            && lines.contains(&"packages/mobility-agent_0.1.0_all.deb 0o100644 1980"),
        "{shown}"
    );
    assert_eq!(shown, content(&made[1]));
    // With the same package, byte for byte.
    let again = scratch.path("again.zip");
    let (handler, deb) = (
        mobility_tests::binary::program("mobility-extension"),
        scratch.path("a/mobility-agent_0.1.0_all.deb"),
    );
    let build = repository().join("packaging/vm-extension/build.sh");
    run("sh", &["-c", &format!("touch '{}'", deb.display())]);
    let arguments = [
        "--version",
        "1.2.3.0",
        "--output",
        again.to_str().unwrap(),
        "--handler",
        handler.to_str().unwrap(),
        deb.to_str().unwrap(),
    ];
    run(build.to_str().unwrap(), &arguments);
    compare(&made[0], &again).unwrap();
}

#[test]
fn what_does_not_belong_into_an_archive_is_refused() {
    let scratch = Scratch::new();
    let deb = package(scratch.dir(), "0.1.0");
    let deb = deb.to_str().unwrap();
    let build = repository().join("packaging/vm-extension/build.sh");
    let output = scratch.path("x.zip");
    let handler = mobility_tests::binary::program("mobility-extension");
    let [build, output, handler] = [&build, &output, &handler].map(|path| path.to_str().unwrap());
    let other = scratch.path("other_1_all.deb");
    fs::write(&other, "").unwrap();
    for (arguments, said) in [
        (vec!["--output", output, "--handler", handler], "build.sh"),
        (vec!["--output", output, "--handler", handler, other.to_str().unwrap()], "no package of the agent"),
        (vec!["--output", output, "--handler", "/bin/sh.not-there", deb], "No such file"),
        (vec!["--output", output, "--handler", deb, deb], "no program"),
        (vec!["--output", output, "--handler", handler, "--version", "1.0", deb], "four numbers"),
        (vec!["--output", output, "--handler", handler, deb, deb], "twice"),
    ] {
        let error = try_run(build, &arguments).unwrap_err();
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    assert!(!Path::new(output).exists());
}

#[test]
fn the_manifest_has_what_the_guest_agent_demands() {
    let text =
        fs::read_to_string(repository().join("packaging/vm-extension/package/HandlerManifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let handler = &manifest[0]["handlerManifest"];
    for name in ["install", "enable", "update", "disable", "uninstall"] {
        assert_eq!(handler[format!("{name}Command")], format!("bin/handler {name}"));
    }
    let booleans =
        ["rebootAfterInstall", "reportHeartbeat", "continueOnUpdateFailure", "supportsMultipleExtensions"];
    assert!(booleans.iter().all(|name| handler[name].is_boolean()));
    assert!(handler["reportHeartbeat"] == true && handler["updateMode"] == "UpdateWithInstall");
    // The name of the extension is what stands before the first hyphen.
    assert!(!manifest[0]["name"].as_str().unwrap().contains('-'));
}

/// Read with the parser of a browser's kind, and each thing that a publisher has to fill in is there.
#[test]
fn the_definition_for_publishing_is_xml() {
    let path = repository().join("packaging/vm-extension/package/manifest.xml");
    let script = "import sys, xml.etree.ElementTree as t\nfor e in t.parse(sys.argv[1]).getroot(): print(e.tag.split('}')[1], e.text or '')";
    let shown = run("python3", &["-c", script, path.to_str().unwrap()]);
    for line in [
        "Type MobilityAgentLinux",
        "Version @VERSION@",
        "SupportedOS Linux",
        "IsJsonExtension true",
        "HostingResources VmRole",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
}

/// By the schema that cloud-init itself holds user data to.
#[test]
fn the_example_for_cloud_init_is_what_it_should_be() {
    let path = repository().join("packaging/vm-extension/cloud-init/mobility-agent.yaml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("#cloud-config\n"));
    // The token is in a file that only root may read, and which is gone whatever comes of enrolling.
    assert!(
        text.contains("permissions: \"0600\"") && text.contains("trap 'rm -f \"$dir/token\"' EXIT"),
        "{text}"
    );
    let Some(dist) = Requirement::GuestAgent.or_skip(guest_agent()) else { return };
    let script = "import json, sys; sys.path.insert(0, sys.argv[1]); import yaml; print(json.dumps(yaml.safe_load(open(sys.argv[2]))))";
    let data: Value = serde_json::from_str(&run(
        "python3",
        &["-B", "-c", script, dist.to_str().unwrap(), path.to_str().unwrap()],
    ))
    .unwrap();
    let schema =
        fs::read_to_string(dist.join("cloudinit/config/schemas/schema-cloud-config-v1.json")).unwrap();
    let mut compiler = Compiler::new();
    compiler.add_resource("https://cloud-init/schema", serde_json::from_str(&schema).unwrap()).unwrap();
    let mut schemas = Schemas::new();
    let schema = compiler.compile("https://cloud-init/schema", &mut schemas).unwrap();
    schemas.validate(&data, schema).unwrap_or_else(|error| panic!("{error}"));
    // And the schema does say something.
    let mut wrong = data.clone();
    wrong["write_files"][0]["permissions"] = 600.into();
    assert!(schemas.validate(&wrong, schema).is_err());
    let enrol = data["write_files"][1]["content"].as_str().unwrap();
    run("sh", &["-n", "-c", enrol]);
}
