//! Very many TCP connections at once: a server that says on which of its ports it was reached, and
//! a client that keeps connections open and asks each again (edge).
//!
//! A connection is *broken* if it is reset, answers nothing, or answers as somebody else than
//! before. Every packet of a question passes the holder and the pod's node, so a slot that moved
//! under a living flow shows at once.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::lab::Lab;
use crate::lab::addresses::{NODES, PODS, pod_addresses, pod_name};
use crate::lab::netns::Netns;
use crate::lab::process::{Process, built};
use crate::{clock, scenario};

/// A connection or an answer that takes longer has failed. It covers several retransmissions, for
/// many connections start at once and a loaded machine loses some of their packets.
const LIMIT: Duration = Duration::from_secs(20);
/// Connections that are being opened at a time.
const OPENING: usize = 256;

/// How a server of many ports runs.
#[derive(Clone, Debug, clap::Args)]
pub struct FlowsArgs {
    /// The pod's name, said in every answer.
    #[arg(long)]
    name: String,
    /// The first TCP port.
    #[arg(long)]
    first: u16,
    /// The last TCP port.
    #[arg(long)]
    last: u16,
}

/// A server of these ports in every pod of the lab; all of them listen.
///
/// # Errors
///
/// If one does not start.
pub fn servers(lab: &Lab, ports: RangeInclusive<u16>) -> anyhow::Result<Vec<Process>> {
    let mut servers = Vec::new();
    for node in 1..=NODES {
        for pod in 1..=PODS {
            let name = pod_name(node, pod);
            let mut command = Command::new(built("herald-lab")?);
            command.args(["flows-server", "--name", &name]);
            command.args(["--first", &ports.start().to_string()]);
            command.args(["--last", &ports.end().to_string()]);
            let log = scenario::directory(&format!("logs/flows-{name}.log"));
            servers.push(Process::start(&name, command, lab.netns(&name)?, &log)?);
        }
    }
    for server in &servers {
        clock::await_for("a server listens", Duration::from_secs(10), || {
            Ok(server.output().contains("listening").then_some(()))
        })?;
    }
    Ok(servers)
}

/// Serves for ever: each octet that arrives is answered with `name:port` and a line feed.
///
/// # Errors
///
/// If a port cannot be had.
pub fn serve(args: FlowsArgs) -> anyhow::Result<()> {
    many_files()?;
    runtime()?.block_on(async {
        let mut servers = JoinSet::new();
        for port in args.first..=args.last {
            let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            let listener = TcpListener::bind(any).await;
            let listener = listener.with_context(|| format!("cannot listen on TCP {any}"))?;
            servers.spawn(accept(listener, format!("{}:{port}\n", args.name)));
        }
        println!("listening");
        match servers.join_next().await {
            Some(ended) => bail!("a server ended: {ended:?}"),
            None => bail!("there are no ports to serve"),
        }
    })
}

