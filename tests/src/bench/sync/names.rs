//! Queries for endpoints' names to the measured agent.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    str::FromStr as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hickory_server::proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};

use crate::lab::kernel::netns::Netns;

/// The agent's DNS address in the node's network namespace.
pub const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);
/// A change that takes longer is lost.
const TIMEOUT: Duration = Duration::from_secs(20);
/// A lost query is repeated after this time.
const LOST: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Names(UdpSocket);

impl Names {
    pub fn open(netns: &Netns) -> Result<Self> {
        let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot bind"))?;
        socket.connect(LISTEN).context("cannot connect")?;
        socket.set_read_timeout(Some(LOST)).context("cannot set a time limit")?;
        Ok(Self(socket))
    }

    /// Waits until an endpoint's name resolves. Returns the time since `began`.
    pub fn until_answered(&self, service: &str, endpoint: Ipv4Addr, began: Instant) -> Result<Duration> {
        let dashed = endpoint.to_string().replace('.', "-");
        let name = Name::from_str(&format!("{dashed}.{service}.default.svc.cluster.local."))?;
        let mut question = Message::query();
        question.add_query(Query::query(name, RecordType::A));
        let question = question.to_vec()?;
        while !self.is_answered(&question)? {
            ensure!(began.elapsed() < TIMEOUT, "the name does not resolve within {TIMEOUT:?}");
        }
        Ok(began.elapsed())
    }

    fn is_answered(&self, question: &[u8]) -> Result<bool> {
        self.0.send(question).context("cannot send a query")?;
        let mut reply = [0; 512];
        let Ok(length) = self.0.recv(&mut reply) else { return Ok(false) };
        // NOERROR, and one answer.
        Ok(length > 8 && reply[..2] == question[..2] && reply[3] & 0xf == 0 && reply[7] == 1)
    }
}
