use expect_test::{Expect, expect};
use proxy_ebpf::abi::DropReason;
use ratatui::{Terminal, backend::TestBackend};

use super::{
    super::{
        dns::{ClientRow, TopicRow, UpstreamRow},
        rates::{BackendRow, Bounds, RefusalRow, ServiceRow, TcpRates},
        tables::{self, Endpoints},
        view::Key,
    },
    *,
};
use crate::{cli::get::labels::ServicePort, model::address::Protocol, observe::objects::EndpointDetails};

fn name(service: &str) -> ServicePort {
    ServicePort { service: service.to_owned(), port_name: "http".to_owned() }
}

fn tcp(failures: f64) -> TcpRates {
    TcpRates {
        failures_per_second: Some(failures),
        failures: None,
        sent_bytes_per_second: Some(1_250_000.0),
        received_bytes_per_second: Some(82_000_000.0),
        retransmissions_per_second: Some(0.25),
    }
}

fn service(id: u32, service: &str, connections: Option<f64>, failures: f64) -> ServiceRow {
    ServiceRow {
        id,
        name: name(service),
        protocol: Protocol::Tcp,
        connections_per_second: connections,
        refused_per_second: connections.map(|_| 0.0),
        opened_per_second: connections,
        tcp: if connections.is_some() { tcp(failures) } else { TcpRates::default() },
        connect_p99: connections.map(|_| Bounds { above: 1_000_000, at_most: Some(2_500_000) }),
        round_trip_seconds: connections.map(|_| 0.00018),
        open: u64::from(id) * 3,
    }
}

fn backend(last: u8, share: f64, failures: f64) -> BackendRow {
    BackendRow {
        service_id: 1,
        name: name("shop/web"),
        protocol: Protocol::Tcp,
        address: ([10, 244, 1, last], 8080).into(),
        state: "ready",
        share: Some(share),
        opened_per_second: Some(share * 100.0),
        tcp: tcp(failures),
        round_trip_seconds: Some(0.00018),
        open: 12,
    }
}

fn rates() -> Rates {
    Rates {
        interval_seconds: 2.0,
        services: vec![
            service(1, "shop/web", Some(1_523.5), 0.0),
            service(2, "shop-of-a-long-name/web-frontend-with-a-long-name", Some(12.0), 2.5),
            service(3, "blog/new", None, 0.0),
        ],
        backends: vec![backend(4, 0.25, 0.0), backend(5, 0.75, 3.0)],
        refusals: vec![
            RefusalRow { reason: DropReason::NoEndpoint, count: 12, per_second: Some(1.5) },
            RefusalRow { reason: DropReason::ConntrackFull, count: 0, per_second: Some(0.0) },
        ],
    }
}

fn dns() -> DnsRates {
    let client = |client: &str, queries| ClientRow {
        client: client.to_owned(),
        queries,
        queries_per_second: Some(queries as f64 / 10.0),
        refused_per_second: Some(0.0),
        failed_per_second: Some(0.5),
        slow_per_second: Some(0.0),
        mostly: "service".to_owned(),
    };
    DnsRates {
        topics: vec![TopicRow {
            topic: "service".to_owned(),
            queries: 1300,
            queries_per_second: Some(130.0),
        }],
        clients: vec![client("shop/web-0", 1200), client("node", 100)],
        upstreams: vec![UpstreamRow {
            upstream: "10.0.0.2:53".to_owned(),
            answers_per_second: Some(12.0),
            failed_per_second: Some(0.0),
            slow_per_second: Some(0.5),
        }],
    }
}

fn endpoints() -> Endpoints {
    let details = EndpointDetails {
        service: "shop/web".to_owned(),
        address: [10, 244, 1, 4].into(),
        pod: Some("shop/web-7c9d8b6f5-x2x4p".to_owned()),
        node: Some("node-1".to_owned()),
        zone: None,
    };
    [((details.service.clone(), details.address), details)].into()
}

/// The rows of the subject that is open.
fn grid(view: &View, rates: &Rates, dns: &DnsRates) -> Grid {
    let grid = match &view.place().subject {
        Subject::Services => tables::services(&rates.services),
        Subject::Backends { service, .. } => tables::backends(&rates.backends, *service, &endpoints()),
        Subject::Clients { .. } => tables::clients(&[].into(), &[].into()),
        Subject::Refusals => tables::refusals(&rates.refusals),
        Subject::Dns => tables::dns(dns),
    };
    grid.filtered(&view.place().filter).sorted(view.sort())
}