async fn accept(listener: TcpListener, answer: String) {
    loop {
        // A connection that failed before it was accepted is the client's matter.
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut octet = [0];
            while stream.read_exact(&mut octet).await.is_ok() {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Open connections, each with the backend it reached.
#[derive(Debug)]
pub struct Flows {
    runtime: Runtime,
    open: Vec<Flow>,
}

#[derive(Debug)]
struct Flow {
    stream: BufStream<TcpStream>,
    backend: String,
}

impl Flows {
    /// Opens connections from a namespace to one server and asks each who answers.
    ///
    /// # Errors
    ///
    /// If one cannot be opened or does not answer.
    pub fn open(netns: &Netns, server: SocketAddr, count: usize) -> anyhow::Result<Self> {
        many_files()?;
        let runtime = netns.inside(runtime)?;
        // The runtime has one thread, this one: its sockets are made in the namespace it is in.
        let open = netns.inside(|| runtime.block_on(open(server, count)))?;
        Ok(Self { runtime, open })
    }

    /// How many connections each backend has.
    pub fn backends(&self) -> BTreeMap<String, usize> {
        let mut backends = BTreeMap::new();
        for flow in &self.open {
            *backends.entry(flow.backend.clone()).or_default() += 1;
        }
        backends
    }

    /// Asks every connection again, all at once. Broken ones are closed and returned: whom each had
    /// reached before, and what happened.
    pub fn ask(&mut self) -> Vec<(String, String)> {
        let mut asking = JoinSet::new();
        let open = std::mem::take(&mut self.open);
        let mut broken = Vec::new();
        self.runtime.block_on(async {
            for mut flow in open {
                asking.spawn(async move {
                    let answer = timeout(LIMIT, flow.ask()).await;
                    (flow, answer)
                });
            }
            while let Some(asked) = asking.join_next().await {
                match asked {
                    Ok((flow, Ok(Ok(answer)))) if answer == flow.backend => self.open.push(flow),
                    Ok((flow, Ok(Ok(answer)))) => {
                        broken.push((flow.backend, format!("answered by {answer}")));
                    }
                    Ok((flow, Ok(Err(error)))) => broken.push((flow.backend, error.to_string())),
                    Ok((flow, Err(_))) => broken.push((flow.backend, "no answer".to_owned())),
                    Err(error) => broken.push((String::new(), error.to_string())),
                }
            }
        });
        broken
    }
}

impl Flow {
    async fn ask(&mut self) -> io::Result<String> {
        self.stream.write_all(b"?").await?;
        self.stream.flush().await?;
        let mut answer = String::new();
        if self.stream.read_line(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer.trim_end().to_owned())
    }
}

async fn open(server: SocketAddr, count: usize) -> anyhow::Result<Vec<Flow>> {
    let mut opening = JoinSet::new();
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        if opening.len() == OPENING {
            open.push(opened(&mut opening).await?);
        }
        opening.spawn(connect(server));
    }
    while !opening.is_empty() {
        open.push(opened(&mut opening).await?);
    }
    Ok(open)
}

async fn opened(opening: &mut JoinSet<anyhow::Result<Flow>>) -> anyhow::Result<Flow> {
    let flow = opening.join_next().await.context("nothing is being opened")?;
    flow.context("a connection's task crashed")?
}

async fn connect(server: SocketAddr) -> anyhow::Result<Flow> {
    let stream = timeout(LIMIT, TcpStream::connect(server)).await;
    let stream = stream.with_context(|| format!("no connection to {server} in time"))?;
    let stream = stream.with_context(|| format!("cannot connect to {server}"))?;
    stream.set_nodelay(true)?;
    // A line each way; the default buffers would take 16 kB a connection.
    let stream = BufStream::with_capacity(64, 8, stream);
    let mut flow = Flow { stream, backend: String::new() };
    let answer = timeout(LIMIT, flow.ask()).await;
    flow.backend = answer.with_context(|| format!("no answer from {server} in time"))??;
    Ok(flow)
}

/// One thread, so that what happens in the namespace of the calling thread stays there.
fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// Lets this process have as many sockets as it may.
fn many_files() -> anyhow::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write the one structure they are given, which lives here.
    let result = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("cannot raise the limit of open files"),
    }
}

/// Manifests of a Service with one TCP port whose backends are ports of pods: a slice for each port
/// and family, because all endpoints of a slice share its ports.
///
/// `ports` are the pods' ports, each with the pods that serve it, as `(name, node, address)`. The
/// Service has a VIP of each family of which there is an address.
pub fn manifests(service: &str, ports: &BTreeMap<u16, Vec<(String, String, String)>>) -> String {
    let is_of = |address: &str, family: &str| address.contains(':') == (family == "IPv6");
    let addresses = || ports.values().flatten().map(|(_, _, address)| address);
    let mut families = vec!["IPv4", "IPv6"];
    families.retain(|family| addresses().any(|address| is_of(address, family)));
    let policy = if families.len() == 2 { "RequireDualStack" } else { "SingleStack" };
    let mut text = format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: {service}, namespace: default}}\n\
         spec:\n  type: LoadBalancer\n  selector: {{app: {service}}}\n  \
         ipFamilyPolicy: {policy}\n  ipFamilies: [{}]\n  ports:\n  \
         - {{name: tcp, protocol: TCP, port: 80, targetPort: any}}\n",
        families.join(", ")
    );
    for ((port, pods), family) in ports.iter().flat_map(|it| families.iter().map(move |f| (it, f)))
    {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata:\n  name: {service}-{port}-{}\n  namespace: default\n  \
             labels: {{kubernetes.io/service-name: {service}}}\naddressType: {family}\n\
             ports:\n- {{name: tcp, protocol: TCP, port: {port}}}\nendpoints:\n",
            family.to_lowercase()
        );
        for (name, node, address) in pods.iter().filter(|(_, _, it)| is_of(it, family)) {
            text += &format!(
                "- addresses: [\"{address}\"]\n  nodeName: {node}\n  \
                 conditions: {{ready: true, serving: true}}\n  \
                 targetRef: {{kind: Pod, namespace: default, name: {name}}}\n"
            );
        }
    }
    text
}

/// The ports of a range, for [`manifests`], each served by all pods of the lab over IPv4.
pub fn on_all_pods(ports: RangeInclusive<u16>) -> BTreeMap<u16, Vec<(String, String, String)>> {
    let pods = (1..=NODES).flat_map(|node| (1..=PODS).map(move |pod| (node, pod)));
    let pods: Vec<_> = pods
        .map(|(node, pod)| {
            let [address, _] = pod_addresses(node, pod);
            (pod_name(node, pod), format!("n{node}"), address.to_string())
        })
        .collect();
    ports.map(|port| (port, pods.clone())).collect()
}
