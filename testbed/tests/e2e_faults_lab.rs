//! What the fault tests stand on, without Herald: a second voice is caught, and each fault does
//! what its name says and ends.

use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use herald_testbed::client::{self, Transport};
use herald_testbed::lab::Lab;
use herald_testbed::watch::Watch;
use herald_testbed::{clock, sandbox};

/// Longer than a handshake on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1);

fn lab() -> anyhow::Result<Lab> {
    sandbox::enter()?;
    let lab = Lab::build(Path::new(sandbox::SCRATCH))?;
    for node in ["n1", "n2", "n3"] {
        let pod = format!("10.244.{}.2:8080", &node[1..]).parse()?;
        let netns = lab.netns(node)?;
        clock::await_for("the pod answers", Duration::from_secs(5), || {
            Ok(netns.inside(|| client::who(Transport::Tcp, pod)).ok())
        })?;
    }
    Ok(lab)
}

fn order(names: &[&str]) -> Vec<Option<String>> {
    names.iter().map(|name| Some((*name).to_owned())).collect()
}

/// One address on two nodes, as keepalived leaves it behind after a kill.
#[test]
fn an_address_on_two_nodes_is_a_second_voice() -> anyhow::Result<()> {
    let lab = lab()?;
    let vips: [IpAddr; 2] = ["192.168.1.240".parse()?, "fd00:1::f0".parse()?];
    let bind = |node: &str| {
        lab.netns(node)?
            .ip("addr add 192.168.1.240/32 dev eth0\naddr add fd00:1::f0/128 dev eth0 nodad\n")
    };
    bind("n1")?;
    let watch = Watch::start(&lab, &vips, Duration::from_millis(10))?;
    clock::pause(Duration::from_millis(300));
    let seen = watch.finish()?;
    for vip in vips {
        seen.heard.one_voice(vip, &order(&["n1"]))?;
        assert!(seen.heard.one_voice(vip, &order(&["n2"])).is_err(), "{vip} was never on n2");
        assert!(seen.asked(vip)?.ends_answered(1));
        assert_eq!(seen.asked(vip)?.answered_twice(), 0);
    }
    let watch = Watch::start(&lab, &vips, Duration::from_millis(10))?;
    clock::pause(Duration::from_millis(300));
    bind("n2")?;
    clock::pause(Duration::from_millis(300));
    let seen = watch.finish()?;
    for vip in vips {
        let told = seen.heard.one_voice(vip, &order(&["n1", "n2"])).unwrap_err().to_string();
        assert!(told.contains("out of turn") && told.contains("after n2 had begun"), "{told}");
        assert!(seen.asked(vip)?.answered_twice() > 5, "{vip}");
    }
    Ok(())
}

fn connects(lab: &Lab, from: &str) -> anyhow::Result<bool> {
    let server = "192.168.1.12:7946".parse()?;
    lab.netns(from)?.inside(|| Ok(TcpStream::connect_timeout(&server, PATIENCE).is_ok()))
}

#[test]
fn faults_do_what_they_say_and_end() -> anyhow::Result<()> {
    let lab = lab()?;
    let node: IpAddr = "192.168.1.11".parse()?;
    let ask_for = |time| -> anyhow::Result<_> {
        let watch = Watch::start(&lab, &[node], Duration::from_millis(10))?;
        clock::pause(time);
        watch.finish()
    };
    let ask = || ask_for(Duration::from_millis(300));
    let said = |seen: &herald_testbed::watch::Seen| {
        seen.heard.claims.iter().filter(|claim| claim.address == node).count()
    };
    let fault = lab.mute("n1")?;
    let seen = ask()?;
    assert!(said(&seen) > 5, "a mute host speaks, and the tap hears what nobody else does");
    assert!(seen.asked(node)?.is_silent_since(Duration::ZERO));
    drop(fault);
    let fault = lab.deafen("n1")?;
    let seen = ask()?;
    assert_eq!(said(&seen), 0, "a deaf host has nothing to answer");
    drop(fault);
    assert!(ask()?.asked(node)?.ends_answered(1));

    let fault = lab.lose("n1", 50)?;
    // Each third question is put to this host a second time, through its cable alone. So of 135 in
    // all, each heard with a chance of one half, between 10 and 100 are answered by a host that
    // loses half: six standard deviations.
    let seen = ask_for(Duration::from_secs(1))?;
    let asked = seen.asked(node)?.count();
    assert!(said(&seen) > asked / 10 && said(&seen) < asked, "{} of {asked}", said(&seen));
    drop(fault);

    let listener = lab.netns("n2")?.inside(|| Ok(TcpListener::bind("192.168.1.12:7946")?))?;
    let fault = lab.filter("n1", "n2", 7946)?;
    assert!(!connects(&lab, "n1")?, "through the filter");
    assert!(connects(&lab, "n3")?, "past the filter");
    drop(fault);
    assert!(connects(&lab, "n1")?, "without the filter");
    drop(listener);
    Ok(())
}