/// The screen after these keys.
fn terminal(size: (u16, u16), keys: &[Key], error: Option<&str>) -> Terminal<TestBackend> {
    let (mut view, rates, dns) = (View::new(), rates(), dns());
    for key in keys {
        let grid = grid(&view, &rates, &dns);
        view.press(*key, &grid, 10);
    }
    let grid = grid(&view, &rates, &dns);
    let shown = Shown {
        view: &view,
        grid: &grid,
        rates: &rates,
        dns: Some(&dns),
        title: "12:00:00, every 2 s, /sys/fs/bpf/portreeve".to_owned(),
        error,
        has_colour: true,
    };
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    terminal.draw(|frame| draw(frame, &shown)).unwrap();
    terminal
}

fn screen(size: (u16, u16), keys: &[Key], error: Option<&str>) -> String {
    let terminal = terminal(size, keys, error);
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(usize::from(size.0)).map(|line| {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned()
    });
    let lines: Vec<String> = lines.collect();
    // Runs of empty lines are told by their length.
    let runs = lines.chunk_by(|a, b| a.is_empty() && b.is_empty()).map(|run| match run {
        [line] => format!("{line}\n"),
        empty => format!("({} empty lines)\n", empty.len()),
    });
    runs.collect()
}

#[track_caller]
fn check(size: (u16, u16), keys: &[Key], want: &Expect) {
    let text = screen(size, keys, None);
    want.assert_eq(&text);
    assert!(text.is_ascii(), "for every locale");
}

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (160, 50);

fn keys(text: &str) -> Vec<Key> {
    text.chars().map(Key::Character).collect()
}

