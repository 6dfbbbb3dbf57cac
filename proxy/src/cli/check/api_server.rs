//! Whether the API server is reached by an address that does not depend on us: on a fresh node nobody serves ClusterIPs.

use std::{
    io,
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use super::{super::source_args::SourceArgs, Finding};
use crate::{
    config::{Environment, Objects},
    error::chain,
    k8s::access::Access,
};

const NAME: &str = "api-server";
const PATIENCE: Duration = Duration::from_secs(3);
const REMEDY: &str = "name an address of its own with --api-server, such as https://192.0.2.1:6443";

pub fn check(source: SourceArgs) -> Finding {
    match source.objects(None) {
        Objects::Manifests(path) => match path.try_exists() {
            Ok(true) => Finding::ok("manifests", path.display().to_string()),
            Ok(false) => {
                Finding::fail("manifests", format!("{} does not exist", path.display()), "create it")
            }
            Err(error) => Finding::fail("manifests", error.to_string(), "let the agent read it"),
        },
        Objects::ApiServer(access) => server(&access),
    }
}

fn server(access: &Access) -> Finding {
    let (host, port) = match address(access) {
        Ok(address) => address,
        Err(sentence) => {
            return Finding::warn(NAME, sentence, "give --kubeconfig or --api-server, or --manifests");
        }
    };
    let is_cluster_ip = Environment::read().api_server.is_some_and(|url| leads_to(&url, &host));
    judge(&format!("{host}:{port}"), reach(&host, port), is_cluster_ip)
}

fn leads_to(url: &str, host: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|url| url.host() == Some(host))
}

fn address(access: &Access) -> Result<(String, u16), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(access.address()).map_err(|error| chain(&error))
}

fn reach(host: &str, port: u16) -> io::Result<()> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host.trim_matches(['[', ']']), port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn judge(place: &str, reached: io::Result<()>, is_cluster_ip: bool) -> Finding {
    match reached {
        Err(error) => Finding::fail(NAME, format!("{place} cannot be reached: {error}"), REMEDY),
        Ok(()) if is_cluster_ip => Finding::warn(
            NAME,
            format!("{place} is a ClusterIP: it answers only while somebody serves it"),
            REMEDY,
        ),
        Ok(()) => Finding::ok(NAME, format!("{place} answers")),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn addresses_that_begin_alike_are_different_ones() {
        for (url, host, want) in [
            ("https://10.96.0.1:443", "10.96.0.1", true),
            ("https://10.96.0.10:443", "10.96.0.1", false),
            ("https://[fd00::1]:443", "[fd00::1]", true),
            ("https://[fd00::1:1]:443", "[fd00::1]", false),
        ] {
            assert_eq!(leads_to(url, host), want, "{url} {host}");
        }
    }

    #[test]
    fn a_cluster_ip_is_no_way_to_the_api_server() {
        let refused = || Err(io::ErrorKind::ConnectionRefused.into());
        for (reached, is_cluster_ip, verdict) in [
            (Ok(()), false, Verdict::Ok),
            (Ok(()), true, Verdict::Warn),
            (refused(), false, Verdict::Fail),
            (refused(), true, Verdict::Fail),
        ] {
            assert_eq!(judge("192.0.2.1:6443", reached, is_cluster_ip).verdict, verdict);
        }
    }
}
