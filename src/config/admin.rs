//! `[admin]`: where a relay answers over HTTP.

use std::net::SocketAddr;

use super::value::Section;
use crate::error::Result;

/// Health and metrics of a relay, over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// The address and port to listen at; None for no HTTP at all.
    pub listen: Option<SocketAddr>,
}

impl Admin {
    pub(super) fn build(section: &Section) -> Result<Self> {
        let listen = section.optional_text("listen", |text| parse(text).map(drop))?;
        Ok(Admin { listen: listen.and_then(|text| parse(text).ok()) })
    }
}

/// Numbers only: a name would have to be looked up, and may lead to several addresses.
fn parse(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is no address and port: write 127.0.0.1:9090, [::1]:9090, or 0.0.0.0:9090 for all")
    })
}
