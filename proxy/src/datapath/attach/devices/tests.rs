use super::*;
use crate::config::{Forwarding, TcHooks, XdpMode};

/// `name kind [in controller] [address]*`, one device a line; its index is its line, and `default` is a
/// default route.
pub fn network(text: &str) -> Network {
    let mut network = Network::default();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let lines: Vec<_> = lines.into_iter().filter(|words| !words.is_empty()).collect();
    let index_of =
        |name: &str| lines.iter().position(|words| words.first() == Some(&name)).unwrap() as u32 + 1;
    for words in &lines {
        let (name, more) = words.split_first().unwrap();
        let (kind, more) = more.split_first().unwrap();
        let index = index_of(name);
        let mut controller = None;
        for word in more {
            if *word == "default" {
                network.default_routes.insert(index);
            } else if let Some(name) = word.strip_prefix("in=") {
                controller = Some(index_of(name));
            } else {
                network.addresses.push(address(index, word));
            }
        }
        let has_link_header = *kind != "tunnel";
        network.links.push(Link {
            address: None,
            vlan_parent: None,
            index,
            name: (*name).to_owned(),
            kind: named(kind),
            controller,
            has_link_header,
        });
    }
    network
}

fn named(kind: &str) -> LinkKind {
    match kind {
        "lo" => LinkKind::Loopback,
        "nic" => LinkKind::Nic,
        "bridge" => LinkKind::Bridge,
        "pod" => LinkKind::Veth(PeerNetns::Other),
        "veth" => LinkKind::Veth(PeerNetns::Same),
        "tunnel" => LinkKind::Tunnel,
        "vrf" => LinkKind::Vrf,
        "dummy" => LinkKind::Dummy,
        other => panic!("{other}"),
    }
}

/// A `~` before an address makes it a secondary one.
fn address(device: u32, text: &str) -> Address {
    let plain = text.trim_start_matches('~');
    let (ip, prefix) = plain.split_once('/').unwrap();
    Address { device, ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap(), is_secondary: text != plain }
}

fn config(external: &str, pod: &str) -> DeviceConfig {
    DeviceConfig {
        external: external.parse().unwrap(),
        pod: pod.parse().unwrap(),
        tc: TcHooks::Auto,
        xdp: XdpMode::Auto,
        forwarding: Forwarding::Auto,
    }
}

fn auto() -> DeviceConfig {
    config("auto", "auto")
}

fn roles(network: &Network, config: &DeviceConfig) -> String {
    let role = |device: &Device| match device.role {
        DeviceRole::External => "external",
        DeviceRole::Pod => "pod",
        DeviceRole::Loopback => "loopback",
    };
    let devices = select_devices(network, config);
    devices.iter().map(|device| format!("{}={}", device.name, role(device))).collect::<Vec<_>>().join(" ")
}

struct Case {
    name: &'static str,
    devices: &'static str,
    want: &'static str,
}

