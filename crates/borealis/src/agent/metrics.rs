//! What the agent tells in numbers.

use telemetry::metrics::{Sampled, Scrape};

use super::Agent;

telemetry::metrics! {
    /// The agent: whether the daemons of the host live.
    pub AGENT;
    /// Whether the daemon lives (1) or not (0).
    DAEMON_UP: Sampled = Sampled::gauge("agent_daemon_up", &["name", "kind"]);
    /// Whether the daemon keeps dying young (1).
    DAEMON_FAILING: Sampled = Sampled::gauge("agent_daemon_failing", &["name", "kind"]);
    /// Times that this agent started the daemon: all but the first are restarts.
    DAEMON_STARTS: Sampled = Sampled::counter("agent_daemon_starts_total", &["name", "kind"]);
}

/// How the daemons are just now.
pub(super) fn look_up(agent: &Agent, scrape: &mut Scrape) {
    for component in &agent.components {
        let labels = [component.name.as_str(), component.kind];
        scrape.set(&DAEMON_UP, &labels, u64::from(component.is_alive()));
        let is_failing = component.is_failing(agent.began.elapsed());
        scrape.set(&DAEMON_FAILING, &labels, u64::from(is_failing));
        scrape.set(&DAEMON_STARTS, &labels, component.starts);
    }
}
