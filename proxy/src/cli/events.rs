//! `events`: flow events of this node as they happen, from the running agent. docs/events.md explains lines and fields.
//!
//! There is no history: the programs write events only while someone listens. Without `--follow` the command listens for some seconds.

use std::{
    io::{self, IsTerminal as _},
    net::IpAddr,
    ops::ControlFlow,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use jiff::{Timestamp, tz::TimeZone};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::UnixStream,
    signal::ctrl_c,
    time::{Instant, sleep_until, timeout},
};

use super::{
    agents::{self, FindArgs, Place},
    control,
    output::{self, Format, OutputArgs, Tone},
};
use crate::observe::events::{
    filter::{EVENTS, EventFilter},
    record::{EventMessage, FlowEvent, LossSource, LostEvents, Peer, Verdict, reasons},
};

/// An agent sends at least a line per second.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Continue until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Seconds to listen without --follow
    #[arg(long, value_name = "SECONDS", default_value_t = 10, conflicts_with = "follow",
        value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    find: FindArgs,
}

/// Filters of one kind are alternatives, filters of different kinds all hold.
#[derive(Debug, clap::Args)]
struct FilterArgs {
    /// Only events of this Service; may be repeated
    #[arg(long = "service", value_name = "[NAMESPACE/]NAME")]
    services: Vec<String>,
    /// Only events of flows with this pod of this node at either end, if it is an endpoint; may be repeated
    #[arg(long = "pod", value_name = "[NAMESPACE/]NAME")]
    pods: Vec<String>,
    /// Only events of flows with this address as source, destination or backend; may be repeated
    #[arg(long = "ip", value_name = "IP")]
    addresses: Vec<IpAddr>,
    /// Only events with this reason; may be repeated
    #[arg(long = "reason", value_name = "REASON", value_parser = reason_parser())]
    reasons: Vec<String>,
    /// Only events with this verdict; may be repeated
    #[arg(long = "verdict", value_enum, value_name = "VERDICT")]
    verdicts: Vec<Verdict>,
    /// Only refusals, as --verdict refused
    #[arg(long, conflicts_with = "verdicts")]
    refused: bool,
    /// Only events of Services or pods in this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Events of all namespaces (default)
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

fn reason_parser() -> clap::builder::PossibleValuesParser {
    // The failure and the refusal have no name in common but this one.
    let mut names = reasons();
    names.sort_unstable();
    names.dedup();
    // Completion and errors list them; the help stays short.
    names
        .into_iter()
        .map(|name| clap::builder::PossibleValue::new(name).hide(true))
        .collect::<Vec<_>>()
        .into()
}

impl FilterArgs {
    fn filter(self) -> EventFilter {
        let Self { services, pods, addresses, reasons, mut verdicts, refused, namespace, all_namespaces: _ } =
            self;
        if refused {
            verdicts.push(Verdict::Refused);
        }
        let named = |names: Vec<String>| {
            let qualified = |name: String| match &namespace {
                Some(namespace) if !name.contains('/') => format!("{namespace}/{name}"),
                Some(_) | None => name,
            };
            names.into_iter().map(qualified).collect()
        };
        let (services, pods) = (named(services), named(pods));
        EventFilter { services, namespace, pods, addresses, reasons, verdicts }
    }
}

pub fn run(args: Args) -> Result<()> {
    let Args { follow, seconds, filter, output: OutputArgs { output }, find } = args;
    let place = find.find()?;
    let limit = (!follow).then(|| Duration::from_secs(seconds.into()));
    let mut printer = Printer { format: output, has_header: false };
    listen(&place, &filter.filter(), limit, |message| printer.print(&message))
}

/// Passes on messages for so long, or until interrupted, or until `take` breaks. The time begins when the programs write.
pub fn listen(
    place: &Place,
    filter: &EventFilter,
    limit: Option<Duration>,
    take: impl FnMut(EventMessage) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let words = format!("{EVENTS}{}", serde_json::to_string(filter)?);
    let Some(stream) = control::open(&place.socket, &words)? else {
        let hint = agents::hint(&place.bpffs, Some(&place.run_dir));
        bail!("no agent runs: nothing listens on {}{hint}", place.socket.display())
    };
    stream.set_nonblocking(true).context("cannot wait for the agent")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a runtime")?.block_on(async {
        let lines = BufReader::new(UnixStream::from_std(stream)?).lines();
        follow(lines, &place.socket, limit, take).await
    })
}

