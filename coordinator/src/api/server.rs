//! Listens for clients: plain HTTP on loopback, TLS under the cluster's authority on any other address.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use thiserror::Error;
use tokio::task::JoinHandle;

use super::{ApiLimits, BearerToken, Service, routes};

/// How long a client may take for the TLS handshake and for a request's headers: a slow mobile link needs a second or two.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// A server that listens. Dropping it closes all connections at once; [`stop`](Self::stop) lets answers finish.
#[must_use = "the server stops when this is dropped"]
pub struct ApiServer {
    address: SocketAddr,
    handle: Handle<SocketAddr>,
    task: Option<JoinHandle<std::io::Result<()>>>,
}

/// Why the server cannot listen.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address is taken or not this machine's.
    #[error(
        "the API cannot listen on {address}: {source}\nhint: choose another address with --api or api.listen, or stop what uses this one"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A token would travel in the clear.
    #[error(
        "the API does not listen on {address} without TLS\nhint: use a loopback address, or give it the cluster's certificate"
    )]
    TlsNeeded {
        /// The address.
        address: SocketAddr,
    },
}

impl ApiServer {
    /// Binds and begins to answer.
    ///
    /// `tls` is the cluster's server configuration; without it only loopback addresses will do.
    pub fn start(
        address: SocketAddr,
        tls: Option<rustls::ServerConfig>,
        service: Arc<dyn Service>,
        token: BearerToken,
        limits: &ApiLimits,
    ) -> Result<Self, ServeError> {
        if tls.is_none() && !address.ip().is_loopback() {
            return Err(ServeError::TlsNeeded { address });
        }
        let bind = |source| ServeError::Bind { address, source };
        let listener = TcpListener::bind(address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let bound = listener.local_addr().map_err(bind)?;
        let app = routes::router(service, token, limits).into_make_service();
        let handle = Handle::new();
        let mut server = axum_server::from_tcp(listener).map_err(bind)?.http1_only().handle(handle.clone());
        server = server.first_request_timeout(CLIENT_PATIENCE + limits.request_timeout);
        server.http_builder().http1().header_read_timeout(CLIENT_PATIENCE);
        let task = match tls {
            None => tokio::spawn(server.serve(app)),
            Some(config) => {
                let config = RustlsConfig::from_config(Arc::new(config));
                let acceptor = axum_server::tls_rustls::RustlsAcceptor::new(config).handshake_timeout(CLIENT_PATIENCE);
                tokio::spawn(server.acceptor(acceptor).serve(app))
            }
        };
        Ok(Self { address: bound, handle, task: Some(task) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nobody any more, lets answers finish until the deadline, then closes.
    pub async fn stop(mut self, deadline: Duration) {
        self.handle.graceful_shutdown(Some(deadline));
        if let Some(task) = self.task.take() {
            // A second more than the server gives its connections: it ends by itself.
            let ended = tokio::time::timeout(deadline + Duration::from_secs(1), task).await;
            if !matches!(ended, Ok(Ok(Ok(())))) {
                tracing::warn!("the API server did not end in time");
            }
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.handle.shutdown();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
