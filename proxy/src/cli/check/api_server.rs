//! Checks the address of the API server. It must not be a ClusterIP: on a fresh node no proxy serves ClusterIPs yet.

use std::{
    io,
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use super::finding::Finding;
use crate::{
    cli::source_args::SourceArgs,
    config::{Environment, Objects},
    error::chain,
    k8s::access::Access,
};

const NAME: &str = "api-server";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REMEDY: &str =
    "set an address other than the ClusterIP with --api-server, such as https://192.0.2.1:6443";

pub fn check(source: SourceArgs) -> Finding {
    match source.objects(None) {
        Objects::Manifests(path) => match path.try_exists() {
            Ok(true) => Finding::ok("manifests", path.display().to_string()),
            Ok(false) => {
                Finding::fail("manifests", format!("{} does not exist", path.display()), "create it")
            }
            Err(error) => Finding::fail("manifests", error.to_string(), "make it readable for the agent"),
        },
        Objects::ApiServer(access) => server(&access),
    }
}

fn server(access: &Access) -> Finding {
    let (host, port) = match address(access) {
        Ok(address) => address,
        Err(message) => {
            return Finding::warn(NAME, message, "give --kubeconfig or --api-server, or --manifests");
        }
    };
    let is_cluster_ip = Environment::read().api_server.is_some_and(|url| has_host(&url, &host));
    finding(&format!("{host}:{port}"), connect(&host, port), is_cluster_ip)
}

fn has_host(url: &str, host: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|url| url.host() == Some(host))
}

fn address(access: &Access) -> Result<(String, u16), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(access.address()).map_err(|error| chain(&error))
}

fn connect(host: &str, port: u16) -> io::Result<()> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host.trim_matches(['[', ']']), port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn finding(address: &str, connected: io::Result<()>, is_cluster_ip: bool) -> Finding {
    match connected {
        Err(error) => Finding::fail(NAME, format!("cannot reach {address}: {error}"), REMEDY),
        Ok(()) if is_cluster_ip => Finding::warn(
            NAME,
            format!("{address} is a ClusterIP: it works only while a service proxy runs"),
            REMEDY,
        ),
        Ok(()) => Finding::ok(NAME, format!("{address} is reachable")),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict, *};

    #[test]
    fn addresses_with_a_common_prefix_differ() {
        for (url, host, want) in [
            ("https://10.96.0.1:443", "10.96.0.1", true),
            ("https://10.96.0.10:443", "10.96.0.1", false),
            ("https://[fd00::1]:443", "[fd00::1]", true),
            ("https://[fd00::1:1]:443", "[fd00::1]", false),
        ] {
            assert_eq!(has_host(url, host), want, "{url} {host}");
        }
    }

    #[test]
    fn a_cluster_ip_of_the_api_server_is_a_warning() {
        let refused = || Err(io::ErrorKind::ConnectionRefused.into());
        for (connected, is_cluster_ip, verdict) in [
            (Ok(()), false, Verdict::Ok),
            (Ok(()), true, Verdict::Warn),
            (refused(), false, Verdict::Fail),
            (refused(), true, Verdict::Fail),
        ] {
            assert_eq!(finding("192.0.2.1:6443", connected, is_cluster_ip).verdict, verdict);
        }
    }
}