const DETECTION: &[Case] = &[
    Case {
        name: "one NIC, pods on a bridge",
        devices: "lo lo 127.0.0.1/8
                      eth0 nic default 192.0.2.1/24
                      cni0 bridge 10.244.1.1/24
                      veth1 pod in=cni0
                      veth2 pod in=cni0",
        want: "lo=loopback eth0=external cni0=pod veth1=pod veth2=pod",
    },
    Case {
        name: "pods routed one by one, without and with an address at the host's end",
        devices: "eth0 nic default 192.0.2.1/24
                      cali1 pod
                      ptp1 pod 10.244.1.1/32 fd00::1/128",
        want: "eth0=external cali1=pod ptp1=pod",
    },
    Case {
        name: "a node that is a container: its uplinks are veth devices",
        devices: "eth0 pod default 172.18.0.2/16
                      eth1 pod 172.19.0.2/16
                      veth1 pod 10.244.1.1/32",
        want: "eth0=external eth1=external veth1=pod",
    },
    Case {
        name: "a NIC without an address has no role, one for storage has",
        devices: "eth0 nic default 192.0.2.1/24
                      eth1 nic
                      ib0 nic 10.9.0.1/24",
        want: "eth0=external ib0=external",
    },
    Case {
        name: "a bond and its ports",
        devices: "eth0 nic in=bond0
                      eth1 nic in=bond0
                      bond0 nic default 192.0.2.1/24",
        want: "bond0=external",
    },
    Case {
        name: "a bond that is the port of a bridge",
        devices: "eth0 nic in=bond0
                      bond0 nic in=br0
                      br0 bridge default 192.0.2.1/24
                      vnet0 tunnel in=br0",
        want: "br0=external",
    },
    Case {
        name: "a VLAN and the NIC below it",
        devices: "eth0 nic 192.0.2.1/24
                      vlan10 nic default 198.51.100.1/24",
        want: "eth0=external vlan10=external",
    },
    Case {
        name: "tunnels between nodes lead to other machines",
        devices: "eth0 nic default 192.0.2.1/24
                      flannel1 tunnel 10.244.1.0/32
                      tunl0 tunnel 10.244.1.0/32
                      wg0 tunnel 100.64.0.1/10
                      wg1 tunnel",
        want: "eth0=external flannel1=external tunl0=external wg0=external",
    },
    Case {
        name: "VXLAN as the port of a bridge",
        devices: "eth0 nic default 192.0.2.1/24
                      br1 bridge 10.1.0.1/16
                      vx1 tunnel in=br1
                      veth1 pod in=br1",
        want: "eth0=external br1=pod veth1=pod",
    },
    Case {
        name: "pods on the bridge that has the uplink",
        devices: "eth0 nic in=br0
                      br0 bridge default 192.0.2.1/24
                      veth1 pod in=br0",
        want: "br0=external veth1=pod",
    },
    Case {
        name: "a second bridge with an uplink and no default route",
        devices: "eth0 nic default 192.0.2.1/24
                      eth1 nic in=br1
                      br1 bridge 198.51.100.1/24",
        want: "eth0=external br1=external",
    },
    Case {
        name: "bridges without ports of pods: docker without containers, libvirt",
        devices: "eth0 nic default 192.0.2.1/24
                      docker0 bridge 172.17.0.1/16
                      virbr0 bridge 192.168.122.1/24
                      vnet0 tunnel in=virbr0",
        want: "eth0=external",
    },
    Case {
        name: "devices that only hold addresses",
        devices: "eth0 nic default 192.0.2.1/24
                      kubeipvs0 dummy 10.96.0.1/32
                      nodelocaldns dummy 169.254.20.10/32",
        want: "eth0=external",
    },
    Case {
        name: "Cilium's own veth pair",
        devices: "eth0 nic default 192.0.2.1/24
                      cilium_net veth
                      cilium_host veth 10.0.0.1/32
                      cilium_vxlan tunnel
                      lxc1 pod",
        want: "eth0=external lxc1=pod",
    },
    Case {
        name: "ports of a VRF",
        devices: "eth0 nic default 192.0.2.1/24
                      blue vrf 127.0.0.1/8
                      eth1 nic in=blue 198.51.100.1/24",
        want: "eth0=external eth1=external",
    },
    Case {
        name: "IPv6 alone",
        devices: "eth0 nic default 2001:db8::1/64
                      veth1 pod fd00::1/128",
        want: "eth0=external veth1=pod",
    },
    Case { name: "nothing", devices: "lo lo 127.0.0.1/8", want: "lo=loopback" },
];

#[test]
fn roles_are_detected_from_properties() {
    for Case { name, devices, want } in DETECTION {
        assert_eq!(roles(&network(devices), &auto()), *want, "{name}");
    }
}

#[test]
fn the_command_line_overrides_detection() {
    let network = network(
        "lo lo 127.0.0.1/8
         eth0 nic default 192.0.2.1/24
         eth1 nic 198.51.100.1/24
         veth1 pod
         tap1 tunnel",
    );
    let cases = [
        ("auto", "auto", "lo=loopback eth0=external eth1=external veth1=pod"),
        ("none", "auto", "lo=loopback veth1=pod"),
        ("auto", "none", "lo=loopback eth0=external eth1=external"),
        ("eth0", "auto", "lo=loopback eth0=external veth1=pod"),
        ("eth*", "tap*", "lo=loopback eth0=external eth1=external tap1=pod"),
        ("auto", "eth1,tap*", "lo=loopback eth0=external eth1=pod tap1=pod"),
        ("veth1", "auto", "lo=loopback veth1=external"),
        ("tap1", "tap1", "lo=loopback tap1=external"),
        ("lo", "none", "lo=external"),
        ("none", "none", ""),
        ("missing", "missing", "lo=loopback"),
    ];
    for (external, pod, want) in cases {
        assert_eq!(roles(&network, &config(external, pod)), want, "--devices {external} --pod-devices {pod}");
    }
}

#[test]
fn masquerading_takes_an_address_of_the_output_device() {
    let network = network(
        "lo lo 127.0.0.1/8
         eth1 nic ~198.51.100.9/24 198.51.100.1/24
         eth0 nic default 192.0.2.1/24 192.0.2.2/24 2001:db8::1/64
         cni0 bridge 10.244.1.1/24
         veth1 pod in=cni0
         flannel1 tunnel 10.244.1.0/32",
    );
    let devices = select_devices(&network, &auto());
    let found: Vec<_> = devices
        .iter()
        .filter(|device| device.role != DeviceRole::Loopback)
        .map(|device| {
            let ip = |ip: Option<String>| ip.unwrap_or_default();
            (
                device.name.as_str(),
                ip(device.v4.map(|ip| ip.to_string())),
                ip(device.v6.map(|ip| ip.to_string())),
            )
        })
        .collect();
    let want = [
        ("eth1", "198.51.100.1", "2001:db8::1"),
        ("eth0", "192.0.2.1", "2001:db8::1"),
        ("cni0", "10.244.1.1", "2001:db8::1"),
        ("veth1", "192.0.2.1", "2001:db8::1"),
        ("flannel1", "10.244.1.0", "2001:db8::1"),
    ];
    assert_eq!(found, want.map(|(name, v4, v6)| (name, v4.to_owned(), v6.to_owned())));
}