#[test]
fn services() {
    check(
        SMALL,
        &[],
        &expect![[r#"
            portreeve top - 12:00:00, every 2 s, /sys/fs/bpf/portreeve
            3 ports  1536 conn/s  2.5 fail/s  0 refuse/s  2.5M/s sent  164M/s recv  18 open
             1 Services  2 Refusals  3 DNS
            SERVICE                 CONN/S  FAIL/S REFUSE/S  SENT/S  RECV/S      P99   OPEN
            shop/web:http             1524       0        0    1.2M   82.0M  <=2.5ms      3
            shop-of-a-long-name/w~      12     2.5        0    1.2M   82.0M  <=2.5ms      6
            blog/new:http                -       -        -       -       -        -      9
            (16 empty lines)
            Enter open  Esc back  / filter  <> sort  R reverse  Space pause  ? help  q quit
        "#]],
    );
    check(
        LARGE,
        &[],
        &expect![[r#"
            portreeve top - 12:00:00, every 2 s, /sys/fs/bpf/portreeve
            3 ports  1536 conn/s  2.5 fail/s  0 refuse/s  2.5M/s sent  164M/s recv  18 open
             1 Services  2 Refusals  3 DNS
            SERVICE                                                                      CONN/S  FAIL/S REFUSE/S  SENT/S  RECV/S      P99   OPEN  RETR/S       RTT PROTOCOL
            shop/web:http                                                                  1524       0        0    1.2M   82.0M  <=2.5ms      3    0.25    0.18ms TCP
            shop-of-a-long-name/web-frontend-with-a-long-name:http                           12     2.5        0    1.2M   82.0M  <=2.5ms      6    0.25    0.18ms TCP
            blog/new:http                                                                     -       -        -       -       -        -      9       -         - TCP
            (42 empty lines)
            Enter open  Esc back  / filter  <> sort  R reverse  Space pause  ? help  q quit
        "#]],
    );
    check(
        SMALL,
        &keys("/BLOG"),
        &expect![[r#"
            portreeve top - 12:00:00, every 2 s, /sys/fs/bpf/portreeve
            3 ports  1536 conn/s  2.5 fail/s  0 refuse/s  2.5M/s sent  164M/s recv  18 open
             1 Services  2 Refusals  3 DNS
            SERVICE                 CONN/S  FAIL/S REFUSE/S  SENT/S  RECV/S      P99   OPEN
            blog/new:http                -       -        -       -       -        -      9
            (18 empty lines)
            filter: BLOG_
        "#]],
    );
}

#[test]
fn backends_and_their_clients() {
    check(
        SMALL,
        &[Key::Enter],
        &expect![[r#"
            portreeve top - 12:00:00, every 2 s, /sys/fs/bpf/portreeve
            3 ports  1536 conn/s  2.5 fail/s  0 refuse/s  2.5M/s sent  164M/s recv  18 open
             1 Services  2 Refusals  3 DNS  > shop/web:http
            BACKEND                 SHARE OPENED/S  FAIL/S  SENT/S  RECV/S       RTT   OPEN
            10.244.1.5:8080           75%       75       3    1.2M   82.0M    0.18ms     12
            10.244.1.4:8080           25%       25       0    1.2M   82.0M    0.18ms     12
            (17 empty lines)
            Enter open  Esc back  / filter  <> sort  R reverse  Space pause  ? help  q quit
        "#]],
    );
    check(
        LARGE,
        &[Key::Enter],
        &expect![[r#"
            portreeve top - 12:00:00, every 2 s, /sys/fs/bpf/portreeve
            3 ports  1536 conn/s  2.5 fail/s  0 refuse/s  2.5M/s sent  164M/s recv  18 open
             1 Services  2 Refusals  3 DNS  > shop/web:http
            BACKEND                                 SHARE OPENED/S  FAIL/S  SENT/S  RECV/S       RTT   OPEN  RETR/S STATE       POD                          NODE
            10.244.1.5:8080                           75%       75       3    1.2M   82.0M    0.18ms     12    0.25 ready       -                            -
            10.244.1.4:8080                           25%       25       0    1.2M   82.0M    0.18ms     12    0.25 ready       shop/web-7c9d8b6f5-x2x4p     node-1
            (43 empty lines)
            Enter open  Esc back  / filter  <> sort  R reverse  Space pause  ? help  q quit
        "#]],
    );
    check(
        SMALL,
        &[Key::Enter, Key::Enter],
        &expect![[r#"
            portreeve top - 12:00:00, every 2 s, /sys/fs/bpf/portreeve
            3 ports  1536 conn/s  2.5 fail/s  0 refuse/s  2.5M/s sent  164M/s recv  18 open
             1 Services  2 Refusals  3 DNS  > shop/web:http > 10.244.1.5:8080
            CLIENT                                    FLOWS  CLOSED    SENT RECEIVED   IDLE
            no flow of the packet plane: connections of sockets bring no client's address
            (18 empty lines)
            Enter open  Esc back  / filter  <> sort  R reverse  Space pause  ? help  q quit
        "#]],
    );
}

#[test]
fn refusals_and_names() {
    check(
        SMALL,
        &keys("2"),
        &expect![[r#"
            portreeve top - 12:00:00, every 2 s, /sys/fs/bpf/portreeve
            3 ports  1536 conn/s  2.5 fail/s  0 refuse/s  2.5M/s sent  164M/s recv  18 open
             1 Services  2 Refusals  3 DNS
            REASON                          COUNT   PER S MEANING
            no_endpoint                        12     1.5 no endpoint of the service port ~
            (18 empty lines)
            Enter open  Esc back  / filter  <> sort  R reverse  Space pause  ? help  q quit
        "#]],
    );
    check(
        SMALL,
        &keys("3"),
        &expect![[r#"
            portreeve top - 12:00:00, every 2 s, /sys/fs/bpf/portreeve
            3 ports  1536 conn/s  2.5 fail/s  0 refuse/s  2.5M/s sent  164M/s recv  18 open
             1 Services  2 Refusals  3 DNS
            names: service 130/s
            upstream 10.0.0.2:53: 12 answers/s, 0 failed/s, 0.50 slow/s
            CLIENT                            QUERIES/S FAILED/S REFUSED/S  SLOW/S MOSTLY
            shop/web-0                              120     0.50         0       0 service
            node                                     10     0.50         0       0 service
            (15 empty lines)
            Enter open  Esc back  / filter  <> sort  R reverse  Space pause  ? help  q quit
        "#]],
    );
    check(
        LARGE,
        &keys("3 "),
        &expect![[r#"
            portreeve top - 12:00:00, every 2 s, /sys/fs/bpf/portreeve
            3 ports  1536 conn/s  2.5 fail/s  0 refuse/s  2.5M/s sent  164M/s recv  18 open
             1 Services  2 Refusals  3 DNS   PAUSED
            names: service 130/s
            upstream 10.0.0.2:53: 12 answers/s, 0 failed/s, 0.50 slow/s
            CLIENT                                                                                                  QUERIES/S FAILED/S REFUSED/S  SLOW/S MOSTLY     QUERIES
            shop/web-0                                                                                                    120     0.50         0       0 service       1200
            node                                                                                                           10     0.50         0       0 service        100
            (41 empty lines)
            Enter open  Esc back  / filter  <> sort  R reverse  Space pause  ? help  q quit
        "#]],
    );
}

#[test]
fn help_and_terminals_that_are_too_small() {
    check(
        SMALL,
        &keys("?"),
        &expect![[r#"
            portreeve top - 12:00:00, every 2 s, /sys/fs/bpf/portreeve
            3 ports  1536 conn/s  2.5 fail/s  0 refuse/s  2.5M/s sent  164M/s recv  18 open
             1 Services  2 Refusals  3 DNS
            Enter           open the backends of a Service, the clients of a backend
            Esc Left        back
            Up Down PgUp PgDn Home End   move
            1 2 3 Tab       Services, Refusals, DNS
            /               filter by text: Enter keeps it, Esc removes it
            < >             sort by another column; R reverses
            n c f x s r p o sort by name, CONN/S, FAIL/S, REFUSE/S, SENT/S, RECV/S, P99,
                            OPEN
            Space           pause
            q Ctrl-C        quit

            CONN/S counts sockets and packets. FAIL/S, bytes, P99 and OPEN are of TCP
            connections of this node's sockets; bytes of open ones come every 10 s.
            Clients are of the packet plane: connections of sockets bring no address.
            `-` is not known yet. `portreeve top --help` has all columns.
            (5 empty lines)
            any key closes the help
        "#]],
    );
    check(
        (39, 24),
        &[],
        &expect![[r#"
            too small: 40x8 needed
            (23 empty lines)
        "#]],
    );
    check(
        (80, 7),
        &[],
        &expect![[r#"
            too small: 40x8 needed
            (6 empty lines)
        "#]],
    );
    check(
        (5, 1),
        &[],
        &expect![[r#"
        too s
    "#]],
    );
}

#[test]
fn the_least_terminal_shows_a_row() {
    check(
        LEAST,
        &[],
        &expect![[r#"
            portreeve top - 12:00:00, every 2 s, /s~
            3 ports  1536 conn/s  2.5 fail/s  0 ref~
             1 Services  2 Refusals  3 DNS
            SERVICE         CONN/S  FAIL/S REFUSE/S
            shop/web:http     1524       0        0
            shop-of-a-lon~      12     2.5        0
            blog/new:http        -       -        -
            Enter open  Esc back  / filter  <> sort~
        "#]],
    );
}

#[test]
fn data_that_is_old_is_said() {
    let text = screen(SMALL, &[], Some("no data plane at /sys/fs/bpf/portreeve"));
    assert_eq!(text.lines().nth(1), Some("no data plane at /sys/fs/bpf/portreeve"));
}

/// Nothing is told by colour alone.
#[test]
fn the_cursor_the_order_and_failures_have_attributes() {
    let terminal = terminal(SMALL, &keys("n"), None);
    let cell = |column: u16, line: u16| terminal.backend().buffer()[(column, line)].clone();
    assert!(cell(0, 4).modifier.contains(Modifier::REVERSED), "the first row is selected");
    assert!(!cell(0, 5).modifier.contains(Modifier::REVERSED));
    assert!(!cell(0, 3).modifier.contains(Modifier::REVERSED), "sorted by name");
    assert!(cell(70, 3).modifier.contains(Modifier::REVERSED));
    let red: Vec<_> = (0..80).filter(|column| cell(*column, 5).fg == Color::Red).collect();
    assert!(!red.is_empty(), "the failures of the second row");
    assert!(red.iter().all(|column| cell(*column, 5).modifier.contains(Modifier::BOLD)));
}
