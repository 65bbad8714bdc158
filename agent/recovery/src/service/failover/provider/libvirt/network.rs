//! Which of libvirt's networks a machine gets to: those that its target settings name, or the place's; a test has one of its own.
//!
//! Deliberately not here: what a network of a test is (`domain`).

use super::{
    super::{Failure, Outcome, Spec, identity},
    Libvirt,
    domain::{self, Link},
};
use crate::target::NetworkName;

/// What libvirt was told of a test's network.
const NETWORK: &str = "network.xml";

impl Libvirt {
    /// What a card is connected to for which this network is named.
    pub(super) fn link(&self, isolated: bool, named: Option<&NetworkName>) -> Link {
        match (isolated, named.or(self.network.as_ref())) {
            (true, _) if self.is_of_user() => Link::Nothing,
            (true, _) => Link::Own,
            (false, Some(network)) => Link::Network(network.clone()),
            (false, None) => Link::User,
        }
    }

    /// The networks of libvirt's that the machine's cards get to.
    fn networks(&self, spec: &Spec) -> Vec<NetworkName> {
        let links = identity::cards(spec)
            .into_iter()
            .map(|(card, _)| self.link(spec.isolated, card.network.as_ref()));
        let mut networks: Vec<NetworkName> = links
            .filter_map(|link| match link {
                Link::Network(network) => Some(network),
                _ => None,
            })
            .collect();
        networks.sort();
        networks.dedup();
        networks
    }

    fn networks_that_are(&self, how: &[&str]) -> Outcome<Vec<String>> {
        let words: Vec<&str> = ["net-list", "--name"].iter().chain(how).copied().collect();
        let listed = self.virsh.ask(&words)?;
        Ok(listed.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// That the networks are there and active that the machine gets to.
    pub(super) fn check_networks(&self, spec: &Spec) -> Outcome<String> {
        if spec.isolated && self.is_of_user() {
            return Ok("the test's network cards are connected to nothing".to_owned());
        }
        let (all, active) = (self.networks_that_are(&["--all"])?, self.networks_that_are(&[])?);
        let wanted = self.networks(spec);
        for network in &wanted {
            let name = network.network();
            if !all.iter().any(|known| known == name) {
                let known = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
                return Err(Failure::new(
                    format!("libvirt has no network '{name}' at {}", self.virsh.uri),
                    format!(
                        "it has: {known}. Define it (virsh net-define), or name one of these (`machine target set`, `network map`, or the place's network); and resume"
                    ),
                ));
            }
            if !active.iter().any(|known| known == name) {
                return Err(Failure::new(
                    format!("libvirt's network '{name}' is not active"),
                    format!("virsh -c '{}' net-start {name}; and resume", self.virsh.uri),
                ));
            }
            self.check_group(network)?;
        }
        let names: Vec<&str> = wanted.iter().map(NetworkName::as_str).collect();
        Ok(match (spec.isolated, names.is_empty()) {
            (true, _) => "the test gets a network of its own".to_owned(),
            (false, true) => "the machine gets QEMU's own network".to_owned(),
            (false, false) => format!("on {}", names.join(", ")),
        })
    }

    /// Libvirt would take the network's default for a group of ports that it does not know.
    fn check_group(&self, network: &NetworkName) -> Outcome<()> {
        let Some(group) = network.subnet() else { return Ok(()) };
        let described = self.virsh.ask(&["net-dumpxml", network.network()])?;
        match ['\'', '"']
            .iter()
            .any(|quote| described.contains(&format!("<portgroup name={quote}{group}{quote}")))
        {
            true => Ok(()),
            false => Err(Failure::new(
                format!("libvirt's network '{}' has no group of ports '{group}'", network.network()),
                "define it (virsh net-edit), or name the network without what is behind the slash; and resume",
            )),
        }
    }

    pub(super) fn make_network(&self, failover: &str) -> Outcome<()> {
        let name = domain::network_name(failover);
        let path = self.write(failover, NETWORK, &domain::network(failover))?;
        if !self.networks_that_are(&["--all"])?.contains(&name) {
            self.virsh.ask(&["net-define", &path.display().to_string()])?;
        }
        if !self.networks_that_are(&[])?.contains(&name) {
            self.virsh.ask(&["net-start", &name])?;
        }
        Ok(())
    }

    pub(super) fn remove_network(&self, failover: &str) -> Outcome<()> {
        let name = domain::network_name(failover);
        if self.listed(failover, &["net-list", "--name"], &name)? {
            self.virsh.ask(&["net-destroy", &name])?;
        }
        // One that was never made to last is gone by now.
        if self.listed(failover, &["net-list", "--all", "--name"], &name)? {
            self.virsh.ask(&["net-undefine", &name])?;
        }
        Ok(())
    }
}
