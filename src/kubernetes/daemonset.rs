//! The DaemonSet of `manifests/`, read as its users' clusters do: its arguments are ones that the
//! speaker takes, its probes are commands that there are, and it asks for no more than it needs.

use clap::Parser;
use serde_json::{Value, json};

use crate::cli::Cli;
use crate::source::yaml;

const MANIFEST: &str = include_str!("../../manifests/install/daemonset.yaml");

/// The object of a kind in the manifest.
fn object(kind: &str) -> Value {
    let documents = yaml::documents(MANIFEST.as_bytes()).unwrap();
    let mut objects = documents.iter().map(|document| document.to_json());
    objects.find(|object| object["kind"] == kind).unwrap()
}

fn pod() -> Value {
    object("DaemonSet")["spec"]["template"]["spec"].take()
}

fn container() -> Value {
    pod()["containers"][0].take()
}

fn words(list: &Value) -> Vec<String> {
    let words = list.as_array().unwrap().iter();
    words.map(|word| word.as_str().unwrap().to_owned()).collect()
}

fn parse(arguments: &[String]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("herald").chain(arguments.iter().map(String::as_str)))
}

#[test]
fn its_arguments_are_those_of_a_speaker_that_elects_by_leases() {
    let container = container();
    let mut arguments = words(&container["args"]);
    assert_eq!(container["command"], Value::Null, "the image's own entry point");
    assert_eq!(arguments[0], "speaker");
    let env = container["env"].as_array().unwrap();
    let names: Vec<_> = env.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["NODE_NAME", "POD_NAMESPACE"]);
    arguments.push("--node-name=n1".to_owned());
    let parsed = format!("{:?}", parse(&arguments).unwrap());
    assert!(parsed.contains("election: Some(Lease)"), "{parsed}");
    assert!(parsed.contains("0.0.0.0:7947"), "{parsed}");
    assert_eq!(container["ports"][0]["containerPort"], json!(7947));
    // What the comment tells people to put in its place.
    let comment = MANIFEST.lines().find_map(|line| line.trim().strip_prefix("#   args: "));
    let other = yaml::documents(comment.unwrap().as_bytes()).unwrap()[0].to_json();
    let other = [words(&other), vec!["--node-name=n1".to_owned()]].concat();
    let parsed = format!("{:?}", parse(&other).unwrap());
    assert!(parsed.contains("election: Some(Raft)"), "{parsed}");
}

#[test]
fn its_probes_are_commands_of_the_image() {
    let container = container();
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let command = words(&container[probe]["exec"]["command"]);
        assert_eq!(command[0], "/herald", "{probe}: where the Dockerfile puts it");
        let parsed = format!("{:?}", parse(&command[1..]).unwrap());
        assert!(parsed.contains("Status"), "{probe}: {parsed}");
    }
    let dockerfile = include_str!("../../manifests/Dockerfile");
    assert!(dockerfile.contains("release/herald /herald\n"));
    assert!(dockerfile.contains("ENTRYPOINT [\"/herald\"]\n"));
    assert!(dockerfile.contains("ENV PATH=/\n"), "so that `kubectl exec` finds it");
}

#[test]
fn it_asks_for_no_more_than_it_needs() {
    let security = container()["securityContext"].take();
    assert_eq!(
        security,
        json!({
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsUser": 0,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW", "BPF", "PERFMON"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    let pod = pod();
    assert_eq!(pod["hostNetwork"], json!(true));
    assert_eq!((&pod["hostPID"], &pod["hostIPC"]), (&Value::Null, &Value::Null));
    assert_eq!(pod["serviceAccountName"], "herald");
    let class = object("PriorityClass");
    assert_eq!(pod["priorityClassName"], class["metadata"]["name"]);
    // Everything that it writes, its defaults say where, is mounted.
    let mounts = container()["volumeMounts"].take();
    let mounts: Vec<_> = mounts.as_array().unwrap().iter().map(|it| &it["mountPath"]).collect();
    assert_eq!(mounts, ["/var/lib/herald", "/run/herald", "/sys/fs/bpf"]);
}
