//! Notifications of the kernel about links, addresses and routes.

pub fn run(octets: &[u8]) {
    proxy::datapath::read_notification(octets);
}
