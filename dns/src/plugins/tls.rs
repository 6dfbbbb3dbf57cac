//! `tls CERT KEY [CA]`: the certificate of the keys `tls://` and `https://` of a block. The servers are in `serve`.

use std::path::PathBuf;

use super::directive::Directive;
use crate::{
    config::Zones,
    corefile::{CorefileError, Statement, Word},
};

/// The files of a server over TLS. They are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerTls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Those that sign the certificates of clients; `None` for the system's.
    pub authority: Option<PathBuf>,
    pub client_auth: ClientAuth,
}

/// Whether clients have to show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    #[default]
    None,
    VerifyIfGiven,
    RequireAndVerify,
}

const USAGE: &str = "tls CERT KEY [CA]";

impl Directive for ServerTls {
    const NAME: &'static str = "tls";
    const SUMMARY: &'static str = "certificate of `tls://` and `https://`, from files that are followed";
    const OPTIONS: &'static [&'static str] = &["client_auth"];
    type Setting = Option<Self>;

    fn read(setting: &mut Option<Self>, statement: &Statement, _zones: &Zones) -> Result<(), CorefileError> {
        let (certificate, key, authority) = match statement.words.as_slice() {
            [certificate, key] => (certificate, key, None),
            [certificate, key, authority] => (certificate, key, Some(authority)),
            [] => {
                let remedy =
                    "certificates come from files here; let another program renew them, such as cert-manager";
                return Err(statement.refuse(remedy));
            }
            _ => return Err(statement.misused(USAGE)),
        };
        let mut tls = Self {
            certificate: certificate.path(),
            key: key.path(),
            authority: authority.map(Word::path),
            client_auth: ClientAuth::default(),
        };
        for option in &statement.body {
            option.no_body()?;
            match option.name.text.as_str() {
                "client_auth" => tls.client_auth = client_auth(option)?,
                "keylog" => {
                    return Err(
                        option.refuse("keys of connections are not written to files; remove the line")
                    );
                }
                _ => return Err(statement.unknown_option(option)),
            }
        }
        *setting = Some(tls);
        Ok(())
    }

    fn is_enabled(setting: &Option<Self>) -> bool {
        setting.is_some()
    }
}

fn client_auth(option: &Statement) -> Result<ClientAuth, CorefileError> {
    let [word] = option.exactly("client_auth nocert|verify_if_given|require_and_verify")?;
    match word.text.as_str() {
        "nocert" => Ok(ClientAuth::None),
        "verify_if_given" => Ok(ClientAuth::VerifyIfGiven),
        "require_and_verify" => Ok(ClientAuth::RequireAndVerify),
        "request" | "require" => {
            Err(word.refuse("a certificate that nobody verifies proves nothing; write `verify_if_given` or `require_and_verify`"))
        }
        _ => Err(word.refuse("write `nocert`, `verify_if_given` or `require_and_verify`")),
    }
}
