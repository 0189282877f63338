//! Accepting what guests connect to, so that no guest can take more than its share.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;

use super::{Shared, forward, http, relay};

#[derive(Debug, Clone, Copy)]
pub enum Service {
    Metadata,
    Dns,
    Api,
}

impl Service {
    /// How many connections one port may have at once. Further ones wait in the listener's
    /// backlog, where they cost the kernel a little and us nothing.
    fn connections_max(self) -> usize {
        match self {
            Service::Metadata => 64,
            Service::Dns => 16,
            Service::Api => 64,
        }
    }
}

/// Places for all ports of a VPC together: each is also a connection of the cloud's API, which must
/// be left to others.
pub struct ApiPlaces(Semaphore);

/// An account that uses the API from its guests has some connections a guest, most of them for
/// moments.
const API_CONNECTIONS_MAX: usize = 256;

impl Default for ApiPlaces {
    fn default() -> Self {
        ApiPlaces(Semaphore::new(API_CONNECTIONS_MAX))
    }
}

impl ApiPlaces {
    /// A place, if there is one left.
    fn take(&self) -> Option<SemaphorePermit<'_>> {
        self.0.try_acquire().ok()
    }
}

/// Accepts connections of the port `eni` until the task is dropped, which ends them all.
pub async fn accept(listener: TcpListener, service: Service, eni: String, shared: Shared) {
    let room = Arc::new(Semaphore::new(service.connections_max()));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = room.clone().acquire_owned().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let (eni, shared) = (eni.clone(), shared.clone());
                connections.spawn(async move {
                    handle(stream, service, &eni, &shared).await;
                    drop(place);
                });
            }
            // The guest gave up, or files ran out: neither goes away faster by asking again.
            Err(error) => {
                tracing::debug!(%error, eni, "accepting failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn handle(stream: TcpStream, service: Service, eni: &str, shared: &Shared) {
    match service {
        Service::Metadata => http::serve(stream, eni, shared).await,
        Service::Dns => forward::serve_stream(stream, shared).await,
        Service::Api => {
            // Who finds no place is hung up on: waiting would hold one of the port's.
            if let (Some(api), Some(_place)) = (shared.state().spec.api, shared.api_places.take()) {
                relay::run(stream, api).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_of_a_vpc_share_the_places_at_the_api() {
        let places = ApiPlaces::default();
        let mut taken: Vec<_> = (0..API_CONNECTIONS_MAX).map(|_| places.take()).collect();
        assert!(taken.iter().all(Option::is_some));
        assert!(places.take().is_none());
        taken.pop();
        assert!(places.take().is_some());
    }
}
