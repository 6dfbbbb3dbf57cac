//! `portreeve top`: rates of real connections, and a terminal that is left as it was.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::File,
    io::{Read as _, Write as _},
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::{Child, Command, ExitStatus, Stdio},
    ptr,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use anyhow::{Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::{Cluster, agent::portreeve, eventually, node::Node, traffic::Protocol};

fn top(node: &Node, arguments: &[&str]) -> Command {
    let mut command = Command::new(portreeve().unwrap());
    command.arg("top").args(arguments).arg("--bpffs").arg(node.bpffs());
    command.arg("--run-dir").arg(node.setting().run_dir()).stdin(Stdio::null());
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    command
}

/// The row of a list of `--once -o json` with this value of a field.
fn row<'a>(document: &'a Value, list: &str, field: &str, value: &str) -> &'a Value {
    let rows = document[list].as_array().unwrap();
    rows.iter().find(|row| row[field] == value).unwrap_or_else(|| panic!("no {value} in {document:#}"))
}

#[tokio::test]
async fn connections_failures_and_refusals_have_rates() -> Result<()> {
    let cluster = Cluster::start("top").await;
    let web = cluster.service("web").tcp(80).backends(["a", "b"]).await;
    let broken = cluster.service("broken").tcp(80).backends(["c"]).await;
    let empty = cluster.service("empty").tcp(80).backends(["d"]).await;
    let c = cluster.pod("c").start().await;
    c.stop(Protocol::Tcp, broken.port(0).target).await?;
    empty.scale_to_zero();
    cluster.pod("client").dials(empty.vips()).times(1).comes_to_be_refused().await;
    let node = cluster.node(0);
    cluster.pod("holder").start().await.hold(web.vips().into(), 3).await?;

    let reading = top(node, &["--once", "-o", "json", "--delay", "4"]).stdout(Stdio::piped()).spawn()?;
    let reading = thread::spawn(move || reading.wait_with_output());
    while !reading.is_finished() {
        cluster.pod("client").dials(web.vips()).times(20).always_reaches_one_of(["a", "b"]).await;
        cluster.pod("client").dials(broken.vips()).times(1).report().await;
        cluster.pod("client").dials(empty.vips()).times(1).report().await;
    }
    let output = reading.join().unwrap()?;
    ensure!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let number = |row: &Value, field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field}: {row}"));
    ensure!(number(&document, "interval_seconds") >= 4.0, "{document}");

    let of_web = row(&document, "services", "service", "default/web");
    for field in
        ["connections_per_second", "opened_per_second", "sent_bytes_per_second", "received_bytes_per_second"]
    {
        ensure!(number(of_web, field) > 0.0, "{field} of {of_web}");
    }
    ensure!(number(of_web, "failures_per_second") == 0.0, "{of_web}");
    ensure!(number(of_web, "open") >= 3.0, "{of_web}");
    ensure!(number(of_web, "connect_p99_at_most_seconds") > number(of_web, "connect_p99_above_seconds"));
    let of_broken = row(&document, "services", "service", "default/broken");
    ensure!(number(of_broken, "failures_per_second") > 0.0, "{of_broken}");
    ensure!(number(&of_broken["failures"], "refused") > 0.0, "{of_broken}");
    let of_empty = row(&document, "services", "service", "default/empty");
    ensure!(number(of_empty, "refused_per_second") > 0.0, "{of_empty}");
    ensure!(number(row(&document, "refusals", "reason", "no_endpoint"), "count") > 0.0, "{document}");
    let backends: Vec<_> = document["backends"].as_array().unwrap().iter().collect();
    let of_web: Vec<_> = backends.iter().filter(|row| row["service"] == "default/web").collect();
    ensure!(of_web.len() == 4, "two pods in both families: {of_web:?}");
    let shares: f64 = of_web.iter().map(|row| number(row, "share")).sum();
    ensure!((shares - 1.0).abs() < 1e-6, "{of_web:?}");
    ensure!(document["dns"].is_null(), "the agent serves no DNS");

    // Without an agent the kernel goes on to count; of one Service there are no others.
    node.kill_agent().await?;
    let output = top(node, &["--once", "-d", "0.1", "web"]).output()?;
    let table = String::from_utf8(output.stdout)?;
    ensure!(table.starts_with("SERVICE ") && table.contains("default/web"), "{table}");
    ensure!(!table.contains("default/broken"), "{table}");

    Ok(())
}

#[tokio::test]
async fn what_is_no_terminal_is_told_of_once() -> Result<()> {
    let cluster = Cluster::start("top-piped").await;
    let node = cluster.node(0);
    for (arguments, words) in [
        (&[][..], "no terminal: use --once"),
        (&["-o", "json"], "add --once"),
        (&["--delay", "0"], "0.1 and 3600"),
    ] {
        let output = top(node, arguments).output()?;
        let error = String::from_utf8(output.stderr)?;
        ensure!(!output.status.success() && error.contains(words), "{arguments:?}: {error}");
    }
    Ok(())
}

/// `top` in a terminal of its own.
struct Live {
    child: Child,
    keys: File,
    written: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    modes: Vec<u8>,
}

