//! Health checks: that this machine has the address that they come from.

use super::facts::Facts;
use super::{Findings, advise};
use crate::config::{HealthKind, Service};

pub(super) fn check(facts: &Facts, service: &Service, findings: &mut Findings) {
    let Some(source) = service.health.source else {
        return;
    };
    let mut own = facts.network.addresses.iter();
    if service.health.kind == HealthKind::Off || own.any(|own| own.ip == source) {
        return;
    }
    findings
        .about("health-source", format!("service {}", service.name))
        .error(
            format!("{source} is no address of this machine: no check can come from it"),
            advise("give this machine the address, or take health.source out"),
        );
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::super::made_up::{assert_finds, fit, ip};
    use super::*;

    #[test]
    fn checks_come_from_an_address_of_this_machine() {
        let (mut config, facts) = fit();
        let own = facts.network.addresses[0].ip;
        config.services[0].health.source = Some(own);
        assert_eq!(check(&config, &facts), []);
        assert_finds(
            |config, _| config.services[0].health.source = Some(ip("10.0.0.9")),
            "error health-source service web: 10.0.0.9 is no address of this machine: no check \
             can come from it; # give this machine the address, or take health.source out",
        );
        config.services[0].health.source = Some(ip("10.0.0.9"));
        config.services[0].health.kind = HealthKind::Off;
        assert_eq!(check(&config, &facts), []);
    }
}
