//! Who takes part in raft changes while VIPs are held: a node comes, one loses its disk and comes
//! back as a new member, one goes for good. Every VIP has one voice all the while, and who votes is
//! who status says: the others go on when one of them dies.

use std::fs;
use std::net::IpAddr;

use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::nodes;
use herald_testbed::scenario::{MANIFESTS, PATIENCE, Scenario, directory};
use herald_testbed::trial::{Trial, rejoined};
use herald_testbed::watch::PACE;

/// Voters are chosen among the Nodes; the least patience with those that are gone.
const FLAGS: [&str; 2] = ["--member-patience", "6s"];

#[test]
fn a_node_comes_one_loses_its_disk_and_one_goes() -> anyhow::Result<()> {
    in_lab(|scenario| {
        put_nodes(scenario, 2)?;
        start(scenario, "n1")?;
        start(scenario, "n2")?;
        // Two voters would survive less than one: both would be needed.
        members(scenario, &["n1", "n2"], 1)?;
        MANIFESTS[1..].iter().try_for_each(|(name, text)| scenario.put_manifest(name, text))?;
        let vips: Vec<IpAddr> = scenario.served()?.into_iter().map(|(vip, _)| vip).collect();
        let mut trial = Trial::begin(scenario, &vips, PACE)?;

        // A node comes, and then three vote.
        let before = scenario.status("n1")?.holders();
        put_nodes(scenario, 3)?;
        start(scenario, "n3")?;
        members(scenario, &["n1", "n2", "n3"], 3)?;
        rejoined(scenario, "n1", "n3")?;
        assert_eq!(scenario.status("n1")?.holders(), before, "a new node takes nothing");

        // A lost disk is another member under the same name, which gets the old one's vote...
        trial.give_all(scenario, "n2")?;
        scenario.kill("n2")?;
        fs::remove_dir_all(directory("n2").join("state"))?;
        start(scenario, "n2")?;
        rejoined(scenario, "n1", "n2")?;
        members(scenario, &["n1", "n2", "n3"], 3)?;
        trial.held(scenario, "n1", |_| true)?;
        // ...for without that vote nobody would have a majority now.
        scenario.kill("n1")?;
        trial.held(scenario, "n2", |holder| holder != "n1")?;
        trial.served(scenario)?;
        start(scenario, "n1")?;
        rejoined(scenario, "n2", "n1")?;

        // A node goes for good. One vote is left, which is a majority of what is left.
        scenario.speaker("n3")?.terminate(std::time::Duration::from_secs(PATIENCE))?;
        scenario.forget("n3");
        put_nodes(scenario, 2)?;
        let voter = members(scenario, &["n1", "n2"], 1)?.remove(0);
        let other = if voter == "n1" { "n2" } else { "n1" };
        scenario.kill(other)?;
        trial.held(scenario, &voter, |holder| holder == voter)?;
        trial.served(scenario)?;
        trial.end(scenario, &voter).map(drop)
    })
}

/// Lists the first so many Nodes.
fn put_nodes(scenario: &Scenario, count: usize) -> anyhow::Result<()> {
    let (name, text) = MANIFESTS[0];
    let listed: Vec<&str> = text.split("---\n").take(count + 1).collect();
    scenario.put_manifest(name, &listed.join("---\n"))
}

fn start(scenario: &mut Scenario, node: &str) -> anyhow::Result<()> {
    let mut command = scenario.speaker_command(node, node, &directory(node).join("state"));
    command.args(FLAGS);
    scenario.start_command(node, command)
}

/// Waits until these nodes, and no others, take part by the word of each of them, and so many of
/// them vote; returns those.
fn members(scenario: &mut Scenario, wanted: &[&str], voters: usize) -> anyhow::Result<Vec<String>> {
    let what = format!("{wanted:?} take part, {voters} with a vote");
    scenario.wait(&what, PATIENCE, |scenario| {
        let mut told = Vec::new();
        for node in nodes().filter(|node| wanted.contains(&node.as_str())) {
            let Ok(status) = scenario.status(&node) else { return Ok(None) };
            told.push(status.election.members);
        }
        let Some(first) = told.first() else { return Ok(None) };
        let names: Vec<&str> = first.iter().map(|member| &member.node[..]).collect();
        let voting = first.iter().filter(|member| member.voter).map(|member| member.node.clone());
        let voting: Vec<String> = voting.collect();
        let agreed = told.iter().all(|members| members == first);
        Ok((agreed && names == wanted && voting.len() == voters).then_some(voting))
    })
}
