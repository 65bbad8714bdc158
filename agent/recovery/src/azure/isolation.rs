//! A template whose machine reaches nothing and is reached by nothing but Azure's own platform: for a machine beside the one that it
//! was made of.
//!
//! Deliberately not here: the machine (`resources`).

use serde_json::{Value, json};

use super::resources::NETWORK;

/// What is behind the machine's name in that of its security group.
const SUFFIX: &str = "-isolated";

/// The template with a security group around all interfaces that lets nothing in and nothing out.
#[must_use]
pub fn isolated(mut template: Value) -> Value {
    let kind = "Microsoft.Network/networkSecurityGroups";
    let name = format!("concat(parameters('machineName'), '{SUFFIX}')");
    let id = format!("[resourceId('{kind}', {name})]");
    let rule = |direction: &str| {
        json!({
            "name": format!("nothing-{}", direction.to_ascii_lowercase()),
            "properties": {
                "priority": 100, "direction": direction, "access": "Deny", "protocol": "*",
                "sourceAddressPrefix": "*", "sourcePortRange": "*",
                "destinationAddressPrefix": "*", "destinationPortRange": "*",
            },
        })
    };
    let mut group = json!({
        "type": kind,
        "apiVersion": NETWORK,
        "name": format!("[{name}]"),
        "location": "[parameters('location')]",
        "tags": "[parameters('tags')]",
        "properties": { "securityRules": [rule("Inbound"), rule("Outbound")] },
    });
    let Some(resources) = template["resources"].as_array_mut() else { return template };
    let is_interface = |one: &&mut Value| one["type"] == "Microsoft.Network/networkInterfaces";
    for interface in resources.iter_mut().filter(is_interface) {
        interface["dependsOn"] = json!([id]);
        interface["properties"]["networkSecurityGroup"] = json!({ "id": id });
        if let Some(condition) = interface.get("condition") {
            group["condition"] = condition.clone();
        }
    }
    resources.insert(0, group);
    template
}
