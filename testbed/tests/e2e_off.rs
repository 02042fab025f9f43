//! Without XDP the speakers answer from userspace. kube-proxy would carry the traffic then; there
//! is none here, so only the answers are tested.

use herald_testbed::e2e::in_lab;
use herald_testbed::lab::addresses::host;
use herald_testbed::resolve::who_has;

#[test]
fn off_mode_answers_from_userspace() -> anyhow::Result<()> {
    in_lab(|scenario| {
        scenario.start_all(&["--datapath", "off"])?;
        scenario.put_all_manifests()?;
        for (vip, holder) in scenario.served()? {
            let mac = host(&holder).unwrap().mac();
            assert_eq!(who_has(&scenario.lab, vip)?, [mac], "voices for {vip}");
            let datapath = scenario.status(&holder)?.datapath;
            let told: Vec<_> = datapath.iter().map(|d| (&*d.interface, &*d.mode)).collect();
            assert_eq!(told, [("eth0", "off")]);
            assert!(datapath[0].reason.is_some());
        }
        assert_eq!(who_has(&scenario.lab, "192.168.1.249".parse()?)?, []);
        Ok(())
    })
}
