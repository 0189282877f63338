//! The listeners of every port, opened and closed as ports come and go.

use std::collections::HashMap;
use std::io;

use tokio::task::JoinSet;

use super::connections::{Service, accept};
use super::opener::Opener;
use super::{Shared, State};
use crate::spec::tap_name;
use crate::{API_ADDRESS, API_PORT, METADATA_ADDRESS};

pub struct Ports {
    shared: Shared,
    /// By `eni`. Dropping one ends its listeners and its connections.
    open: HashMap<String, Port>,
}

struct Port {
    /// A tap that was made anew has another.
    device: u32,
    listeners: JoinSet<()>,
    has_api: bool,
}

impl Ports {
    pub fn new(shared: Shared) -> Self {
        Ports {
            shared,
            open: HashMap::new(),
        }
    }

    /// Makes the listeners those of `state`. Ports that stay are not touched.
    pub async fn update(
        &mut self,
        state: &State,
        devices: &HashMap<String, u32>,
        opener: &Opener,
    ) -> io::Result<()> {
        let wanted: HashMap<&str, u32> = state
            .spec
            .ports
            .iter()
            .filter_map(|port| Some((port.eni.as_str(), *devices.get(&tap_name(&port.eni))?)))
            .collect();
        self.open
            .retain(|eni, port| wanted.get(eni.as_str()) == Some(&port.device));
        for (eni, device) in wanted {
            if !self.open.contains_key(eni) {
                let port = self.open_port(eni, device, opener).await?;
                self.open.insert(eni.to_owned(), port);
            }
            if state.spec.api.is_some() {
                self.open_api(eni, opener).await?;
            }
        }
        Ok(())
    }

    async fn open_port(&self, eni: &str, device: u32, opener: &Opener) -> io::Result<Port> {
        let tap = tap_name(eni);
        let mut listeners = JoinSet::new();
        let metadata = opener.tcp(&tap, METADATA_ADDRESS, 80).await?;
        let dns = opener
            .tcp(&tap, std::net::Ipv4Addr::UNSPECIFIED, 53)
            .await?;
        for (listener, service) in [(metadata, Service::Metadata), (dns, Service::Dns)] {
            let (eni, shared) = (eni.to_owned(), self.shared.clone());
            listeners.spawn(accept(listener, service, eni, shared));
        }
        Ok(Port {
            device,
            listeners,
            has_api: false,
        })
    }

    /// The relay's listener stays once it is there: without an API it closes what it accepts.
    async fn open_api(&mut self, eni: &str, opener: &Opener) -> io::Result<()> {
        let Some(port) = self.open.get_mut(eni).filter(|port| !port.has_api) else {
            return Ok(());
        };
        let listener = opener.tcp(&tap_name(eni), API_ADDRESS, API_PORT).await?;
        let (eni, shared) = (eni.to_owned(), self.shared.clone());
        port.listeners
            .spawn(accept(listener, Service::Api, eni, shared));
        port.has_api = true;
        Ok(())
    }
}