async fn follow(
    mut lines: Lines<BufReader<UnixStream>>,
    socket: &Path,
    limit: Option<Duration>,
    mut take: impl FnMut(EventMessage) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut end = None;
    let mut interrupted = std::pin::pin!(ctrl_c());
    loop {
        let line = tokio::select! {
            line = timeout(RESPONSE_TIMEOUT, lines.next_line()) => line,
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => return Ok(()),
            _ = &mut interrupted => return Ok(()),
        };
        let line = match line {
            Err(_) => bail!("no response from the agent at {}", socket.display()),
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => bail!("the agent at {} has ended", socket.display()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                bail!("the agent at {} has ended", socket.display())
            }
            Ok(Err(error)) => {
                return Err(error)
                    .with_context(|| format!("cannot read from the agent at {}", socket.display()));
            }
        };
        if line.is_empty() {
            continue;
        }
        let message = serde_json::from_str(&line).context("the agent is of an incompatible version")?;
        match message {
            EventMessage::Refused { message } => bail!(message),
            EventMessage::Listening { .. } => end = limit.map(|limit| Instant::now() + limit),
            EventMessage::Event(_) | EventMessage::LostEvents(_) => {}
        }
        if take(message)?.is_break() {
            return Ok(());
        }
    }
}

struct Printer {
    format: Format,
    has_header: bool,
}

impl Printer {
    /// Line by line, also into a pipe.
    fn print(&mut self, message: &EventMessage) -> Result<ControlFlow<()>> {
        match (message, self.format) {
            (EventMessage::Listening { .. } | EventMessage::Refused { .. }, _) => self.print_header(),
            (EventMessage::Event(event), Format::Table) => output::print_while_read(&row(event)),
            (EventMessage::LostEvents(lost), Format::Table) => {
                output::print_warning(&loss(lost));
                Ok(ControlFlow::Continue(()))
            }
            (EventMessage::Event(event), Format::Json) => output::print_while_read(&json_line(event)?),
            (EventMessage::LostEvents(_), Format::Json) => output::print_while_read(&json_line(message)?),
        }
    }

    fn print_header(&mut self) -> Result<ControlFlow<()>> {
        if self.format == Format::Json || self.has_header {
            return Ok(ControlFlow::Continue(()));
        }
        self.has_header = true;
        if io::stdout().is_terminal() {
            output::print_warning("listening");
        }
        output::print_while_read(&format!(
            "{:<TIME$}  {:<VERDICT$}  {:<SERVICE$}  FLOW\n",
            "TIME", "VERDICT", "SERVICE"
        ))
    }
}

/// A message as one line of JSON.
pub fn json_line(value: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_string(value)? + "\n")
}

/// Widths of columns. A longer name moves what is behind it.
const TIME: usize = 12;
const VERDICT: usize = 9;
const SERVICE: usize = 20;

fn row(event: &FlowEvent) -> String {
    row_in(event, &TimeZone::system())
}

fn row_in(event: &FlowEvent, zone: &TimeZone) -> String {
    let FlowEvent { time, verdict, protocol, process, reason, message, duration_seconds, .. } = event;
    let tone = match verdict {
        Verdict::Forwarded => Tone::Good,
        Verdict::Refused | Verdict::Failed => Tone::Bad,
        Verdict::Suspected => Tone::Bad,
        Verdict::Restored => Tone::Good,
        Verdict::Evicted => Tone::Plain,
    };
    let verdict = output::coloured(&format!("{:<VERDICT$}", verdict.name()), tone);
    let source = match (&event.source, process) {
        (Some(peer), _) => name(peer),
        (None, Some(process)) => format!("{}[{}]", plain(&process.command), process.id),
        (None, None) => "?".to_owned(),
    };
    let mut text = format!(
        "{}  {verdict}  {:<SERVICE$}  {protocol} {source} > {}",
        clock(*time, zone),
        service(event),
        name(&event.destination)
    );
    if let Some(backend) = &event.backend {
        text += &format!(" > {}", name(backend));
    }
    if let (Some(reason), Some(message)) = (reason, message) {
        text += &format!("  {reason}: {message}");
    }
    if let Some(seconds) = duration_seconds {
        text += &format!(" ({:.1} ms)", seconds * 1e3);
    }
    text.push('\n');
    text
}

fn clock(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%H:%M:%S.%3f").to_string()
}

fn service(event: &FlowEvent) -> String {
    match (&event.service, event.port_name.as_deref()) {
        (None, _) => "-".to_owned(),
        (Some(service), None | Some("")) => service.clone(),
        (Some(service), Some(port)) => format!("{service}:{port}"),
    }
}

/// The pod, else the address; and the port.
fn name(peer: &Peer) -> String {
    match (&peer.pod, peer.port) {
        (Some(pod), Some(port)) => format!("{pod}:{port}"),
        (Some(pod), None) => pod.clone(),
        (None, _) => peer.text(),
    }
}

