//! Interfaces without XDP, and with XDP only in the stack: what is served how, and what status
//! says.

use herald_testbed::beside::interface;
use herald_testbed::client::Transport;
use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::host;
use herald_testbed::resolve::who_has;

/// The speakers answer from userspace. kube-proxy would carry the traffic; there is none here, so
/// only the answers are tested.
#[test]
fn off_mode_answers_from_userspace_and_says_that_there_is_no_fence() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&["--datapath", "off"])?;
        scenario.put_all_manifests()?;
        for (vip, holder) in scenario.served()? {
            let mac = host(&holder).unwrap().mac();
            assert_eq!(who_has(&scenario.lab, vip)?, [mac], "voices for {vip}");
            let datapath = scenario.status(&holder)?.datapath;
            let told: Vec<_> = datapath.iter().map(|d| (&*d.interface, &*d.mode)).collect();
            assert_eq!(told, [("eth0", "off")]);
            assert_eq!(interface::program(&scenario.lab, &holder)?, "");
            assert!(datapath[0].reason.is_some());
            assert!(datapath[0].fence.is_none() && datapath[0].no_fence.is_some());
            let (is_done, table) = scenario.command(&holder, &["status"])?;
            assert!(is_done && table.contains("; no fence: "), "{table}");
        }
        assert_eq!(who_has(&scenario.lab, "192.168.1.249".parse()?)?, []);
        Ok(())
    })
}

/// As on a network card whose driver knows no XDP: the same programs, in the stack.
#[test]
fn generic_mode_serves_and_says_so() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&["--datapath", "generic"])?;
        scenario.put_all_manifests()?;
        for (vip, holder) in scenario.served()? {
            let mac = host(&holder).unwrap().mac();
            assert_eq!(who_has(&scenario.lab, vip)?, [mac], "voices for {vip}");
            // On the holder itself and on another node: both ways through the programs.
            for is_here in [true, false] {
                scenario.port_to("c1", vip, |node| (node == holder) == is_here)?;
            }
            for client in ["c1", "c2"] {
                scenario.request(client, vip, Transport::Tcp)?;
            }
            let status = scenario.status(&holder)?;
            let told: Vec<_> = status.datapath.iter().map(|d| (&*d.interface, &*d.mode)).collect();
            assert_eq!(told, [("eth0", "generic")]);
            let kernel = interface::program(&scenario.lab, &holder)?;
            assert!(kernel.starts_with("xdpgeneric"), "the kernel says: {kernel}");
            assert!(status.datapath[0].fence.is_some() && status.datapath[0].no_fence.is_none());
            let (is_done, table) = scenario.command(&holder, &["status"])?;
            assert!(is_done && table.contains("datapath on eth0: generic"), "{table}");
            let answered = if vip.is_ipv4() { "xdp_arp_answered" } else { "xdp_ns_answered" };
            assert!(status.counters[answered] > 0, "{:?}", status.counters);
        }
        Ok(())
    })
}