impl Live {
    fn start(mut command: Command, columns: u16, lines: u16) -> Result<Self> {
        let size = libc::winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut master, mut slave) = (-1, -1);
        // SAFETY: the pointers are to values that outlive the call; name and settings are optional.
        let opened = unsafe {
            libc::openpty(&raw mut master, &raw mut slave, ptr::null_mut(), ptr::null(), &raw const size)
        };
        ensure!(opened == 0);
        // SAFETY: on success both are new descriptors without another owner.
        let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let keys = File::from(master);
        let modes = modes(&keys);
        let child = command.stdin(slave.try_clone()?).stdout(slave).stderr(Stdio::null()).spawn()?;
        drop(command);
        let written: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (mut screen, copy) = (keys.try_clone()?, Arc::clone(&written));
        let reader = thread::spawn(move || {
            let mut piece = [0; 4096];
            // A terminal without users reads as EIO.
            while let Ok(length @ 1..) = screen.read(&mut piece) {
                copy.lock().unwrap().extend(&piece[..length]);
            }
        });
        Ok(Self { child, keys, written, reader: Some(reader), modes })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned()
    }

    async fn shows(&self, words: &str) {
        eventually(&format!("the screen shows {words}"), async || {
            let screen = screen(&self.text());
            ensure!(screen.contains(words), "{screen}");
            Ok(())
        })
        .await;
    }

    fn press(&mut self, keys: &[u8]) -> Result<()> {
        Ok(self.keys.write_all(keys)?)
    }

    /// Waits for the end; the terminal is as it was before.
    fn ends(mut self) -> Result<ExitStatus> {
        let status = self.child.wait()?;
        let is_restored = modes(&self.keys) == self.modes;
        self.reader.take().map(JoinHandle::join);
        let text = self.text();
        ensure!(is_restored, "it is raw");
        ensure!(text.contains("\u{1b}[?1049h") && text.ends_with(RESTORED), "{text:?}");
        ensure!(text.contains("\u{1b}[?25l"), "the cursor was hidden: {text:?}");
        Ok(status)
    }
}

/// Leaves the alternate screen, and shows the cursor.
const RESTORED: &str = "\u{1b}[?1049l\u{1b}[?25h";

/// The screen after this output, which moves the cursor by `CSI line;column H` and clears all or nothing.
fn screen(output: &str) -> String {
    let (mut lines, mut line, mut column) = (vec![vec![' '; 200]; 60], 0, 0);
    let mut rest = output.chars();
    while let Some(character) = rest.next() {
        if character != '\u{1b}' {
            lines[line][column] = character;
            column += 1;
            continue;
        }
        if rest.next() != Some('[') {
            continue;
        }
        let mut parameters = String::new();
        let last = rest.by_ref().find(|next| {
            let is_last = next.is_ascii_alphabetic();
            parameters.extend(Some(*next).filter(|_| !is_last));
            is_last
        });
        let numbers: Vec<usize> = parameters.split(';').filter_map(|number| number.parse().ok()).collect();
        match (last, &numbers[..]) {
            (Some('H'), [to_line, to_column]) => (line, column) = (to_line - 1, to_column - 1),
            (Some('J'), [2]) => lines.iter_mut().for_each(|line| line.fill(' ')),
            _ => {}
        }
    }
    lines.iter().map(|line| format!("{}\n", line.iter().collect::<String>().trim_end())).collect()
}

fn modes(terminal: &File) -> Vec<u8> {
    let mut modes = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: the pointer is to a value of this type, which the call fills in.
    let modes = unsafe {
        assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), modes.as_mut_ptr()), 0);
        modes.assume_init()
    };
    let flags = [modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag];
    flags.iter().flat_map(|flag| flag.to_ne_bytes()).chain(modes.c_cc).collect()
}

#[tokio::test]
async fn however_it_ends_the_terminal_is_as_it_was() -> Result<()> {
    let cluster = Cluster::start("top-live").await;
    let _web = cluster.service("web").tcp(80).backends(["a"]).await;
    let node = cluster.node(0);
    let live = || Live::start(top(node, &["-d", "0.1"]), 80, 24);
    for keys in [&b"q"[..], b"\x03", b"?xq"] {
        let mut live = live()?;
        live.shows("default/web").await;
        live.press(keys)?;
        ensure!(live.ends()?.success());
    }
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let live = live()?;
        live.shows("default/web").await;
        kill(Pid::from_raw(live.child.id().cast_signed()), signal)?;
        ensure!(live.ends()?.success(), "{signal}");
    }

    // From a Service to its backend, and back; the agent and then the data plane go meanwhile.
    let mut live = live()?;
    live.shows("default/web").await;
    live.press(b"/web\r\r")?;
    live.shows("SHARE").await;
    live.press(b"3")?;
    live.shows("the DNS server of the agent is off").await;
    node.terminate_agent().await?;
    live.shows("no agent runs").await;
    let mut cleanup = Command::new(portreeve()?);
    cleanup.arg("cleanup").arg("--bpffs").arg(node.bpffs());
    let cleanup = node.netns().run(|| Ok(cleanup.output()?))?;
    ensure!(cleanup.status.success(), "{cleanup:?}");
    live.press(b"1")?;
    live.shows("no data plane").await;
    live.press(b"q")?;
    ensure!(live.ends()?.success());
    Ok(())
}

#[tokio::test]
async fn a_terminal_may_be_small_or_change() -> Result<()> {
    let cluster = Cluster::start("top-small").await;
    let _web = cluster.service("web").tcp(80).backends(["a"]).await;
    let mut live = Live::start(top(cluster.node(0), &["-d", "60"]), 30, 5)?;
    live.shows("too small: 40x8 needed").await;
    let size = libc::winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the pointer is to a value of the type that this request reads.
    let resized = unsafe { libc::ioctl(live.keys.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    ensure!(resized == 0);
    // The terminal is not the controlling one of the process, so the kernel does not tell it.
    kill(Pid::from_raw(live.child.id().cast_signed()), Signal::SIGWINCH)?;
    live.shows("default/web").await;
    live.press(b"q")?;
    ensure!(live.ends()?.success());
    Ok(())
}
