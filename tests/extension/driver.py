#!/usr/bin/env python3
"""Has the code of Azure's guest agent install, enable, update and uninstall the extension, and prints what it makes of it.

Every line that is printed is a JSON object: the step, what failed in it, and what the guest agent's own parsers read of status and
heartbeat. Deliberately not here: what has to be in there, which the test knows, and the wire protocol to the platform.

    driver.py PLAN        a JSON file: where the guest agent is, two archives, settings, certificate
"""

import json
import os
import sys
import zipfile

plan = json.load(open(sys.argv[1]))
sys.path.insert(0, plan["guest_agent"])

import azurelinuxagent.common.conf as conf  # noqa: E402
import azurelinuxagent.common.logger as logger  # noqa: E402
from azurelinuxagent.common.protocol.restapi import Extension, ExtensionSettings  # noqa: E402
from azurelinuxagent.ga.exthandlers import ExtHandlerInstance, ExtHandlersHandler  # noqa: E402

NAME = "MobilityAgent.MobilityAgentLinux"

with open(plan["configuration"], "w") as file:
    file.write(f"Lib.Dir={plan['lib']}\nExtension.LogDir={plan['log']}\n")
conf.load_conf_from_file(plan["configuration"])
logger.add_logger_appender(logger.AppenderType.FILE, logger.LogLevel.INFO, path=plan["own_log"])


class Protocol:
    """Stands in for the protocol to the platform."""

    def get_endpoint(self):
        return "127.0.0.1"


def handler(version, sequence):
    extension = Extension(name=NAME)
    extension.version, extension.state = version, "enabled"
    settings = ExtensionSettings(
        name=NAME, sequenceNumber=sequence, state="enabled", publicSettings=plan["public"],
        protectedSettings=plan["protected"], certificateThumbprint=plan["thumbprint"])
    extension.settings.append(settings)
    return ExtHandlerInstance(extension, Protocol(), extension=settings), settings


def unpack(instance, archive):
    """What `download` does with an archive once it has it."""
    base = instance.get_base_dir()
    zipfile.ZipFile(archive).extractall(base)
    for folder, _, names in os.walk(base):
        for name in names:
            path = os.path.join(folder, name)
            os.chmod(path, os.stat(path).st_mode | 0o100)
    instance.set_handler_state("NotInstalled")
    instance.initialize()


def step(name, call, instance=None, settings=None):
    said = {"step": name, "failed": None, "status": None, "heartbeat": None}
    try:
        call()
    except Exception as error:  # Whatever it is, the test is going to show it.
        said["failed"] = f"{type(error).__name__}: {error}"
    if instance is not None:
        try:
            said["heartbeat"] = instance.collect_heartbeat()
            status = instance.collect_ext_status(settings)
            parts = [{"name": part.name, "status": part.status, "message": part.message} for part in status.substatusList]
            said["status"] = {"status": status.status, "code": status.code, "message": status.message,
                              "operation": status.operation, "sequence": status.sequenceNumber, "parts": parts}
        except Exception as error:
            said["failed"] = f"{said['failed']}; reading: {type(error).__name__}: {error}"
    print(json.dumps(said), flush=True)
    if plan["wait"]:
        # The test looks around, and says when to go on.
        sys.stdin.readline()


old, settings = handler("1.0.0.0", 0)
unpack(old, plan["archives"][0])
old.update_settings(settings)
step("install", lambda: old.install(extension=settings))
step("enable", lambda: old.enable(settings), old, settings)
step("enable again", lambda: old.enable(settings), old, settings)

new, settings = handler("1.1.0.0", 1)
unpack(new, plan["archives"][1])
new.update_settings(settings)
update = ExtHandlersHandler._update_extension_handler_and_return_if_failed
step("update", lambda: update(old, new, settings))
step("enable after the update", lambda: new.enable(settings), new, settings)
step("disable", lambda: new.disable(settings))
step("uninstall", lambda: new.uninstall(extension=settings))
step("remove", new.remove_ext_handler)