/// A process chooses the name of its threads, also with control characters.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn loss(LostEvents { source, count }: &LostEvents) -> String {
    let events =
        if *count == 1 { "1 event was lost".to_owned() } else { format!("{count} events were lost") };
    match source {
        LossSource::Ring => format!("{events}: there are more than the agent reads"),
        LossSource::Listener => format!("{events}: this output is read too slowly"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use expect_test::expect;

    use super::*;
    use crate::observe::events::record::Process;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn filter(arguments: &[&str]) -> EventFilter {
        let words = ["events"].into_iter().chain(arguments.iter().copied());
        Command::try_parse_from(words).unwrap().args.filter.filter()
    }

    fn event() -> FlowEvent {
        let peer = |ip: &str, port, pod: Option<&str>| Peer {
            ip: ip.parse().unwrap(),
            port: Some(port),
            pod: pod.map(str::to_owned),
            node: None,
        };
        FlowEvent {
            time: "2026-01-01T12:00:03.25Z".parse().unwrap(),
            node: "node-1".to_owned(),
            verdict: Verdict::Forwarded,
            event: "new_flow".to_owned(),
            reason: None,
            message: None,
            plane: "packet".to_owned(),
            hook: "tc_ingress".to_owned(),
            interface: Some("veth1".to_owned()),
            ip_version: "IPv4".to_owned(),
            protocol: "TCP".to_owned(),
            service: Some("shop/web".to_owned()),
            port_name: Some("http".to_owned()),
            source: Some(peer("10.244.1.9", 40_000, Some("shop/client"))),
            destination: peer("10.96.0.10", 80, None),
            backend: Some(peer("10.244.2.4", 8080, None)),
            process: None,
            duration_seconds: None,
        }
    }

    #[test]
    fn names_are_of_the_namespace() {
        let text = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let found = filter(&["-n", "shop", "--service", "web", "--service", "other/db", "--pod", "a"]);
        assert_eq!((found.services, found.pods), (text(&["shop/web", "other/db"]), text(&["shop/a"])));
        assert_eq!(found.namespace.as_deref(), Some("shop"));
        assert_eq!(filter(&["-A", "--service", "web"]).services, text(&["web"]));
        assert_eq!(filter(&["--refused"]).verdicts, [Verdict::Refused]);
        assert_eq!(filter(&[]), EventFilter::default());
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for arguments in [
            &["--reason", "no_such_reason"][..],
            &["--ip", "10.0.0"],
            &["--verdict", "lost"],
            &["--refused", "--verdict", "failed"],
            &["--follow", "--seconds", "3"],
            &["--seconds", "0"],
            &["-A", "-n", "shop"],
        ] {
            let words = ["events"].into_iter().chain(arguments.iter().copied());
            let error = Command::try_parse_from(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
        }
    }

    #[test]
    fn an_event_is_a_line() {
        let refused = FlowEvent {
            verdict: Verdict::Refused,
            reason: Some("no_endpoint".to_owned()),
            message: Some("no endpoint of the service port is ready".to_owned()),
            port_name: Some(String::new()),
            source: None,
            backend: None,
            process: Some(Process { id: 77, command: "cu\u{1b}rl".to_owned() }),
            ..event()
        };
        let failed = FlowEvent {
            verdict: Verdict::Failed,
            reason: Some("timed_out".to_owned()),
            message: Some("the backend did not answer".to_owned()),
            duration_seconds: Some(1.05),
            ..event()
        };
        let unknown = FlowEvent { service: None, source: None, backend: None, ..event() };
        let rows = [event(), refused, failed, unknown].map(|event| row_in(&event, &TimeZone::UTC));
        expect![[r#"
            12:00:03.250  forwarded  shop/web:http         TCP shop/client:40000 > 10.96.0.10:80 > 10.244.2.4:8080
            12:00:03.250  refused    shop/web              TCP cu?rl[77] > 10.96.0.10:80  no_endpoint: no endpoint of the service port is ready
            12:00:03.250  failed     shop/web:http         TCP shop/client:40000 > 10.96.0.10:80 > 10.244.2.4:8080  timed_out: the backend did not answer (1050.0 ms)
            12:00:03.250  forwarded  -                     TCP ? > 10.96.0.10:80
        "#]]
        .assert_eq(&rows.concat());
    }

    #[test]
    fn a_loss_is_a_sentence() {
        let text = |source, count| loss(&LostEvents { source, count });
        assert_eq!(text(LossSource::Ring, 1), "1 event was lost: there are more than the agent reads");
        assert_eq!(text(LossSource::Listener, 7), "7 events were lost: this output is read too slowly");
    }
}
